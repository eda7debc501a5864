"""Omniglot as work on variational autoencoders uses it: chardata.mat, grey images of 28 x 28.

Made by Y. Burda et al., "Importance weighted autoencoders", ICLR 2016, https://github.com/yburda/iwae:
``data`` [784, 24345] and ``testdata`` [784, 8070] with intensities from 0 to 1, the pixels of an image in
MATLAB's order (down the columns), and ``target``, ``testtarget`` with ones where the alphabet is.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

from flowvae.data.dataset import Dataset, Split
from flowvae.data.matlab import read_mat
from flowvae.data.splits import hold_out, make_dataset, make_split, shuffled
from flowvae.errors import UserError

SIDE = 28
HELD_OUT = Fraction(1_345, 24_345)
"""share of train, drawn at random, that becomes valid: 23,000 remain, as in J. Tomczak and M. Welling,
"VAE with a VampPrior", AISTATS 2018 (with another draw)"""


def load(path: Path) -> Dataset:
    """The two published splits of the file; labels are alphabets, 0 to 49."""
    data, target, test_data, test_target = read_mat(path, ("data", "target", "testdata", "testtarget"))
    train, valid = hold_out(path, shuffled(_split(path, "data", data, target)), HELD_OUT)
    return make_dataset(path, train, valid, _split(path, "testdata", test_data, test_target))


def _split(path: Path, name: str, data: np.ndarray, target: np.ndarray) -> Split:
    if data.ndim != 2 or len(data) != SIDE * SIDE or target.ndim != 2:
        raise UserError(
            f"{name} in {path} has shape {data.shape}, not ({SIDE * SIDE}, N); get the published file"
        )
    if not (np.min(data, initial=0) >= 0 and np.max(data, initial=0) <= 1):  # nor nan
        raise UserError(f"{name} in {path} has values outside 0 to 1; get the published file")
    images = np.rint(255 * data).astype(np.uint8).T.reshape(-1, 1, SIDE, SIDE)
    return make_split(f"{name} in {path}", np.ascontiguousarray(images.swapaxes(2, 3)), target.argmax(axis=0))
