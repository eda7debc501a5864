"""Data sets in one .npz file of NumPy arrays, or images in one .npy file.

Arrays of images for train, test and optionally valid, in a form that ``flowvae.data.arrays`` reads. They may
have the names of other projects: ``train``, ``x_train``, ``train_images``, ``Test_imgs``. Or one array of
images, called ``images`` or ``imgs``, or anything if no other can be images, with its splits as
``train_idx``, ``valid_idx``, ``test_idx``, or without them. Labels are ``labels``,
``train_labels`` or ``y_train``; zeros where a pixel is missing are ``observed`` or ``train_observed``.
"""

import io
import math
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from flowvae.config import Marker
from flowvae.data.archives import open_zipped
from flowvae.data.arrays import (
    NUMBERS,
    ValueRange,
    are_marked,
    as_bytes,
    as_classes,
    as_images,
    as_observed,
    can_be_images,
    covered,
)
from flowvae.data.dataset import Dataset, Split
from flowvae.data.larochelle import larochelle_name
from flowvae.data.reading import Readable, check_memory, open_file, read_up_to, unreadable
from flowvae.data.splits import (
    SPLIT_NAMES,
    hold_out,
    make_dataset,
    make_split,
    split_at_random,
    split_called,
)
from flowvae.errors import UserError

WORDS = {
    "images": {"images", "image", "imgs", "img", "x", "data", "pixels"},
    "labels": {"labels", "label", "y", "targets", "target", "inferred"},
    "indices": {"idx", "indices", "index"},
    "observed": {"observed"},
}
"""words for the content in an array's name; the name of a split alone means images"""
LONGEST_HEADER = 2**16
"""largest number of bytes before the values of an array; usually 128"""
MOST_NAMED = 10
"""largest number of arrays that a message lists"""

Role = tuple[str, str | None]
"""content of an array: images, labels, indices or observed; and its split, or None for all images"""


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    start: int
    """offset of its numbers, in bytes"""


def load(
    path: Path, value_range: ValueRange | None = None, marker: Marker | None = None, whole: bool = False
) -> Dataset:
    """Read the data set in a file; raise UserError if it is damaged or of an unknown form.

    The ends of ``value_range`` become 0 and 255; pixels with ``marker`` are missing. With ``whole``, test has
    all images if the file has no splits.
    """
    try:
        with open_file(path) as file:
            return load_open(file, path, value_range, marker, whole)
    except OSError as error:
        raise unreadable(path, "an .npz file", error.strerror or error) from error


def load_npy(
    path: Path, value_range: ValueRange | None = None, marker: Marker | None = None, whole: bool = False
) -> Dataset:
    """Read the images in an .npy file, which has no splits; otherwise like `load`."""
    try:
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            check_memory(path, size)
            file.seek(0)
            array = _read_array(f"the array in {path}", file, size)
    except UserError:
        raise
    except Exception as error:  # NumPy raises many kinds of errors for damaged files
        raise unreadable(path, "an .npy file", error) from error
    where = f"the array in {path}"
    images, observed = _as_images(path, {where: array}, {}, value_range, marker)[where]
    return _without_splits(path, make_split(str(path), images, None, observed), whole)


def _without_splits(path: Path, images: Split, whole: bool, notes: tuple[str, ...] = ()) -> Dataset:
    if whole:
        none = images.take(slice(0))
        return make_dataset(path, none, none, images, notes=notes)
    return make_dataset(path, *split_at_random(path, images), notes=notes)


