"""Likelihoods p(x|z)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from flowvae.flows import at_least_float32
from flowvae.noise import Noise, uniform


class Likelihood(nn.Module, ABC):
    """p(x|z): the distribution of images given a code.

    ``levels`` is the number of values, evenly spaced from 0 to 1, that a pixel takes; None if any.
    """

    levels: int | None = None

    pixel_noise: tuple[int, ...] | None = None
    """shape of the uniform noise from which ``images`` draws an image; None if it returns means of p(x|z)"""

    independent: Literal["pixels", "places", "none"] = "pixels"
    """what is independent given the code: all pixels, positions with all of their channels, or nothing"""

    @abstractmethod
    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> Distribution:
        """Return ``p(x|z)`` for z [S, B, D]: batch shape [S, B], event shape [C, H, W].

        ``noise``: a generator for random choices other than pixels, such as an order of them.
        """

    def images(self, z: Tensor, noise: Noise = None) -> Tensor:
        """Return images [S, B, C, H, W] to show for z [S, B, D]: the means of p(x|z), or draws.

        ``noise``: uniform, [S, B, *pixel_noise], or a generator to draw it from.
        """
        return self(z).mean

    def initialize(self, images: Tensor) -> None:
        """Initialize from training images [N, C, H, W]; by default, do nothing."""


class BinaryImages(Independent):
    """Independent binary pixels with logits [S, B, C, H, W]: batch shape [S, B]."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), noise: torch.Generator | None = None) -> Tensor:
        probabilities = self.mean.expand(*sample_shape, *self.mean.shape)
        return (uniform(noise, probabilities.shape, probabilities) < probabilities).to(probabilities.dtype)


class BernoulliLikelihood(Likelihood):
    """Independent binary pixels; their logits are the decoder's output plus a learned offset per pixel.

    Args:
        decoder: maps z [N, D] to [N, C, H, W].
        shape: (C, H, W).
    """

    levels = 2
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

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> "BinaryImages":
        logits = at_least_float32(self.decoder(z.flatten(0, 1))) + self.offset
        return BinaryImages(logits.unflatten(0, z.shape[:2]))
