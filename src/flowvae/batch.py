"""The data that a model sees: its description before the model is built, and batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor


class DataSpec(NamedTuple):
    """The description of the data for which a model is built."""

    shape: tuple[int, int, int]
    """(C, H, W) of an image"""
    levels: int | None = None
    """number of values, evenly spaced from 0 to 1, that a pixel takes; None if any"""
    training_images: int = 0
    """number of images in the training split"""
    classes: int = 0
    """number of classes; 0 without labels"""
    missing: bool = False
    """whether pixels of training images are missing"""


class Labelled(TypedDict, total=False):
    """What a conditional model takes besides codes: the labels, or nothing."""

    labels: Tensor
    """int64 [B]"""


def labelled(labels: Tensor | None) -> Labelled:
    """Return labels as keyword arguments; none for None."""
    return Labelled() if labels is None else Labelled(labels=labels)


class Given(Labelled, total=False):
    """What a model may take besides images."""

    observed: Tensor
    """known pixels, bool [B, C, H, W]"""


class Batch(NamedTuple):
    """Images with their positions, labels and known pixels."""

    images: Tensor
    """[B, C, H, W] in [0, 1]"""
    index: Tensor
    """positions in their split, int64 [B]"""
    labels: Tensor | None = None
    """int64 [B], -1 if unknown; None without labels"""
    observed: Tensor | None = None
    """known pixels, bool [B, C, H, W]; None if all are known. The others are 0 in ``images``"""

    def to(self, device: torch.device) -> "Batch":
        rest = (None if part is None else part.to(device) for part in self[2:])
        return Batch(self.images.to(device), self.index.to(device), *rest)

    def split(self, size: int) -> "Iterator[Batch]":
        """Split into batches of ``size`` images; the last may have fewer.

        >>> batch = Batch(torch.zeros(5, 1, 2, 2), torch.arange(5))
        >>> [len(part.images) for part in batch.split(2)]
        [2, 2, 1]
        """
        for start in range(0, len(self.images), size):
            yield self.at(slice(start, start + size))

    def at(self, places: slice | Tensor) -> "Batch":
        """Return some of the images."""
        rest = (None if part is None else part[places] for part in self[2:])
        return Batch(self.images[places], self.index[places], *rest)


def joined(batches: Sequence[Batch]) -> Batch:
    """Put the images of batches into one, in which they are numbered from 0.

    Labels are -1 for images of a batch without labels, if another batch has some.
    """

    def together(parts: list[Tensor | None], absent: list[Tensor]) -> Tensor | None:
        if all(part is None for part in parts):
            return None
        return torch.cat([other if part is None else part for part, other in zip(parts, absent, strict=True)])

    images = torch.cat([batch.images for batch in batches])
    unknown = [torch.full_like(batch.index, -1) for batch in batches]
    labels = together([batch.labels for batch in batches], unknown)
    whole = [torch.ones_like(batch.images, dtype=torch.bool) for batch in batches]
    observed = together([batch.observed for batch in batches], whole)
    return Batch(images, torch.arange(len(images)), labels, observed)
