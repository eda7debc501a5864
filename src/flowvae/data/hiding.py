"""Hiding pixels of images: experiments with missing data whose missing pixels are known."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from flowvae.config import hidden_of
from flowvae.data.dataset import Dataset, Split
from flowvae.data.seeding import Purpose, generator
from flowvae.data.splits import SPLIT_NAMES
from flowvae.errors import UserError, quoted

AT_ONCE = 1000


def hide_pixels(dataset: Dataset, hide: float | str, seed: int) -> Dataset:
    """Hide pixels of all splits, with all of their channels, besides those that are missing already.

    What is hidden of an image depends on ``seed``, the split and the image's position in it only.

    Args:
        dataset: images before binarization.
        hide: the probability of each pixel, independently, or "HEIGHTxWIDTH" of a rectangle that has every
            place inside the image with the same probability.
        seed: random seed of the draws.

    Raises:
        UserError: if ``hide`` is neither, or the rectangle is not smaller than the images.
    """
    hidden = hidden_of(hide)
    _, height, width = dataset.shape
    if isinstance(hidden, tuple) and not (
        hidden[0] <= height and hidden[1] <= width and hidden != (height, width)
    ):
        raise UserError(
            f"hide is {quoted(hide)}, and the images of {dataset.name} are {height} x {width}; choose a "
            "smaller rectangle"
        )

    def hiding(number: int, split: Split) -> Split:
        random = generator(seed, Purpose.HIDDEN_PIXELS, number)
        shape = len(split.images), height, width
        kept = _outside(random, shape, hidden) if isinstance(hidden, tuple) else _kept(random, shape, hidden)
        observed = kept[:, None].expand(split.images.shape)
        if split.observed is not None:
            observed = observed & split.observed
        return replace(split, images=split.images * observed, observed=observed)

    splits = {name: hiding(number, getattr(dataset, name)) for number, name in enumerate(SPLIT_NAMES)}
    return replace(dataset, **splits)


def _kept(random: np.random.Generator, shape: tuple[int, int, int], probability: float) -> Tensor:
    """Draw which pixels are kept, bool [N, H, W], in portions, which are numbers of one stream."""
    kept = torch.empty(shape, dtype=torch.bool)
    for part in kept.split(AT_ONCE):
        part.copy_(torch.from_numpy(random.random(tuple(part.shape)) >= probability))
    return kept


def _outside(random: np.random.Generator, shape: tuple[int, int, int], sides: tuple[int, int]) -> Tensor:
    """Draw the place of a rectangle for each image; return which pixels are outside, bool [N, H, W]."""
    count, height, width = shape
    corners = random.integers((0, 0), (height - sides[0] + 1, width - sides[1] + 1), (count, 2))
    rows, columns = (
        _inside(torch.from_numpy(start), side, length)
        for start, side, length in zip(corners.T, sides, (height, width), strict=True)
    )
    return ~(rows[:, :, None] & columns[:, None, :])


def _inside(start: Tensor, side: int, length: int) -> Tensor:
    """Whether a position 0 .. length - 1 is one of the ``side`` from ``start`` [N] on, bool [N, length]."""
    after = torch.arange(length) - start[:, None]
    return (after >= 0) & (after < side)
