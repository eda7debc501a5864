"""What training maximizes: pure functions of `LogDensities`, in nats."""

import math

import torch
from torch import Tensor

from flowvae.densities import LogDensities


def elbo(densities: LogDensities, beta: float = 1.0) -> Tensor:
    """Evidence lower bound, ``E_q[log p(x|z) + beta (log p(z) - log q(z|x))]``, [B].

    With ``beta = 1`` a lower bound on log p(x) (Kingma & Welling 2014, equation 2); smaller while the
    Kullback-Leibler term warms up.

    >>> ones = torch.ones(5, 7)
    >>> elbo(LogDensities(likelihood=-80 * ones, prior=-40 * ones, posterior=-20 * ones)).shape
    torch.Size([7])
    """
    return (densities.likelihood + beta * (densities.prior - densities.posterior)).mean(0)


def importance_weighted_bound(densities: LogDensities, beta: float = 1.0) -> Tensor:
    """``log (1/S) sum_s p(x, z_s) / q(z_s|x)``, [B]: at least as tight as the ELBO (Burda et al. 2016).

    ``beta`` is the weight of ``log p(z) - log q(z|x)`` in it, as in `elbo`.
    """
    weights = densities.likelihood + beta * (densities.prior - densities.posterior)
    return torch.logsumexp(weights, 0) - math.log(len(weights))


def free_bits_elbo(densities: LogDensities, free_bits: float, beta: float = 1.0) -> Tensor:
    """The ELBO's mean over images, a scalar, whose first ``free_bits`` nats of KL cost nothing.

    (Kingma et al. 2016, appendix C.8, with all dimensions as one group, since the KL of a flow posterior
    does not split into dimensions.)
    """
    divergence = (densities.posterior - densities.prior).mean()
    return densities.likelihood.mean() - beta * divergence.clamp(min=free_bits)


def warm_up(step: int, steps: int) -> float:
    """Weight that rises from 0 to 1 in a straight line over the first ``steps`` steps; 1 if there are none.

    >>> [warm_up(step, 4) for step in (0, 2, 4, 100)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return min(step / steps, 1.0) if steps else 1.0
