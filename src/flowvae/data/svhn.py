"""Street View House Numbers, cropped digits, as published: train_32x32.mat and test_32x32.mat.

Y. Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011;
http://ufldl.stanford.edu/housenumbers. X is uint8 [32, 32, 3, N], y [N, 1] with 10 for the digit 0.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

from flowvae.data.dataset import Dataset, Split
from flowvae.data.matlab import read_mat
from flowvae.data.splits import hold_out, make_dataset, make_split
from flowvae.errors import UserError

HELD_OUT = Fraction(1, 10)
"""share of the training images, the last ones, that becomes valid; neighbours come from one photograph, and a
random choice would put the digits of one house into both train and valid"""


def load(directory: Path) -> Dataset:
    """Read the two files in ``directory``; the larger, easier set called extra is not used."""
    train, valid = hold_out(directory, _read_split(directory / "train_32x32.mat"), HELD_OUT)
    return make_dataset(directory, train, valid, _read_split(directory / "test_32x32.mat"))


def _read_split(path: Path) -> Split:
    if not path.exists():
        raise UserError(f"{path.parent} has no file {path.name}; add it")
    images, labels = read_mat(path, ("X", "y"))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise UserError(
            f"X in {path} is {images.dtype} {images.shape}, not uint8 (32, 32, 3, N); get the published file"
        )
    if labels.size and (labels.min() < 1 or labels.max() > 10):
        raise UserError(f"y in {path} has values outside 1 to 10; get the published file")
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return make_split(str(path), pixels, labels.astype(np.int64) % 10)
