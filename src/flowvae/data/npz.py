"""Data sets in one .npz file of NumPy arrays.

Arrays ``train``, ``test`` and perhaps ``valid`` (or ``x_train``, ``train_images``, ... as other projects
call them), each uint8 or bool and of one of these forms:

- [N, H, W], [N, C, H, W] or [N, H, W, C], with C = 1 or 3
- [N, side * side]: flat square images
- [N, ceil(side * side / 8)]: the same, binary, packed eight pixels a byte by ``np.packbits(axis=1)``

or one array ``images`` with its splits as ``train_idx``, ``valid_idx``, ``test_idx``, or without them.
Integer labels stand beside the images as ``train_labels`` or ``y_train``.
"""

import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from flowvae.data.archives import open_zipped
from flowvae.data.dataset import Dataset, Split
from flowvae.data.larochelle import larochelle_name
from flowvae.data.reading import check_memory, read_up_to, unreadable
from flowvae.data.splits import hold_out, make_dataset, make_split, split_at_random
from flowvae.errors import UserError

SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
IMAGE_KEYS = ("{}", "{}_images", "x_{}")
LABEL_KEYS = ("{}_labels", "y_{}", "{}_labels_inferred")
INDEX_KEYS = ("{}_idx", "{}_indices")
NUMBERS = "biuf"
LONGEST_HEADER = 2**16
"""the most bytes before the numbers of an array; 128 are usual"""


def load(path: Path) -> Dataset:
    """The data set in the file at ``path``. Raises UserError for one that is corrupt or of no known form."""
    try:
        with path.open("rb") as file:
            return load_open(file, path)
    except OSError as error:
        raise unreadable(path, "an .npz file", error.strerror or error) from error


def load_open(file: IO[bytes], path: Path) -> Dataset:
    """The data set in an open file; ``path`` names it in errors and gives the data set its name."""
    arrays = _read_arrays(file, path)
    found = {split: _find(arrays, IMAGE_KEYS, split) for split in SPLITS}
    if found["train"] and found["test"]:
        splits = {
            split: _make_split(path, arrays, key, _find(arrays, LABEL_KEYS, split))
            for split, key in found.items()
            if key
        }
        train, test = splits["train"], splits["test"]
        train, valid = (train, splits["valid"]) if "valid" in splits else hold_out(path, train)
        return make_dataset(path, train, valid, test, larochelle_name(train, valid, test))
    if "images" in arrays:
        everything = _make_split(path, arrays, "images", "labels" if "labels" in arrays else None)
        if any(_find(arrays, INDEX_KEYS, split) for split in SPLITS):
            train, valid, test = (_indexed(path, arrays, everything, split) for split in SPLITS)
        else:
            train, valid, test = split_at_random(path, everything)
        return make_dataset(path, train, valid, test)
    raise UserError(
        f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}; "
        "give it train and test (and valid), or images"
    )


def _find(arrays: dict[str, np.ndarray], patterns: tuple[str, ...], split: str) -> str | None:
    """The key in ``arrays`` that one of the ``patterns`` makes for a split."""
    keys = (pattern.format(name) for name in SPLITS[split] for pattern in patterns)
    return next((key for key in keys if key in arrays), None)


def _read_arrays(file: IO[bytes], path: Path) -> dict[str, np.ndarray]:
    """The arrays whose names mean something here; nothing is decoded before its size is known."""
    known = {"images", "labels"} | {
        pattern.format(name)
        for names in SPLITS.values()
        for name in names
        for pattern in IMAGE_KEYS + LABEL_KEYS + INDEX_KEYS
    }
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {key: info for key, info in members.items() if key in known}
            check_memory(path, sum(info.file_size for info in wanted.values()))
            arrays = {key: _read_array(path, key, archive, info) for key, info in wanted.items()}
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy have many ways to say that bytes are wrong
        raise unreadable(path, "an .npz file", error) from error
    return arrays


def _read_array(path: Path, key: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One .npy file of numbers. Object arrays, which would need pickle, are refused by their header."""
    with open_zipped(archive, info) as file:
        head = io.BytesIO(read_up_to(file, LONGEST_HEADER))
        version = np.lib.format.read_magic(head)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(head)
        if dtype.hasobject:
            raise UserError(f"array {key} in {path} holds Python objects, which could run code; save uint8")
        if dtype.kind not in NUMBERS:
            raise UserError(f"array {key} in {path} holds no plain numbers; save uint8")
        size = math.prod(shape) * dtype.itemsize
        if info.file_size - head.tell() != size:
            raise ValueError(f"array {key} is not as long as its header says")
        file.seek(head.tell())
        data = read_up_to(file, size)
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.asarray(array, order="C")


def _make_split(path: Path, arrays: dict[str, np.ndarray], key: str, label_key: str | None) -> Split:
    where = f"array {key} in {path}"
    images = _as_images(path, where, arrays[key])
    return make_split(where, images, arrays[label_key] if label_key else None)


def _as_images(path: Path, where: str, array: np.ndarray) -> np.ndarray:
    """uint8 [N, C, H, W] from any of the forms above."""
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{where} has type {array.dtype}; save 8-bit pixels (0 to 255, or 0 and 1) as uint8")
    if array.ndim == 2:
        return _unflatten(path, where, array)
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    raise UserError(
        f"{where} has shape {array.shape}; give [N, H, W], or [N, C, H, W] or [N, H, W, C] with C = 1 or 3, "
        "or flat or packed square images"
    )


def _unflatten(path: Path, where: str, array: np.ndarray) -> np.ndarray:
    """[N, 1, side, side] from [N, side * side] pixels or [N, ceil(side * side / 8)] packed bytes.

    A few lengths fit two forms (25 bytes: 5 x 5 pixels, or 14 x 14 bits); there we do not guess.
    """
    count, length = array.shape
    flat_sides = [math.isqrt(length)] if math.isqrt(length) ** 2 == length else []
    largest = math.isqrt(8 * length)
    packed_sides = [side for side in (largest - 1, largest) if math.ceil(side * side / 8) == length]
    if len(flat_sides + packed_sides) != 1:
        fitting = "more than one" if flat_sides + packed_sides else "no"
        raise UserError(
            f"{where} has rows of {length} bytes: {fitting} square image, flat or packed; give [N, H, W]"
        )
    if flat_sides:
        return array.reshape(count, 1, *2 * flat_sides)
    side = packed_sides[0]
    check_memory(path, count * side * side)
    padding = 8 * length - side * side
    if np.any(array[:, -1] & (2**padding - 1)):
        raise UserError(f"{where} has rows of {length} bytes, but they are not packed bits; give [N, H, W]")
    return np.unpackbits(array, axis=1, count=side * side).reshape(count, 1, side, side)


def _indexed(path: Path, arrays: dict[str, np.ndarray], everything: Split, split: str) -> Split:
    """The images that the array of indices of one split picks out."""
    key = _find(arrays, INDEX_KEYS, split)
    if key is None:
        raise UserError(f"{path} has indices for other splits but not {split}; add {split}_idx")
    indices, count = arrays[key], len(everything.images)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise UserError(f"array {key} in {path} is {indices.dtype} {indices.shape}; give integers [N]")
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        raise UserError(f"array {key} in {path} points outside its images; count from 0 to {count - 1}")
    labels = None if everything.labels is None else everything.labels.numpy()[indices]
    return make_split(f"array {key} in {path}", everything.images.numpy()[indices], labels)
