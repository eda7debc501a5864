"""Generated images as files of their own: a directory of PNGs, or one .npz."""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from flowvae.data.images import SUFFIXES
from flowvae.errors import UserError, quoted
from flowvae.figures import FORMATS
from flowvae.runs.files import check_place, replacing


def is_grid(out: Path) -> bool:
    """Whether images go into one picture, rather than into a directory or an .npz file.

    A path without a suffix is a directory, and so is whatever is one already.

    Raises:
        UserError: if it is neither a picture, a directory nor an .npz file.
        OSError: if none can be made there.

    >>> is_grid(Path("samples.pdf")), is_grid(Path("samples")), is_grid(Path("samples.npz"))
    (True, False, False)
    """
    if out.is_dir() or out.suffix in ("", ".npz", *FORMATS):
        check_place(out, folder=out.is_dir() or not out.suffix)
        return out.suffix in FORMATS and not out.is_dir()
    raise UserError(
        f"{out} ends in {quoted(out.suffix)}; choose .png or .pdf for a grid, .npz, or a directory, for one "
        "PNG per image"
    )


def save_images(groups: Mapping[str, Tensor], names: Sequence[str], out: Path, **notes: str) -> None:
    """Save images [N, C, H, W] in [0, 1] of one or more groups, the same ``names`` for each group.

    An .npz file has an array for each group (float32), ``names``, and the ``notes``. In a directory, an image
    is ``NAME.png`` of 8 bits; of several groups, ``GROUP/NAME.png``. A note says where images are whose names
    are paths out of the directory, and a warning counts other PNG files there, such as those of an earlier
    call.

    Raises:
        UserError: if two images would have one file, or a file cannot have the name of its image.
    """
    if out.suffix == ".npz" and not out.is_dir():
        arrays = {group: images.detach().cpu().numpy() for group, images in groups.items()}
        save_arrays(
            out, **arrays, names=np.array(names), **{key: np.array(note) for key, note in notes.items()}
        )
        return
    files = files_of(list(groups), names, out)
    places = [file for found in files.values() for file in found]
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        place, number = places[names.index(outside[0])], f" ({len(outside):,} such names)"
        print(
            f"flowvae: note: images stay inside {out}, so {quoted(outside[0])} is {place}"
            + (number if len(outside) > 1 else ""),
            file=sys.stderr,
        )
    for group, images in groups.items():
        pixels = (images.detach().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for file, image in zip(files[group], pixels, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as partial:
                Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(partial, "PNG")
    for folder in sorted({file.parent for file in places}):
        others = set(folder.glob("*.png")).difference(places)
        if others:
            found = "another image" if len(others) == 1 else f"{len(others):,} other images"
            print(f"flowvae: warning: {folder} contains {found}, from before", file=sys.stderr)


def files_of(groups: Sequence[str], names: Sequence[str], out: Path) -> dict[str, list[Path]]:
    """Return the file of each image of each group in a directory, as `save_images` names them.

    Raises:
        UserError: if two images would have one file, or a file cannot have the name of its image.
    """
    folders = {group: out.joinpath(*_inside(Path(group))) if len(groups) > 1 else out for group in groups}
    files = {group: [folder / _file(Path(name)) for name in names] for group, folder in folders.items()}
    for found in files.values():
        for name, file in zip(names, found, strict=True):
            if not _can_be(file):
                raise UserError(f"no file can have the name {quoted(name)}; write an .npz file instead")
    places = Counter(file for found in files.values() for file in found)
    for file, number in places.items():
        if number > 1:
            raise UserError(f"two images would be written to {file}; write an .npz file instead")
    return files


def save_arrays(out: Path, **arrays: np.ndarray) -> None:
    """Save arrays into an .npz file."""
    with replacing(out) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _can_be(path: Path) -> bool:
    """Whether the system's encoding has the characters of a path."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _inside(name: Path) -> list[str]:
    """Return the parts of a path, without those that lead out of a directory; at least one."""
    return [part for part in name.parts if part not in (name.anchor, "..")] or ["image"]


def _file(name: Path) -> Path:
    """Return the file of an image, relative to a directory that it cannot leave.

    >>> _file(Path("/home/../me/a.jpg")), _file(Path("test/3"))
    (PosixPath('home/me/a.png'), PosixPath('test/3.png'))
    """
    *folders, last = _inside(name)
    stem = name.stem if name.suffix.lower() in SUFFIXES else last
    return Path(*folders, f"{stem}.png")
