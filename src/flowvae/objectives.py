"""Objectives that training maximizes: pure functions of `LogDensities`, in nats."""

import math

from torch import Tensor

from flowvae import shares
from flowvae.densities import LogDensities


def elbo(densities: LogDensities, beta: float = 1.0) -> Tensor:
    """Compute the evidence lower bound, ``E_q[log p(x|z) + beta (log p(z) - log q(z|x))]``, [B].

    With ``beta = 1`` it is a lower bound on log p(x) (Kingma & Welling 2014, equation 2); beta is smaller
    during the warm-up of the Kullback-Leibler term.

    >>> import torch
    >>> ones = torch.ones(5, 7)
    >>> elbo(LogDensities(likelihood=-80 * ones, prior=-40 * ones, posterior=-20 * ones)).shape
    torch.Size([7])
    """
    return (densities.likelihood + beta * (densities.prior - densities.posterior)).mean(0)


def importance_weighted_bound(densities: LogDensities, beta: float = 1.0) -> Tensor:
    """Compute ``log (1/S) sum_s p(x, z_s) / q(z_s|x)``, [B], at least as tight as the ELBO.

    (Burda et al. 2016.) ``beta`` is the weight of ``log p(z) - log q(z|x)``, as in `elbo`.
    """
    return log_mean_exp(densities.likelihood + beta * (densities.prior - densities.posterior))


def log_mean_exp(values: Tensor) -> Tensor:
    """Compute the logarithm of the mean of ``exp(values)`` over the first axis."""
    return values.logsumexp(0) - math.log(len(values))


def free_bits_elbo(densities: LogDensities, free_bits: float, beta: float = 1.0) -> Tensor:
    """Compute the mean ELBO of the images, a scalar, without penalty on the first ``free_bits`` nats of KL.

    (Kingma et al. 2016, appendix C.8, with all dimensions as one group, since the KL of a flow posterior
    does not decompose over dimensions.)
    """
    divergence = shares.overall((densities.posterior - densities.prior).mean())
    return densities.likelihood.mean() - beta * divergence.clamp(min=free_bits)


def warm_up(step: int, steps: int) -> float:
    """Return a weight that rises linearly from 0 to 1 over the first ``steps`` steps; 1 if there are none.

    >>> [warm_up(step, 4) for step in (0, 2, 4, 100)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return min(step / steps, 1.0) if steps else 1.0
