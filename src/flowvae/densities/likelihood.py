"""Likelihoods p(x|z)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from flowvae.densities.tabulated import Choose, Tabulated
from flowvae.errors import UserError
from flowvae.flows import at_least_float32
from flowvae.noise import Noise, uniform


class Likelihood(nn.Module, ABC):
    """p(x|z): the distribution of images given a code.

    ``levels`` is the number of values, evenly spaced from 0 to 1, that a pixel takes; None if any.
    """

    levels: int | None = None

    margin: float = 0.0
    """how far below 0 or above 1 the pixels of a draw may be"""

    pixel_noise: tuple[int, ...] | None = None
    """shape of the uniform noise from which ``images`` draws an image; None if it returns means of p(x|z)"""

    differentiable: bool = True
    """whether log p(x|z) is a function of z, which can be differentiated, rather than random"""

    @abstractmethod
    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> Distribution:
        """Return ``p(x|z)`` for z [S, B, D]: batch shape [S, B], event shape [C, H, W].

        ``noise``: a generator for random choices other than pixels, such as an order of them.
        """

    orders: int = 1
    """number of orders of the pixels of which each image has one at random"""

    def in_orders(self, z: Tensor, orders: Tensor) -> Distribution:
        """Return ``p(x|z)`` for z [S, B, D] with given orders of the pixels, int64 [S, B]."""
        return self(z)

    def images(self, z: Tensor, noise: Noise = None) -> Tensor:
        """Return images [S, B, C, H, W] to show for z [S, B, D]: the means of p(x|z), or draws.

        ``noise``: uniform, [S, B, *pixel_noise], or a generator to draw it from.
        """
        return self(z).mean

    def complete(
        self, z: Tensor, images: Tensor, observed: Tensor, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Fill in the pixels of images [B, C, H, W] that are not observed, given codes z [S, B, D].

        Returns:
            Images [S, B, C, H, W] whose missing pixels are means of p(x|z) or draws, and the log weight of
            each, [S, B]: log p(x_observed|z), or, where draws depend on it, an estimate whose exponential has
            this mean.
        """
        distribution = self(z, noise)
        return torch.where(observed, images, distribution.mean), log_prob(distribution, images, observed)

    def initialize(self, images: Tensor) -> None:
        """Initialize from training images [N, C, H, W]; by default, do nothing."""


class PartlyObserved(Distribution):
    """A distribution of images, any of whose pixels may be missing."""

    @abstractmethod
    def log_prob(self, value: Tensor, observed: Tensor | None = None) -> Tensor:
        """Compute log p of the observed pixels, bool of the shape of ``value``; None for all."""


def log_prob(distribution: Distribution, images: Tensor, observed: Tensor | None = None) -> Tensor:
    """Compute log p in nats, [S, B], of images [B, C, H, W], or of their observed pixels only.

    >>> from torch.distributions import Normal
    >>> images = Independent(Normal(torch.zeros(5, 7, 1, 2, 2), 1.0), 3)
    >>> log_prob(images, torch.ones(7, 1, 2, 2), torch.zeros(7, 1, 2, 2, dtype=torch.bool))[0, 0]
    tensor(0.)

    Raises:
        UserError: if pixels are missing, and the distribution does not support that.
    """
    if observed is None:
        return distribution.log_prob(images)
    if isinstance(distribution, PartlyObserved):
        return distribution.log_prob(images, observed)
    if isinstance(distribution, Independent):
        of_pixels = distribution.base_dist.log_prob(images)
        return torch.where(observed, of_pixels, of_pixels.new_zeros(())).flatten(-3).sum(-1)
    raise UserError(f"{type(distribution).__name__} does not support missing pixels; subclass PartlyObserved")


class BinaryImages(Independent, Tabulated):
    """Independent binary pixels with logits [S, B, C, H, W]: batch shape [S, B]."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), noise: torch.Generator | None = None) -> Tensor:
        probabilities = self.mean.expand(*sample_shape, *self.mean.shape)
        return (uniform(noise, probabilities.shape, probabilities) < probabilities).to(probabilities.dtype)

    def walk(self, choose: Choose) -> Tensor:
        of_ones = self.mean.flatten(0, 1).flatten(1)
        return choose(torch.stack([1 - of_ones, of_ones], 2)).unflatten(1, self.event_shape)

    def values(self, images: Tensor) -> Iterator[Tensor]:
        yield images.flatten(1)


def gaussian_images(means: Tensor, variance: float) -> Independent:
    """Return independent pixels with means [S, B, C, H, W] and one variance: batch shape [S, B]."""
    deviation = means.new_tensor(variance).sqrt()
    return Independent(Normal(means, deviation, validate_args=False), 3, validate_args=False)


DEVIATIONS = 8
"""largest distance of a Gaussian pixel from its mean, in standard deviations: one in 10^15 is farther away"""


class LogitLikelihood(Likelihood):
    """Independent pixels whose means have as logits the decoder's output plus a learned offset per pixel.

    Args:
        decoder: maps z [N, D] to [N, C, H, W].
        shape: (C, H, W).
    """

    initialized: Tensor

    def __init__(self, decoder: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.decoder = decoder
        self.offset = nn.Parameter(torch.zeros(shape))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize the offsets as the logits of the mean image, and set ``initialized``."""
        self.offset.copy_(images.mean(0).clamp(0.01, 0.99).logit())
        self.initialized.fill_(True)

    def logits(self, z: Tensor) -> Tensor:
        """Compute the logits of the means, [S, B, C, H, W], for z [S, B, D]."""
        logits = at_least_float32(self.decoder(z.flatten(0, 1))) + self.offset
        return logits.unflatten(0, z.shape[:2])


class BernoulliLikelihood(LogitLikelihood):
    """Independent binary pixels. Arguments as in `LogitLikelihood`."""

    levels = 2

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> "BinaryImages":
        return BinaryImages(self.logits(z))


class GaussianLikelihood(LogitLikelihood):
    """Independent Gaussian pixels around means in [0, 1]: a density of continuous images.

    Args:
        decoder, shape: as in `LogitLikelihood`.
        variance: of each pixel, where 1 is the distance from black to white; not learned.
    """

    def __init__(self, decoder: nn.Module, shape: tuple[int, int, int], variance: float) -> None:
        super().__init__(decoder, shape)
        self.variance = variance
        self.margin = DEVIATIONS * math.sqrt(variance)

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> Independent:
        return gaussian_images(self.logits(z).sigmoid(), self.variance)
