"""What importance weights say of the estimate that is made of them."""

import math

import torch
from torch import Tensor

FEWEST = 5  # of the largest weights, to fit a tail to


class WeightStatistics:
    """Effective sample size and tail shape of the weights of each image, streamed.

    Memory grows with the square root of the number of samples S, not with S.

    Args:
        num_samples: S, of which ``add`` is given some at a time.

    >>> statistics = WeightStatistics(num_samples=400)
    >>> for _ in range(4):
    ...     statistics.add(torch.zeros(100, 7))
    >>> statistics.effective_sample_size().round()
    tensor([400., 400., 400., 400., 400., 400., 400.])
    """

    def __init__(self, num_samples: int) -> None:
        # As many as Vehtari et al. (2024, section 2) take for the tail.
        self.tail = math.ceil(min(0.2 * num_samples, 3 * math.sqrt(num_samples)))
        self.log_sum = self.log_sum_of_squares = torch.tensor(-math.inf)
        self.largest = torch.empty(0)

    def add(self, log_weights: Tensor) -> None:
        """Log weights of some samples of each image, [S', B]."""
        self.log_sum = torch.logaddexp(self.log_sum, log_weights.logsumexp(0))
        self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, (2 * log_weights).logsumexp(0))
        seen = torch.cat([self.largest.reshape(-1, log_weights.shape[1]), log_weights])
        self.largest = seen.topk(min(self.tail + 1, len(seen)), dim=0).values

    def effective_sample_size(self) -> Tensor:
        """``(sum w)^2 / sum w^2``, [B], from 1 to S: so many equal weights would vary it as much."""
        return (2 * self.log_sum - self.log_sum_of_squares).exp()

    def pareto_k(self) -> Tensor | None:
        """The shape k of the generalized Pareto distribution of the largest weights, [B]; None of too few.

        The weights have a finite variance where k < 1/2. Above 0.7 the average of so many converges too
        slowly to be trusted (Vehtari et al. 2024, https://arxiv.org/abs/1507.02646, section 3).
        """
        if self.tail < FEWEST:
            return None
        scaled = (self.largest - self.largest[0]).exp()  # the largest weight is 1
        return pareto_shape(scaled[:-1] - scaled[-1])


def pareto_shape(excesses: Tensor) -> Tensor:
    """The shape k of generalized Pareto distributions, [B], fitted to ``excesses`` [M, B] over a threshold.

    The posterior mean under the weak prior of Zhang & Stephens (2009, equations 4 to 6), drawn towards 1/2 as
    if by ten more values (Vehtari et al. 2024, appendix C). Where all excesses are 0, as of equal weights,
    minus infinity.
    """
    count = len(excesses)
    x = excesses.flip(0)  # the smallest first
    points = 30 + int(math.sqrt(count))
    quartile = x[(count + 2) // 4 - 1].clamp(min=torch.finfo(x.dtype).tiny)
    grid = 1 - (points / (torch.arange(1, points + 1, dtype=x.dtype) - 0.5)).sqrt()
    theta = grid.unsqueeze(1) / (3 * quartile) + 1 / x[-1].clamp(min=torch.finfo(x.dtype).tiny)  # [points, B]
    shapes = torch.log1p(-theta.unsqueeze(1) * x).mean(1)
    likelihood = count * ((-theta / shapes).log() - shapes - 1)
    weights = likelihood.nan_to_num(-math.inf).softmax(0)
    mean = (weights * theta).sum(0)
    k = torch.log1p(-mean * x).mean(0)
    k = (count * k + 10 * 0.5) / (count + 10)
    return torch.where(x[-1] > 0, k, -math.inf)
