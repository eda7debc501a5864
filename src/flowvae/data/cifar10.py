"""CIFAR-10 as published, in its binary version.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009;
https://www.cs.toronto.edu/~kriz/cifar.html. Five files of training images and one of test images; each row
is one byte of label, 0 to 9, and 3072 bytes of pixels: red, green, blue, each 32 x 32 from the top left.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from flowvae.data.archives import read_tar_gz
from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import read_bytes, unreadable
from flowvae.data.splits import hold_out, make_dataset, make_split
from flowvae.errors import UserError

KIND = "a file of CIFAR-10's binary version"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
SHAPE = (3, 32, 32)
ROW = 1 + 3 * 32 * 32
HELD_OUT = Fraction(1, 10)
"""share of the training images, the last ones, that becomes valid: 5,000 of 50,000"""


def load(directory: Path) -> Dataset:
    """The directory cifar-10-batches-bin; valid is the last tenth of train."""
    return _load(directory, lambda name: read_bytes(directory / name, KIND))


def load_archive(path: Path) -> Dataset:
    """The file cifar-10-binary.tar.gz, without unpacking it."""
    try:
        files = read_tar_gz(path, (*TRAIN_FILES, TEST_FILE))
    except UserError:
        raise
    except Exception as error:  # gzip, zlib and tarfile raise many kinds of errors for damaged files
        raise unreadable(path, "a .tar.gz archive", error) from error

    def read(name: str) -> bytearray:
        if name not in files:
            raise UserError(f"{path} has no file {name}; get cifar-10-binary.tar.gz")
        return files[name]

    return _load(path, read)


def refuse_pickles(directory: Path) -> Dataset:
    """Refuse the Python version."""
    raise UserError(
        f"{directory} contains CIFAR-10's Python version, pickles that could run code; "
        "get its binary version, cifar-10-binary.tar.gz"
    )


def split_train(path: Path, train: Split, test: Split) -> Dataset:
    """The data set from its published splits: the last tenth of train becomes valid."""
    train, valid = hold_out(path, train, HELD_OUT)
    return make_dataset(path, train, valid, test)


def _load(path: Path, read: Callable[[str], bytearray]) -> Dataset:
    rows = [_rows(path, name, read(name)) for name in (*TRAIN_FILES, TEST_FILE)]
    return split_train(path, _split(path, np.concatenate(rows[:-1])), _split(path, rows[-1]))


def _rows(path: Path, name: str, data: bytearray) -> np.ndarray:
    """uint8 [N, 3073], with labels in range."""
    if not data or len(data) % ROW:
        raise UserError(
            f"{name} of {path} has {len(data):,} bytes, which are not rows of {ROW}; get the file again"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, ROW)
    if rows[:, 0].max() > 9:
        raise UserError(f"{name} of {path} has labels above 9; get the file again")
    return rows


def _split(path: Path, rows: np.ndarray) -> Split:
    # A copy, because torch needs writable memory.
    return make_split(str(path), rows[:, 1:].reshape(-1, *SHAPE).copy(), rows[:, 0])