def load_open(
    file: IO[bytes],
    path: Path,
    value_range: ValueRange | None = None,
    marker: Marker | None = None,
    whole: bool = False,
) -> Dataset:
    """Read the data set in an open file; ``path`` names it, also in errors."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            keys = _roles(path, archive, members)
            check_memory(path, sum(members[key].file_size for key in keys.values()))
            arrays = {
                role: _read_member(path, key, archive, members[key])
                for role, key in keys.items()
                if role[0] != "labels"
            }
            labels = {
                role[1]: _read_labels(path, key, archive, members[key])
                for role, key in keys.items()
                if role[0] == "labels"
            }
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors for damaged files
        raise unreadable(path, "an .npz file", error) from error
    where = {role: f"array {key} in {path}" for role, key in keys.items()}
    parts = {split: where[kind, split] for kind, split in arrays if kind == "images"}
    masks = {
        name: (where["observed", split], arrays["observed", split])
        for split, name in parts.items()
        if ("observed", split) in arrays
    }
    images = _as_images(
        path, {name: arrays["images", split] for split, name in parts.items()}, masks, value_range, marker
    )
    notes = ()
    if unused := sorted(members.keys() - keys.values()):
        notes = (f"left out: array {_listed(unused)}",)
    if odd := [keys["labels", split] for split, found in labels.items() if found is None]:
        labels = {}
        notes += (f"left out: labels in array {_listed(odd)}, as classes are one whole number per image",)
    splits = {
        split: make_split(name, images[name][0], labels.get(split), images[name][1])
        for split, name in parts.items()
    }
    if None in splits:
        chosen = {role[1]: array for role, array in arrays.items() if role[0] == "indices"}
        if not chosen:
            return _without_splits(path, splits[None], whole, notes)
        train, valid, test = (
            _indexed(path, splits[None], split, keys.get(("indices", split)), chosen.get(split))
            for split in SPLIT_NAMES
        )
        return make_dataset(path, train, valid, test, notes=notes)
    train, test = splits["train"], splits["test"]
    train, valid = (train, splits["valid"]) if "valid" in splits else hold_out(path, train)
    return make_dataset(path, train, valid, test, larochelle_name(train, valid, test), notes=notes)


def read_arrays(path: Path, kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Read arrays of an .npz file by their names, as far as they are there.

    Args:
        path: the file.
        kinds: for each name, the kinds of numbers or text that it may have, in NumPy's letters.

    Raises:
        UserError: if the file is damaged or too large, or an array is of another kind.
    """
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            check_memory(path, sum(info.file_size for key, info in members.items() if key in kinds))
            return {
                key: _read_member(path, key, archive, info, kinds[key])
                for key, info in members.items()
                if key in kinds
            }
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors for damaged files
        raise unreadable(path, "an .npz file", error) from error


