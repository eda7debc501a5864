"""Pareto k: how heavy the tail of importance weights is."""

import math

import torch
from torch import Tensor

FEWEST = 5  # excesses to which a tail can be fitted


def tail_length(num_samples: int) -> int:
    """Return M, the number of importance weights, out of S, in the tail (Vehtari et al. 2024)."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_k(log_weights: Tensor) -> Tensor:
    """Fit a generalized Pareto distribution to the tail of importance weights; return its shape k, [B].

    Moments of order 1 / k and above are infinite: the variance for k >= 1/2, the mean for k >= 1.

    k is the mean of ``log(1 - b x)`` over the M excesses x of the tail above its threshold, where b is the
    mean of its posterior on a grid (Zhang & Stephens 2009). It is then shrunk towards 1/2 with the weight of
    ten observations, which stabilizes it for short tails (Vehtari et al. 2024).

    Args:
        log_weights: M + 1 largest per image, largest first, [M + 1, B]; the last is the threshold.

    Returns:
        NaN for fewer than five excesses, or if a quarter of them are zero: such weights are almost equal, or
        almost all zero, and have no tail.
    """
    *_, threshold = log_weights
    length = len(log_weights) - 1
    if length < FEWEST:
        return torch.full_like(threshold, math.nan)
    above = log_weights[:-1]
    logs = torch.where(above > threshold, above + (-(threshold - above).expm1()).log(), -math.inf)
    quartile = logs[length - int(length / 4 + 0.5)]
    # In units of the quartile, on which k does not depend. Clamping at 600 nats above it does not affect k,
    # and keeps the quotients below finite.
    excesses = (logs - quartile).clamp(max=600).exp()
    points = 30 + int(math.sqrt(length))
    grid = [1 / excesses[0] + (1 - math.sqrt(points / (point - 0.5))) / 3 for point in range(1, points + 1)]
    rates = torch.stack(grid)
    # Point by point, so that no tensor is larger than the tail.
    shapes = torch.stack([_shape(rate, excesses) for rate in grid])
    log_likelihoods = length * ((-rates / shapes).log() - shapes - 1)
    k = _shape((log_likelihoods.softmax(0) * rates).sum(0), excesses)
    return torch.where(quartile > -math.inf, (length * k + 10 * 0.5) / (length + 10), math.nan)


def _shape(rate: Tensor, excesses: Tensor) -> Tensor:
    """Return the maximum-likelihood k, [B], given b [B] and the excesses [M, B]."""
    return torch.log1p(-rate * excesses).mean(0)
