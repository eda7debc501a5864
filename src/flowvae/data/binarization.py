"""From 8-bit intensities to the binary images that a Bernoulli likelihood scores.

Each way makes another data set; likelihoods must not be compared between them:

- static: every pixel is one draw from Bernoulli(intensity / 255), made once with one seed
- dynamic: valid and test as in static; training images are drawn anew for every batch
- threshold: 1 if the intensity is at least 128
- none: the 8-bit values are kept
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from flowvae.data.dataset import Dataset, Split
from flowvae.data.seeding import Purpose, generator
from flowvae.errors import UserError


def bernoulli_thresholds(random: np.random.Generator, shape: torch.Size) -> Tensor:
    """Draw uint8 u, uniform on 0 .. 254: then P(intensity > u) = intensity / 255 exactly."""
    return torch.from_numpy(random.integers(0, 255, tuple(shape), dtype=np.uint8))


def frozen_sample(images: Tensor, seed: int, split: int) -> Tensor:
    """Draw every pixel from Bernoulli(intensity / 255), fixed by the seed and the number of the split."""
    thresholds = bernoulli_thresholds(generator(seed, Purpose.FROZEN_NOISE, split), images.shape)
    return torch.gt(images, thresholds, out=thresholds)


def binarize(dataset: Dataset, binarization: str, seed: int) -> Dataset:
    """Binarize an 8-bit, or already binary, data set as `DataConfig.binarization` says.

    Binary images are unchanged.

    Raises:
        UserError: if images are binary already, and the binarization is not static.
    """
    if dataset.values[1] <= 1:
        if binarization != "static":
            raise UserError(
                f"{dataset.name} is binary already, so binarization {binarization} does not apply; "
                "choose static, which keeps its pixels"
            )
        return replace(dataset, binarization="static")

    def sampled(split: Split, number: int) -> Split:
        return replace(split, images=frozen_sample(split.images, seed, number))

    def thresholded(split: Split) -> Split:
        return replace(split, images=(split.images >= 128).to(torch.uint8))

    train, valid, test = dataset.train, dataset.valid, dataset.test
    if binarization == "static":
        train, valid, test = sampled(train, 0), sampled(valid, 1), sampled(test, 2)
    elif binarization == "dynamic":
        valid, test = sampled(valid, 1), sampled(test, 2)
    elif binarization == "threshold":
        train, valid, test = thresholded(train), thresholded(valid), thresholded(test)
    return replace(dataset, binarization=binarization, train=train, valid=valid, test=test)