def has_splits(path: Path) -> bool:
    """Whether a file names splits; if it cannot be read, `load` says why."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            roles = _roles(path, archive, members)
    except Exception:  # as in `load_open`
        return True
    return ("images", None) not in roles or any(kind == "indices" for kind, _ in roles)


def type_of(path: Path) -> np.dtype:
    """Return the type of the images in a file without splits that can be read."""
    with open_file(path) as file:
        if path.suffix.lower() == ".npy":
            return _read_header(file).dtype
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            header = _header_of(archive, members[_roles(path, archive, members)["images", None]])
    assert header is not None
    return header.dtype


def _roles(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[Role, str]:
    """Return the arrays to read by their content: by their names, or the only one that can be images."""
    keys: dict[Role, str] = {}
    for key in sorted(members, key=lambda key: (len(_words(key)), key)):
        if (role := _role(key)) is not None:
            keys.setdefault(role, key)
    whole = ("images", "train") not in keys or ("images", "test") not in keys
    if whole and ("images", None) not in keys:
        headers = {
            key: header
            for key, info in members.items()
            if (header := _header_of(archive, info)) is not None and header.dtype.kind in NUMBERS
        }
        possible = [
            key
            for key, header in headers.items()
            if can_be_images(header.shape) and (_role(key) or ("images", None))[0] == "images"
        ]
        if len(possible) != 1 or _role(possible[0]) not in (None, ("images", "train")):
            known = [f"{key} ({header.dtype} {list(header.shape)})" for key, header in headers.items()]
            raise UserError(
                f"{path} has the arrays {_listed(known) or 'none'}; give it train and test (and valid), or "
                "images"
            )
        keys["images", None] = possible[0]
        if _role(possible[0]) is not None:
            keys |= {(kind, None): key for (kind, split), key in keys.items() if split == "train"}
    roles = [
        *(
            (kind, split)
            for kind in ("images", "labels", "observed")
            for split in ((None,) if whole else SPLIT_NAMES)
        ),
        *(("indices", split) for split in (SPLIT_NAMES if whole else ())),
    ]
    return {role: keys[role] for role in roles if role in keys}


def _words(key: str) -> list[str]:
    """Split the name of an array into words.

    >>> _words("X_train"), _words("trainImages")
    (['x', 'train'], ['train', 'images'])
    """
    return re.findall(r"[^_\W]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).casefold())


def _role(key: str) -> Role | None:
    words = _words(key)
    splits = [split_called(word) for word in words]
    split = next(filter(None, splits), None)
    rest = {word for word, found in zip(words, splits, strict=True) if found is None}
    if len(words) - len(rest) > 1 or not words:
        return None
    if not rest:
        return "images", split
    return next(((kind, split) for kind, known in WORDS.items() if rest <= known), None)


def _listed(names: list[str]) -> str:
    return ", ".join([*names[:MOST_NAMED], *(["..."] if len(names) > MOST_NAMED else [])])


def _header_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header | None:
    """Read the header of an array; None if the member is not an array."""
    if not info.filename.endswith(".npy"):
        return None
    with open_zipped(archive, info) as file:
        return _read_header(file)


def _read_header(file: Readable) -> Header:
    head = io.BytesIO(read_up_to(file, LONGEST_HEADER))
    version = np.lib.format.read_magic(head)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about arrays of Python 2, and about the text of damaged headers
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(head)
    return Header(shape, fortran_order, dtype, head.tell())


def _read_member(
    path: Path, key: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, kinds: str = NUMBERS
) -> np.ndarray:
    with open_zipped(archive, info) as file:
        return _read_array(f"array {key} in {path}", file, info.file_size, kinds)


def _read_labels(path: Path, key: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray | None:
    """Read labels as integers [N]; None if they are not classes."""
    header = _header_of(archive, info)
    if header is None or header.dtype.kind not in NUMBERS:
        return None
    return as_classes(_read_member(path, key, archive, info))


def _read_array(where: str, file: IO[bytes], length: int, kinds: str = NUMBERS) -> np.ndarray:
    """Read an .npy file. Object arrays, which need pickle, are refused by their header."""
    header = _read_header(file)
    if header.dtype.hasobject:
        raise UserError(f"{where} contains Python objects, which could run code; save uint8")
    if header.dtype.kind not in kinds:
        raise UserError(f"{where} does not contain plain numbers; save uint8")
    size = math.prod(header.shape) * header.dtype.itemsize
    if length - header.start != size:
        raise ValueError(f"{where.partition(' in ')[0]} is not as long as its header says")
    file.seek(header.start)
    data = read_up_to(file, size)
    if header.dtype.kind == "U":
        characters = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(header.dtype.byteorder))
        if np.any(characters > sys.maxunicode):
            raise ValueError(f"{where.partition(' in ')[0]} has characters that do not exist")
    array = np.frombuffer(data, header.dtype).reshape(
        header.shape, order="F" if header.fortran_order else "C"
    )
    return np.asarray(array, order="C")


def _as_images(
    path: Path,
    arrays: dict[str, np.ndarray],
    masks: dict[str, tuple[str, np.ndarray]],
    value_range: ValueRange | None,
    marker: Marker | None,
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Return the pixels of each array, uint8 [N, C, H, W], and which are known, bool; None if all are.

    Args:
        path: the file.
        arrays: by their names in errors.
        masks: the names and arrays of zeros where a pixel is missing, by the names of ``arrays``.
        value_range: values that become 0 and 255.
        marker: what marks missing pixels.
    """
    images = {where: as_images(path, where, array) for where, array in arrays.items()}
    known: dict[str, np.ndarray] = {}
    for where, array in images.items():
        if where in masks:
            known[where] = as_observed(path, *masks[where], array)
        if marker is not None:
            known[where] = known.get(where, np.True_) & ~are_marked(array, marker)
        if where in known:  # the values of missing pixels may be any
            images[where] = covered(array, known[where])
    return {where: (pixels, known.get(where)) for where, pixels in as_bytes(images, value_range).items()}


def _indexed(path: Path, everything: Split, split: str, key: str | None, indices: np.ndarray | None) -> Split:
    """Select the images of one split by its array of indices."""
    if indices is None:
        raise UserError(f"{path} has indices for other splits but not {split}; add {split}_idx")
    count = len(everything.images)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise UserError(f"array {key} in {path} is {indices.dtype} {indices.shape}; give integers [N]")
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        raise UserError(f"array {key} in {path} points outside its images; count from 0 to {count - 1}")
    labels, observed = (
        None if part is None else part.numpy()[indices] for part in (everything.labels, everything.observed)
    )
    return make_split(f"array {key} in {path}", everything.images.numpy()[indices], labels, observed)
