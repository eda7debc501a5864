"""The variational autoencoder."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowvae.densities import Likelihood, LogDensities, Posterior, Prior
from flowvae.models.starting import start_from_data


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014): composes its parts and does nothing else.

    Args:
        encoder: maps images [B, C, H, W] to features [B, F].
        posterior: q(z|x), from the features.
        prior: ``prior()`` is the distribution p(z).
        likelihood: ``likelihood(z)`` is the distribution p(x|z), batch shape [S, B].
    """

    def __init__(
        self, encoder: nn.Module, posterior: Posterior, prior: Prior, likelihood: Likelihood
    ) -> None:
        super().__init__()
        self.encoder, self.posterior, self.prior, self.likelihood = encoder, posterior, prior, likelihood

    @property
    def levels(self) -> int | None:
        """How many values a pixel takes; None where it is any number."""
        return self.likelihood.levels

    def initialize(self, images: Tensor) -> None:
        """Start all that starts from data with training images [N, C, H, W]."""
        self.prior.initialize(images)
        self.likelihood.initialize(images)
        start_from_data(self, images)

    def forward(self, images: Tensor, num_samples: int = 1) -> LogDensities:
        """Log densities at ``num_samples`` draws from the posterior of each of the images [B, C, H, W]."""
        return self.log_densities(images, self.encoder(images), num_samples)

    def log_densities(self, images: Tensor, features: Tensor, num_samples: int) -> LogDensities:
        """As ``forward``, with features [B, F] that are there already: for drawing samples in portions."""
        z, posterior = self.posterior(features, num_samples)
        return LogDensities(self.likelihood(z).log_prob(images), self.prior().log_prob(z), posterior)

    def encode(self, images: Tensor, num_samples: int = 1) -> Tensor:
        """Draws z [S, B, D] from q(z|x)."""
        return self.posterior(self.encoder(images), num_samples)[0]

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z) for z [S, B, D]."""
        return self.likelihood(z)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Mean images [B, C, H, W] of p(x|z) at the center of each image's posterior."""
        return self.decode(self.posterior.center(self.encoder(images))).mean[0]

    @torch.no_grad()
    def sample(self, num_images: int) -> Tensor:
        """Mean images [N, C, H, W] of p(x|z) for z from the prior."""
        z = self.prior().sample((1, num_images))
        return self.likelihood(z).mean[0]
