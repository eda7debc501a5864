"""Models without a latent code, whose likelihood is exact."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowvae.densities import LogDensities


class ExactDensity(nn.Module, ABC):
    """A model of images that gives log p(x) itself instead of a bound.

    Its ``forward`` says so in the words of a latent-variable model: all of log p(x) is the likelihood, and a
    code costs nothing. The evidence lower bound is then log p(x), and what trains and scores the one kind of
    model trains and scores the other.

    ``levels`` is how many values, evenly from 0 to 1, a pixel takes; None where it does not matter.
    """

    levels: int | None = None

    @abstractmethod
    def log_prob(self, images: Tensor) -> Tensor:
        """log p(x) in nats for images [B, C, H, W], [B]."""

    @abstractmethod
    def sample(self, num_images: int) -> Tensor:
        """Images [N, C, H, W] drawn from p(x)."""

    def initialize(self, images: Tensor) -> None:
        """Start from training images [N, C, H, W]; nothing unless a model says what."""

    def bound(self, images: Tensor) -> Tensor:
        """What training maximizes, [B]: log p(x), or a lower bound of it that costs less."""
        return self.log_prob(images)

    def forward(self, images: Tensor, num_samples: int = 1) -> LogDensities:
        """One "sample" [1, B], however many are asked for: there is nothing to draw."""
        likelihood = (self.bound if self.training else self.log_prob)(images).unsqueeze(0)
        nothing = torch.zeros_like(likelihood)
        return LogDensities(likelihood, nothing, nothing)
