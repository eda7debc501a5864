"""The log densities of a latent-variable model at posterior samples."""

from typing import NamedTuple

from torch import Tensor


class LogDensities(NamedTuple):
    """Log densities in nats at samples ``z ~ q(z|x)``, each [S, B], summed over dimensions."""

    likelihood: Tensor
    """``log p(x|z)``"""
    prior: Tensor
    """``log p(z)``"""
    posterior: Tensor
    """``log q(z|x)``"""
