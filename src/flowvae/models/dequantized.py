"""Continuous densities as models of images with discrete levels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from flowvae.batch import Batch, Given, labelled
from flowvae.models.base import Bounded, Model, Update
from flowvae.models.starting import start_from_data
from flowvae.networks.convolutional import cropped
from flowvae.noise import Noise, uniform
from flowvae.objectives import log_mean_exp


class DequantizedDensity(Model, Bounded, ABC):
    """A continuous density whose integral over the cell of an image is the image's probability.

    A pixel of level k out of L stands for the interval [k, k + 1) / L, and an image for the product of its
    pixels' intervals, its cell (Uria et al. 2013; Theis et al. 2016, section 3.1):

    ``P(x) = integral of p over the cell of x = L^-D E_u[p((k + u) / L)]``, u uniform in [0, 1)^D.

    The noise u is a latent variable, like the code of an autoencoder: with one sample, ``log p - D log L`` is
    a lower bound on log P(x) in expectation; with S samples averaged inside the logarithm, a tighter one. As
    u is uniform both under the model and when drawn, it adds no KL term.

    A density may need more pixels than an image has. The interval of a pixel of the padding, whose value is
    unknown, is all of [0, 1): it is integrated over like the noise, and P(x) remains that of the image.

    Args:
        levels: L, number of values, evenly spaced from 0 to 1, that a pixel takes.
        samples: S, number of samples of the noise per image in training.
        importance_weighted: average the samples inside the logarithm in training.
        padding: number of rows below, and of columns to the right, that the density has and images do not.
    """

    levels: int

    def __init__(
        self,
        levels: int = 256,
        samples: int = 1,
        importance_weighted: bool = False,
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.padding = padding
        self.levels, self.num_samples, self.weighted = levels, samples, importance_weighted
        self.best = "importance_weighted" if importance_weighted else "negative_elbo"

    @abstractmethod
    def log_density(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute ``log p`` in nats, [S, B], at values [S, B, C, H, W] in (0, 1), with padding.

        ``labels``: [B], if the density is conditional.
        """

    def initialize(self, images: Tensor) -> None:
        start_from_data(self, images)

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        weights = self(batch.images, self.num_samples, **self.given(batch))
        bound = log_mean_exp(weights) if self.weighted else weights.mean(0)
        yield Update("model", -bound.mean(), {"negative_elbo": -weights.detach().mean()})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        weights = self(batch.images, self.num_samples if self.weighted else 1, **self.given(batch))
        scores = {"negative_elbo": -weights.mean(0)}
        return {"importance_weighted": -log_mean_exp(weights), **scores} if self.weighted else scores

    def cell(self, images: Tensor, noise: Tensor | float) -> Tensor:
        """Map images [B, C, H, W] to values in (0, 1), at the position ``noise`` in [0, 1) of their cells.

        Values and noise have the padding.
        """
        lowest = self._padded((images * (self.levels - 1)).round(), 0)
        return (lowest + noise) / self._padded(images.new_full(images.shape[-2:], self.levels), 1)

    def _padded(self, maps: Tensor, value: float) -> Tensor:
        rows, columns = self.padding
        return F.pad(maps, (0, columns, 0, rows), value=value)

    def image(self, values: Tensor) -> Tensor:
        """Return the images whose cells contain the values, or the nearest ones, without the padding."""
        rows, columns = self.padding
        values = cropped(values, (values.shape[-2] - rows, values.shape[-1] - columns))
        return (values * self.levels).floor().clamp(0, self.levels - 1) / (self.levels - 1)

    def forward(
        self, images: Tensor, num_samples: int = 1, noise: Noise = None, **given: Unpack[Given]
    ) -> Tensor:
        """Compute the log weights [S, B] of S noise samples for each of the images [B, C, H, W].

        ``noise``: uniform in [0, 1), [S, B, C, H, W] with the padding, or a generator to draw it from.
        """
        number, channels, height, width = images.shape
        shape = number, channels, height + self.padding[0], width + self.padding[1]
        values = self.cell(images, uniform(noise, (num_samples, *shape), images, images=1))
        log_density = self.log_density(values, **labelled(given.get("labels")))
        return log_density - images[0].numel() * math.log(self.levels)

    def draws_for(
        self, images: Tensor, noise: Noise = None, **given: Unpack[Given]
    ) -> Callable[[int], Tensor]:
        self.check(images, **given)
        return lambda num_samples: self(images, num_samples, noise, **given)
