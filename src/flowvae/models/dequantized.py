"""Densities of real numbers as models of images with grey levels."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowvae.densities import LogDensities
from flowvae.models.starting import start_from_data


class DequantizedDensity(nn.Module, ABC):
    """A density of real numbers that, integrated over the cell of an image, gives the image's probability.

    A pixel of level k out of L stands for the interval [k, k + 1) / L, an image for the cube of its pixels'
    intervals (Uria et al. 2013; Theis et al. 2016, section 3.1):

    ``P(x) = integral of p over the cell of x = L^-D E_u[p((k + u) / L)]``, u uniform in [0, 1)^D.

    The noise u is to this model what the code is to an autoencoder: with one draw ``log p - D log L`` is a
    lower bound on log P(x) in expectation, with S of them averaged inside the logarithm a tighter one. Since
    u is uniform both under the model and as it is drawn, it costs nothing.

    Args:
        levels: L, how many values, evenly from 0 to 1, a pixel of an image takes.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels: int = levels

    @abstractmethod
    def log_density(self, values: Tensor) -> Tensor:
        """``log p`` in nats at values [S, B, C, H, W] in (0, 1), [S, B]."""

    @abstractmethod
    def sample(self, num_images: int) -> Tensor:
        """Images [N, C, H, W] drawn from the model."""

    def initialize(self, images: Tensor) -> None:
        """Start what starts from data with training images [N, C, H, W]."""
        start_from_data(self, images)

    def cell(self, images: Tensor, noise: Tensor | float) -> Tensor:
        """Values in (0, 1) in the cells of images [B, C, H, W]; ``noise`` in [0, 1) says where in them."""
        return ((images * (self.levels - 1)).round() + noise) / self.levels

    def image(self, values: Tensor) -> Tensor:
        """The images in whose cells values lie; where they lie in none, the nearest."""
        return (values * self.levels).floor().clamp(0, self.levels - 1) / (self.levels - 1)

    def forward(self, images: Tensor, num_samples: int = 1) -> LogDensities:
        """Log densities at ``num_samples`` draws of the noise for each of the images [B, C, H, W]."""
        noise = torch.rand(num_samples, *images.shape, dtype=images.dtype, device=images.device)
        likelihood = self.log_density(self.cell(images, noise)) - images[0].numel() * math.log(self.levels)
        nothing = torch.zeros_like(likelihood)
        return LogDensities(likelihood, nothing, nothing)
