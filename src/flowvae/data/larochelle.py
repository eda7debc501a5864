"""Larochelle's static binarization of MNIST, as published: 784 numbers 0 or 1 a line.

H. Larochelle and I. Murray, "The neural autoregressive distribution estimator", AISTATS 2011.
"""

import hashlib
from pathlib import Path

import numpy as np

from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import read_bytes
from flowvae.data.splits import make_dataset, make_split
from flowvae.errors import UserError

FILE_NAME = "binarized_mnist_{}.amat"
SIDE = 28
COUNTS = (50_000, 10_000, 10_000)
CONTENT_SHA256 = "c462f82a020638a4d5d8d44e4c83242ee0145ee1d125869d0e030c35011837e6"
"""Of the bits of train, valid and test, one after the other, each packed eight to a byte by image."""


def load(folder: Path) -> Dataset:
    """The splits from binarized_mnist_train.amat, ..._valid.amat and ..._test.amat; no labels."""
    train, valid, test = (
        make_split(str(path), read_amat(path))
        for path in (folder / FILE_NAME.format(split) for split in ("train", "valid", "test"))
    )
    return make_dataset(folder, train, valid, test, larochelle_name(train, valid, test))


def larochelle_name(train: Split, valid: Split, test: Split) -> str | None:
    """ "larochelle" for exactly the published images in their order, else None.

    The name stands beside published likelihoods, so the content decides and not what a file is called.
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
    text = np.frombuffer(read_bytes(path, "an .amat file").rstrip() + b"\n", np.uint8)
    is_digit = (text | 1) == ord("1")
    is_newline = text == ord("\n")
    is_space = (text == ord(" ")) | (text == ord("\t")) | (text == ord("\r"))
    bad = ~(is_digit | is_newline | is_space)
    bad[1:] |= is_digit[1:] & is_digit[:-1]
    if bad.any():
        line = 1 + np.count_nonzero(is_newline[: bad.argmax()])
        raise UserError(
            f"line {line} of {path} is not made of 0 and 1 with spaces between; get the file again"
        )
    # Without the spaces every line is as long as the next.
    symbols = text[~is_space]
    columns = np.diff(np.flatnonzero(symbols == ord("\n")), prepend=-1) - 1
    if np.any(columns != SIDE * SIDE):
        line = int(np.argmax(columns != SIDE * SIDE))
        raise UserError(
            f"line {line + 1} of {path} has {columns[line]} numbers, not {SIDE * SIDE}; get the file again"
        )
    return (symbols.reshape(-1, SIDE * SIDE + 1)[:, :-1] - ord("0")).reshape(-1, 1, SIDE, SIDE)
