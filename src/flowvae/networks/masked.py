"""The masked, autoregressive conditioner of inverse autoregressive flows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedDense(nn.Module):
    """A perceptron whose outputs i and D + i depend only on the inputs before i (MADE, Germain et al. 2015).

    ``relu(x (W_1 * M_1) + context + b_1) (W_2 * M_2) + b_2``; with degrees m of the hidden units cycling
    through 1..D-1, ``M_1[i, h] = [m_h >= i]`` and ``M_2[h, i] = [i > m_h]``. The last layer starts at zero.

    Args:
        dimension: D inputs, 2 D outputs.
        hidden: width of the hidden layer.
        context: take a context [B, hidden].
        reverse: the order is from the last dimension to the first.
    """

    mask_in: Tensor
    mask_out: Tensor

    def __init__(self, dimension: int, hidden: int, *, context: bool = False, reverse: bool = False) -> None:
        super().__init__()
        self.context_features = hidden if context else 0
        self.first = nn.Linear(dimension, hidden)
        self.last = nn.Linear(hidden, 2 * dimension)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        order = torch.arange(1, dimension + 1)
        if reverse:
            order = order.flip(0)
        degree = torch.arange(hidden) % max(dimension - 1, 1) + 1
        self.register_buffer(
            "mask_in", (degree[:, None] >= order).to(torch.get_default_dtype()), persistent=False
        )
        mask_out = (order[:, None] > degree).to(torch.get_default_dtype())
        self.register_buffer("mask_out", mask_out.repeat(2, 1), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``x`` [S, B, D], context [B, hidden]; returns [S, B, 2 D]."""
        hidden = F.linear(x, self.first.weight * self.mask_in, self.first.bias)
        if self.context_features and context is not None:
            hidden = hidden + context
        return F.linear(torch.relu(hidden), self.last.weight * self.mask_out, self.last.bias)
