"""Likelihoods p(x|z)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from flowvae.flows import at_least_float32


class Likelihood(nn.Module, ABC):
    """p(x|z): the distribution of images given a code.

    ``levels`` is how many values, evenly from 0 to 1, a pixel takes; None where a pixel is any number.
    """

    levels: int | None = None

    @abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """``p(x|z)`` for z [S, B, D]: batch shape [S, B], event shape [C, H, W]."""

    def initialize(self, images: Tensor) -> None:
        """Start from training images [N, C, H, W]; nothing unless a likelihood says what."""


class BernoulliLikelihood(Likelihood):
    """Independent binary pixels; their logits are the decoder's output plus an offset of each pixel.

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
        """Start the offsets as the logits of the mean image; ``initialized`` says so."""
        self.offset.copy_(images.mean(0).clamp(0.01, 0.99).logit())
        self.initialized.fill_(True)

    def forward(self, z: Tensor) -> Distribution:
        logits = at_least_float32(self.decoder(z.flatten(0, 1))) + self.offset
        return Independent(Bernoulli(logits=logits.unflatten(0, z.shape[:2]), validate_args=False), 3)
