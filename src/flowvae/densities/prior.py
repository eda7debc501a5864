"""Priors p(z)."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal


class StandardNormal(nn.Module):
    """``p(z) = N(0, I)`` over D dimensions; ``forward()`` gives the distribution.

    >>> prior = StandardNormal(3)
    >>> prior().log_prob(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7])
    """

    mean: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension), persistent=False)

    def forward(self) -> Distribution:
        return Independent(Normal(self.mean, torch.ones_like(self.mean), validate_args=False), 1)
