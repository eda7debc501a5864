"""Stacked MNIST: three random digits as the three channels of an image, for counting modes."""

import torch
from torch import Tensor

from flowvae.data import mnist
from flowvae.data.dataset import Dataset, Split
from flowvae.data.seeding import Purpose, generator
from flowvae.data.splits import SPLIT_NAMES

NAME = "stacked-mnist"
DIGITS = 10
CHANNELS = 3
SHAPE = (CHANNELS, 28, 28)


def load() -> Dataset:
    """Stack the bundled digits (Metz et al. 2017, arXiv 1611.02163, section 3.3.1), 8 bit, [N, 3, 28, 28].

    Each split is made of the digits of the same split of MNIST, and has as many images. Each channel has
    every digit once, in a random order that is always the same. The label of an image is the number that its
    digits spell, 0 to 999: its mode, one of 1,000.
    """
    digits = mnist.load()
    train, valid, test = (_stacked(getattr(digits, name), index) for index, name in enumerate(SPLIT_NAMES))
    return Dataset(NAME, "none", train, valid, test)


def _stacked(split: Split, index: int) -> Split:
    assert split.labels is not None
    random = generator(0, Purpose.STACKED_DIGITS, index)
    orders = [torch.from_numpy(random.permutation(len(split.images))) for _ in range(CHANNELS)]
    images = torch.cat([split.images[order] for order in orders], 1)
    labels = torch.stack([split.labels[order] for order in orders], 1)
    return Split(images, mode_of(labels))


def mode_of(digits: Tensor) -> Tensor:
    """Return the numbers [N] that digits [N, C] spell.

    >>> mode_of(torch.tensor([[0, 4, 2], [9, 9, 9]]))
    tensor([ 42, 999])
    """
    return (digits * DIGITS ** torch.arange(digits.shape[1] - 1, -1, -1)).sum(1)
