"""A latent-variable model of independent pixels, whose log p(x) and posterior are known in closed form."""

import math
from collections.abc import Callable, Iterator
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from flowvae.batch import Batch, Given
from flowvae.data import Dataset
from flowvae.data.dataset import Split
from flowvae.densities import LogDensities
from flowvae.models import Bounded, Model
from flowvae.models.base import Update
from flowvae.noise import Noise, normal

MEAN, DEVIATION = 0.5, 0.1
"""of each pixel of `drawn_images`"""


class IndependentPixels(Model, Bounded):
    """A linear-Gaussian model with one code per pixel, and a proposal q(z|x) that may be wrong.

    ``z ~ N(0, 1)`` and ``(x - 1/2) / deviation = loading z + sqrt(1 - loading^2) e``, so that a pixel is
    N(1/2, deviation^2), whatever the loading, and its posterior is N(loading y, s^2), with ``y = (x - 1/2) /
    deviation`` and ``s^2 = 1 - loading^2``. The proposal is N(gain loading y + shift s, (stretch s)^2).

    Args:
        deviation: standard deviation of a pixel.
        loading: correlation of a pixel and its code, in (0, 1).
        shift: error of the proposal's mean, in standard deviations of the posterior.
        stretch: standard deviation of the proposal over that of the posterior.
        gain: factor on the proposal's mean; other than 1, the proposal is worse for unusual images.
    """

    best = "nll"

    def __init__(
        self,
        deviation: float = DEVIATION,
        loading: float = 0.8,
        shift: float = 0.0,
        stretch: float = 1.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.deviation = nn.Parameter(torch.tensor(deviation).double())
        self.loading, self.shift, self.stretch, self.gain = loading, shift, stretch, gain
        self.posterior_deviation = math.sqrt(1 - loading**2)

    def exact(self, images: Tensor) -> Tensor:
        """Compute log p(x) in nats, float64 [B]."""
        return Normal(MEAN, self.deviation.detach()).log_prob(images.double()).flatten(1).sum(1)

    @torch.no_grad()
    def draws_for(
        self, images: Tensor, noise: Noise = None, **given: Unpack[Given]
    ) -> Callable[[int], LogDensities | Tensor]:
        x = images.double().flatten(1)
        scaled = (x - MEAN) / self.deviation
        center = self.gain * self.loading * scaled + self.shift * self.posterior_deviation
        proposal = Normal(center, self.stretch * self.posterior_deviation, validate_args=False)
        prior = Normal(torch.zeros_like(x), 1.0, validate_args=False)

        def draw(count: int) -> LogDensities:
            z = center + proposal.scale * normal(noise, (count, *x.shape), x)
            likelihood = Normal(
                MEAN + self.deviation * self.loading * z,
                self.deviation * self.posterior_deviation,
                validate_args=False,
            )
            parts = likelihood.log_prob(x), prior.log_prob(z), proposal.log_prob(z)
            return LogDensities(*(part.sum(2) for part in parts))

        return draw

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        yield Update("model", -self.exact(batch.images).mean(), {})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": -self.exact(batch.images)}


def drawn_images(number: int, pixels: int, seed: int) -> Dataset:
    """Draw a test split of 8-bit images [number, 1, 1, pixels] of independent normal pixels."""
    random = torch.Generator().manual_seed(seed)
    x = MEAN + DEVIATION * torch.randn(number, 1, 1, pixels, generator=random)
    few, drawn = (Split((255 * part).round().clamp(0, 255).byte()) for part in (x[:1], x))
    return Dataset("normal", "none", few, few, drawn)
