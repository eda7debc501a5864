"""Larochelle's static binarization of MNIST, as published: 784 numbers 0 or 1 per line.

H. Larochelle and I. Murray, "The neural autoregressive distribution estimator", AISTATS 2011.
"""

import hashlib
import http.client
import urllib.request
from pathlib import Path

import numpy as np

from flowvae.data.cache import cache_folder, cached_array
from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import read_bytes, read_up_to
from flowvae.data.splits import make_dataset, make_split
from flowvae.errors import UserError

FILE_NAME = "binarized_mnist_{}.amat"
ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
"""where the files are published; their content is checked, since the address has no certificate"""
SECONDS = 30.0
"""longest wait for the server, in seconds"""
SPLITS = ("train", "valid", "test")
SIDE = 28
COUNTS = (50_000, 10_000, 10_000)
LONGEST = 2 * COUNTS[0] * (SIDE * SIDE + 1)
"""number of bytes that a download may have: each digit and each line end with a byte beside it"""
CONTENT_SHA256 = "c462f82a020638a4d5d8d44e4c83242ee0145ee1d125869d0e030c35011837e6"
"""of the bits of train, valid and test, one after the other, each packed eight to a byte by image"""


def load(directory: Path) -> Dataset:
    """The splits from binarized_mnist_train.amat, ..._valid.amat and ..._test.amat; no labels."""
    train, valid, test = (
        make_split(str(path), read_amat(path))
        for path in (directory / FILE_NAME.format(split) for split in SPLITS)
    )
    return make_dataset(directory, train, valid, test, larochelle_name(train, valid, test))


def fetch() -> Dataset:
    """The published images from the cache, or else downloaded; no labels.

    Raises:
        UserError: if they cannot be downloaded, or the downloaded content is different.
    """
    train, valid, test = (_cached(split, count) for split, count in zip(SPLITS, COUNTS, strict=True))
    if larochelle_name(train, valid, test) is None:
        raise _not_at_hand(f"larochelle-*.npy in {cache_folder()} are not the published images; delete them")
    return make_dataset(Path("larochelle"), train, valid, test, "larochelle")


def _cached(split: str, count: int) -> Split:
    def rows() -> np.ndarray:
        images = _parse(_download(split), ADDRESS + FILE_NAME.format(split))
        if len(images) != count:
            raise _not_at_hand(f"{FILE_NAME.format(split)} has {len(images):,} images, not {count:,}")
        return images

    name = f"larochelle-{split}"
    return make_split(name, cached_array(name, (count, 1, SIDE, SIDE), np.uint8, rows))


def _download(split: str) -> bytearray:
    address = ADDRESS + FILE_NAME.format(split)
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as file:
            return read_up_to(file, LONGEST)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _not_at_hand(f"{address} cannot be downloaded ({reason})") from error


def _not_at_hand(reason: str) -> UserError:
    return UserError(
        f"{reason}; give --data mnist for the bundled images, or the path of a directory with "
        f"{FILE_NAME.format('train')}, {FILE_NAME.format('valid')} and {FILE_NAME.format('test')}"
    )


def larochelle_name(train: Split, valid: Split, test: Split) -> str | None:
    """ "larochelle" for exactly the published images in their order, else None.

    The name appears beside published likelihoods, so the content decides, not the name of a file.
    """
    splits = (train, valid, test)
    if any(tuple(split.images.shape) != (n, 1, SIDE, SIDE) for split, n in zip(splits, COUNTS, strict=True)):
        return None
    digest = hashlib.sha256()
    for split in splits:
        if int(split.images.max()) > 1:
            return None
        digest.update(np.packbits(split.images.numpy().reshape(-1, SIDE * SIDE), axis=1).tobytes())
    return "larochelle" if digest.hexdigest() == CONTENT_SHA256 else None


def read_amat(path: Path) -> np.ndarray:
    """uint8 0 and 1 of shape [N, 1, 28, 28] from lines of 784 digits with spaces between them."""
    return _parse(read_bytes(path, "an .amat file"), path)


def _parse(data: bytearray, path: object) -> np.ndarray:
    """The images of an .amat file; ``path`` names it in errors."""
    text = np.frombuffer(data.rstrip() + b"\n", np.uint8)
    is_digit = (text | 1) == ord("1")
    is_newline = text == ord("\n")
    is_space = (text == ord(" ")) | (text == ord("\t")) | (text == ord("\r"))
    bad = ~(is_digit | is_newline | is_space)
    bad[1:] |= is_digit[1:] & is_digit[:-1]
    if bad.any():
        line = 1 + np.count_nonzero(is_newline[: bad.argmax()])
        raise UserError(
            f"line {line} of {path} must consist of 0 and 1 separated by spaces; get the file again"
        )
    # Without the spaces, all lines have the same length.
    symbols = text[~is_space]
    columns = np.diff(np.flatnonzero(symbols == ord("\n")), prepend=-1) - 1
    if np.any(columns != SIDE * SIDE):
        line = int(np.argmax(columns != SIDE * SIDE))
        raise UserError(
            f"line {line + 1} of {path} has {columns[line]} numbers, not {SIDE * SIDE}; get the file again"
        )
    return (symbols.reshape(-1, SIDE * SIDE + 1)[:, :-1] - ord("0")).reshape(-1, 1, SIDE, SIDE)
