"""One training step of a posterior: ours, and other libraries' flows on the same Gaussian base."""

import torch
from torch import Tensor, nn

from benchmarks.timing import Call
from flowvae.densities import GaussianPosterior, Posterior
from flowvae.models.couplings import CodeShape
from flowvae.models.posteriors import FlowOptions, build_posterior


class PeerPosterior(nn.Module):
    """The Gaussian base that ours has, pushed through a peer's flow.

    Args:
        flow: from ``z`` [S, B, D] and features [B, F] to ``z'`` [S, B, D] and ``log|det|`` [S, B].
    """

    def __init__(self, features: int, dimension: int, flow: nn.Module) -> None:
        super().__init__()
        self.base = GaussianPosterior(features, dimension)
        self.flow = flow

    def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        z, log_density = self.base(features, num_samples)
        z, log_determinant = self.flow(z, features)
        return z, log_density - log_determinant


def moved(module: nn.Module, by: float = 0.05) -> nn.Module:
    """With parameters moved at random, away from the identity that flows start as."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


def gradient_step(posterior: nn.Module, features: Tensor, num_samples: int = 1) -> Call:
    """Sample, log q, and the gradients of the mean KL to a standard normal for features and parameters."""
    features = features.detach().requires_grad_()
    inputs = [features, *posterior.parameters()]

    def call() -> tuple[Tensor, ...]:
        z, log_density = posterior(features, num_samples)
        loss = (log_density + 0.5 * z.square().sum(2)).mean()
        return torch.autograd.grad(loss, inputs)

    return call


def our_posterior(options: FlowOptions, features: int, dimension: int) -> Posterior:
    """Of codes of D numbers, from the features [B, F] of images."""
    return build_posterior(options, CodeShape(dimension), features, full=False, blocks=1)


def our_step(
    options: FlowOptions, images: int, features: int, dimension: int = 40, num_samples: int = 1
) -> Call:
    """The `gradient_step` of our posterior, moved, for random features of so many images."""
    given = torch.randn(images, features)
    return gradient_step(moved(our_posterior(options, features, dimension)), given, num_samples)
