"""How heavy the tail of importance weights is."""

import math

import torch
from torch import Tensor

FEWEST = 5  # of which a tail can be fitted


def tail_length(num_samples: int) -> int:
    """M, how many of S importance weights make the tail (Vehtari et al. 2024)."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_k(log_weights: Tensor) -> Tensor:
    """The shape k of the generalized Pareto distribution that fits the tail of importance weights, [B].

    Moments of the order 1 / k and above are infinite: from k = 1/2 on the variance, from k = 1 on the mean.

    k is the mean of ``log(1 - b x)`` over the M excesses x of the tail above its threshold, where b is the
    mean of its posterior on a grid (Zhang & Stephens 2009). Then it is drawn to 1/2 as by ten observations,
    which steadies it where the tail is short (Vehtari et al. 2024).

    Args:
        log_weights: the M + 1 largest of an image, largest first, [M + 1, B]; the last is the threshold.

    Returns:
        NaN where fewer than five excesses are given, or where a quarter of them are zero: such weights are as
        good as equal, or nearly all zero, and have no tail.
    """
    *_, threshold = log_weights
    length = len(log_weights) - 1
    if length < FEWEST:
        return torch.full_like(threshold, math.nan)
    above = log_weights[:-1]
    logs = torch.where(above > threshold, above + (-(threshold - above).expm1()).log(), -math.inf)
    quartile = logs[length - int(length / 4 + 0.5)]
    # In units of the quartile, which k does not depend on. 600 nats above it are more than any k needs, and
    # the quotients below stay finite.
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
    """The likeliest k, [B], given b [B] and the excesses [M, B]."""
    return torch.log1p(-rate * excesses).mean(0)
