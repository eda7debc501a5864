"""Omniglot as published: images_background and images_evaluation, as directories or as the .zip files.

B. Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015;
https://github.com/brendenlake/omniglot. Directories of 50 alphabets contain one for each character, with 20
drawings of 105 x 105 pixels, ink black on white. Here ink is white on black, as in MNIST.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from flowvae.data import images
from flowvae.data.archives import open_zipped
from flowvae.data.dataset import Dataset
from flowvae.data.reading import check_memory, open_file, read_up_to, unreadable
from flowvae.data.splits import hold_out, make_dataset, make_split, shuffled
from flowvae.errors import UserError, quoted

SIZE = (105, 105)
IMAGE_SIZE = 28
"""side in pixels that drawings are resized to by default"""
MAX_FILE = 2**20
"""largest size of a file in an archive in bytes; the drawings have a few hundred"""


def load(directory: Path, image_size: int | None = None) -> Dataset:
    """Train and valid are the background alphabets, split at random, test the evaluation alphabets.

    Labels number all characters by the names of their alphabets and directories, in alphabetical order.
    """
    side = image_size or IMAGE_SIZE
    inside = next(
        (path for path in (directory, directory / "python") if any(path.glob("images_background*"))),
        directory,
    )
    parts = [_read_part(inside, f"images_{part}", side) for part in ("background", "evaluation")]
    characters = sorted({character for _, names in parts for character in names})
    numbers = {character: number for number, character in enumerate(characters)}
    background, test = (
        make_split(f"{part} of {directory}", drawings, np.array([numbers[name] for name in names]))
        for part, (drawings, names) in zip(("background", "evaluation"), parts, strict=True)
    )
    train, valid = hold_out(directory, shuffled(background))
    return make_dataset(directory, train, valid, test)


def drawing(file: Path | IO[bytes], where: object, side: int) -> np.ndarray:
    """One published file as uint8 [1, side, side], white on black; ``where`` names it in errors.

    The more frequent colour is the paper: some copies of the set have black paper.
    """
    pixels = images.decode(file, 1, where=where, size=SIZE, side=side)
    return 255 - pixels if pixels.mean() > 127.5 else pixels


def _read_part(directory: Path, part: str, side: int) -> tuple[np.ndarray, list[str]]:
    """Drawings [N, 1, side, side] and the name of each one's character, in alphabetical order."""
    if (directory / part).is_dir():
        files = _files_of_directory(directory / part)
    elif (directory / f"{part}.zip").is_file():
        files = _files_of_archive(directory / f"{part}.zip")
    else:
        raise UserError(f"{directory} has neither a directory {part} nor a file {part}.zip; add one")
    drawings, characters = [], []
    for character, where, file in files:
        drawings.append(drawing(file, where, side))
        characters.append(character)
        check_memory(directory, len(drawings) * side * side)
    if not drawings:
        raise UserError(
            f"{directory / part} has no images in directories ALPHABET/CHARACTER; get the published files"
        )
    return np.stack(drawings), characters


def _files_of_directory(directory: Path) -> Iterator[tuple[str, object, Path]]:
    for path in sorted(directory.glob("*/*/*.png")):
        yield "/".join(path.parts[-3:-1]), path, path


def _files_of_archive(path: Path) -> Iterator[tuple[str, object, IO[bytes]]]:
    try:
        with open_file(path) as packed, zipfile.ZipFile(packed) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                parts = info.filename.split("/")
                if len(parts) < 3 or not parts[-1].endswith(".png") or parts[0] == "__MACOSX":
                    continue
                where = f"{quoted(info.filename)} in {path}"
                if info.file_size > MAX_FILE:
                    raise UserError(f"{where} is too large for a drawing; get {path.name} again")
                with open_zipped(archive, info) as file:
                    data = io.BytesIO(read_up_to(file, info.file_size))
                yield "/".join(parts[-3:-1]), where, data
    except UserError:
        raise
    except Exception as error:  # zipfile and zlib raise many kinds of errors for damaged files
        raise unreadable(path, "a .zip archive", error) from error
