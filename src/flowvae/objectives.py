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
    return log_mean_exp(_log_weights(densities, beta))


def take_double_reparametrization(z: Tensor, densities: LogDensities, beta: float = 1.0) -> None:
    """Let the gradient of the importance-weighted bound go on from codes z [S, B, D] with less variance.

    The gradient of log q(z|x) must go through z only (see `flowvae.densities.take_path_derivative`). What
    that leaves out has mean 0 for the ELBO, but not for this bound, where a code's normalized weight w
    depends on the code. Its mean is that of the gradient through z once more, by ``w - 1`` of it (Tucker,
    Lawson, Gu & Maddison 2019, arXiv 1810.04152, equation 8). So the gradient that arrives at z, which has a
    factor of w already, is multiplied by w; with a ``beta`` below 1, by ``1 - beta (1 - w)``.

    ``densities`` are those at z.
    """
    weights = _log_weights(densities, beta).detach().softmax(0)
    factor = (1 - beta * (1 - weights)).unsqueeze(2)
    z.register_hook(lambda gradient: gradient * factor)


def _log_weights(densities: LogDensities, beta: float) -> Tensor:
    return densities.likelihood + beta * (densities.prior - densities.posterior)


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
