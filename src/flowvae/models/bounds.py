"""The bounds on log p(x) that an autoencoder is trained by, as parts."""

from dataclasses import dataclass

from torch import Tensor

from flowvae.densities import LogDensities
from flowvae.objectives import elbo, free_bits_elbo, importance_weighted_bound
from flowvae.parts import LARGEST, Part, ranged


@dataclass(frozen=True)
class ELBO(Part):
    """The evidence lower bound."""

    name = "elbo"
    path_derivative: bool = True
    """use the path derivative: the gradient of log q(z|x) through z only; no effect with batch norm"""
    free_bits: float = ranged(0.0, 0, LARGEST)
    """number of nats of KL per image, averaged over the batch, that are not penalized"""

    def __call__(self, densities: LogDensities, beta: float) -> Tensor:
        if self.free_bits:
            return free_bits_elbo(densities, self.free_bits, beta)
        return elbo(densities, beta).mean()


@dataclass(frozen=True)
class ImportanceWeighted(Part):
    """The importance-weighted bound with S samples."""

    name = "importance-weighted"
    path_derivative: bool = True
    """use the doubly reparametrized gradient, of the codes' weights too; no effect with batch norm"""

    def __call__(self, densities: LogDensities, beta: float) -> Tensor:
        return importance_weighted_bound(densities, beta).mean()
