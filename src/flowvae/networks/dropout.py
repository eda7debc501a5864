"""Dropout whose probability rises in training if models of few images need it."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae import shares

LEVELS = 2**16
"""probabilities are rounded to multiples of its inverse on a CPU"""


class Dropout(nn.Module):
    """Dropout with the same masks for any number of processes.

    Args:
        probability: that of an entry to become 0.
        axis: axis of the images.
    """

    def __init__(self, probability: float = 0.0, axis: int = 0) -> None:
        super().__init__()
        self.least, self.axis = probability, axis
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return values
        order = sorted(range(values.ndim), key=values.stride, reverse=True)  # of the axes in memory

        def draw(shape: tuple[int, ...]) -> Tensor:
            drawn = _draw([shape[axis] for axis in order], self.probability, values)
            return drawn.permute([order.index(axis) for axis in range(values.ndim)])

        drawn = shares.drawn(draw, tuple(values.shape), self.axis)
        return values * _factors(drawn, self.probability, values)


def _draw(shape: Sequence[int], probability: float, like: Tensor) -> Tensor:
    """Draw what `_factors` makes factors of: on a CPU, 16 random bits for each, int16.

    PyTorch's own dropout draws a number for each entry, which takes longer. Here four share a number of 64
    bits, and these come from NumPy, in a third of the time of PyTorch's Mersenne Twister.
    """
    if like.device.type != "cpu" or torch.compiler.is_compiling():  # which fuses it with what comes after
        return F.dropout(like.new_ones(shape), probability)
    number = math.prod(shape)
    generator = np.random.PCG64DXSM(int(torch.randint(2**63 - 1, ())))
    bits = generator.random_raw(-(-number // 4)).view(np.int16)
    return torch.from_numpy(bits)[:number].view(*shape)


def _factors(drawn: Tensor, probability: float, like: Tensor) -> Tensor:
    """Convert what is drawn to factors of the type of ``like``: 0 with a probability, and 1 on average."""
    if drawn.dtype != torch.int16:
        return drawn
    zeros = min(round(probability * LEVELS), LEVELS - 1)
    # In place, as numbers: to convert booleans to half precision takes eight times as long.
    return drawn.ge_(zeros - LEVELS // 2).to(like.dtype).mul_(LEVELS / (LEVELS - zeros))


def raise_dropout(model: nn.Module, probability: float) -> None:
    """Set the probability of all dropout in a model, except where its own is higher."""
    for part in model.modules():
        if isinstance(part, Dropout):
            part.probability = max(part.least, probability)
