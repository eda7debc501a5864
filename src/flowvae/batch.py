"""What a model is told of its data: before it is built, and at every step."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class DataSpec(NamedTuple):
    """What a model is told of its data before it is built."""

    shape: tuple[int, int, int]
    """(C, H, W) of an image"""
    levels: int | None = None
    """how many values, evenly from 0 to 1, a pixel takes; None where it is any number"""
    training_images: int = 0
    """size of the training split"""
    classes: int = 0
    """number of classes, 0 where images have no labels"""


class Batch(NamedTuple):
    """Some images, and what is known of each of them."""

    images: Tensor
    """[B, C, H, W] in [0, 1]"""
    index: Tensor
    """places in their split, int64 [B]"""
    labels: Tensor | None = None
    """int64 [B], -1 where unknown; None without labels"""
    observed: Tensor | None = None
    """which pixels are known, bool [B, C, H, W]; None: all of them"""

    def to(self, device: torch.device) -> "Batch":
        rest = (None if part is None else part.to(device) for part in self[2:])
        return Batch(self.images.to(device), self.index.to(device), *rest)

    def split(self, size: int) -> "Iterator[Batch]":
        """Batches of ``size`` images, the last perhaps of fewer.

        >>> batch = Batch(torch.zeros(5, 1, 2, 2), torch.arange(5))
        >>> [len(part.images) for part in batch.split(2)]
        [2, 2, 1]
        """
        for start in range(0, len(self.images), size):
            few = slice(start, start + size)
            rest = (None if part is None else part[few] for part in self[2:])
            yield Batch(self.images[few], self.index[few], *rest)
