"""CelebA, aligned and cropped, as published: a directory of JPEG files and list_eval_partition.txt.

Z. Liu et al., "Deep learning face attributes in the wild", ICCV 2015;
http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html. 202,599 faces of 178 x 218 pixels, of which the square of
148 x 148 around the face is taken and resized, as in most work on generative models since A. Larsen et al.,
"Autoencoding beyond pixels using a learned similarity metric", ICML 2016 (Real NVP among it).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from flowvae.data import images
from flowvae.data.cache import cached_array, fingerprint
from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import MAX_TEXT, read_bytes, unreadable
from flowvae.data.splits import make_dataset, make_split
from flowvae.errors import UserError, quoted

PARTITION = "list_eval_partition.txt"
KIND = "CelebA's list of partitions"
SIZE = (178, 218)
FACE: images.Box = (15, 40, 163, 188)
"""left, top, right, bottom of the square around the face"""
IMAGE_SIZE = 64
"""side in pixels that it is resized to by default"""
PLACES = ("img_align_celeba", "Img/img_align_celeba", "img_align_celeba/img_align_celeba")


def load(directory: Path, image_size: int | None = None) -> Dataset:
    """The published splits train, valid and test, uint8 [N, 3, image_size, image_size], without labels.

    ``directory`` contains the list, or Eval with the list, and img_align_celeba, or Img with it. The
    resized images are kept in the cache and memory-mapped: at 64 x 64 they are 2.5 GB.
    """
    side = image_size or IMAGE_SIZE
    partition = next(
        (path for path in (directory / PARTITION, directory / "Eval" / PARTITION) if path.exists()), None
    )
    if partition is None:
        raise UserError(
            f"{directory} has no file {PARTITION}; add it: it assigns the images to train, valid and test"
        )
    pictures = next((directory / place for place in reversed(PLACES) if (directory / place).is_dir()), None)
    if pictures is None:
        raise UserError(f"{directory} has no directory img_align_celeba; unpack img_align_celeba.zip there")
    names = _read_partition(partition)
    stamps = _stamps(pictures)
    train, valid, test = (_read_split(pictures, stamps, split, side) for split in names)
    return make_dataset(directory, train, valid, test)


def face(file: Path | IO[bytes], where: object, side: int) -> np.ndarray:
    """The square around the face in a published file, uint8 [3, side, side]; ``where`` names it in errors."""
    return images.decode(file, 3, where=where, size=SIZE, box=FACE, side=side)


def _read_partition(path: Path) -> list[list[str]]:
    """The file names of train, valid and test (0, 1 and 2)."""
    names: list[list[str]] = [[], [], []]
    lines = read_bytes(path, KIND, MAX_TEXT).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 or words[1] not in ("0", "1", "2") or Path(words[0]).name != words[0]:
            raise unreadable(
                path, KIND, f"line {number} is {quoted(line, 60)}, not a file name and 0, 1 or 2"
            )
        names[int(words[1])].append(words[0])
    for split, found in zip(("train", "valid", "test"), names, strict=True):
        if not found:
            raise unreadable(path, KIND, f"it has no {split} images")
    return names


def _stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of every file, which tell whether the cache is still valid."""
    with os.scandir(directory) as entries:
        files = [entry for entry in entries if entry.is_file()]  # a link may lead nowhere
        return {entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns) for entry in files}


def _read_split(directory: Path, stamps: dict[str, tuple[int, int]], names: list[str], side: int) -> Split:
    missing = [name for name in names if name not in stamps]
    if missing:
        raise UserError(
            f"{directory} does not contain {len(missing):,} of the images in {PARTITION}, such as "
            f"{quoted(missing[0])}; unpack img_align_celeba.zip again"
        )

    def faces() -> Iterator[np.ndarray]:
        for name in names:
            yield face(directory / name, directory / name, side)

    key = fingerprint(directory.resolve(), FACE, *((name, *stamps[name]) for name in names))
    shape = (len(names), 3, side, side)
    return make_split(str(directory), cached_array(f"celeba-{side}-{key}", shape, np.uint8, faces))
