"""Activations of causal networks that go over memory as few times as they can.

On a CPU, a pass over maps takes time by the memory it reads and writes, not by its arithmetic.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def padded_hardswish(x: Tensor, reach: int) -> Tensor:
    """Compute hardswish(x), with zeros around it but not below: [N, C, H, W] to [N, C, H + r, W + 2 r].

    ``reach``: r, at least 1.

    >>> padded_hardswish(torch.full((1, 1, 1, 2), 3.0), reach=1)
    tensor([[[[0., 0., 0., 0.],
              [0., 3., 3., 0.]]]])
    """
    return _PaddedHardswish.apply(x, reach)


class _PaddedHardswish(torch.autograd.Function):
    """`padded_hardswish`, written straight into the middle of the padded map, and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: int) -> Tensor:
        number, channels, height, width = x.shape
        padded = x.new_empty(number, height + reach, width + 2 * reach, channels).permute(0, 3, 1, 2)
        padded[:, :, :reach] = 0
        padded[..., :reach] = 0
        padded[..., -reach:] = 0
        torch.ops.aten.hardswish.out(x, out=_middle(padded, reach))
        ctx.save_for_backward(x)
        ctx.reach = reach
        return padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardswish_backward(_middle(gradient, ctx.reach), x), None


def _middle(padded: Tensor, reach: int) -> Tensor:
    return padded[:, :, reach:, reach:-reach]


def gate(both: Tensor) -> Tensor:
    """Compute ``a * hardsigmoid(b)`` [N, C, H, W] of the halves a, b of the channels of [N, 2 C, H, W]."""
    return _Gate.apply(both)


class _Gate(torch.autograd.Function):
    """`gate`, whose gradients of both halves are written where they belong, not joined afterwards."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        a, b = both.chunk(2, dim=1)
        opened = F.hardsigmoid(b)
        ctx.save_for_backward(both, opened)
        return a * opened

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        both, opened = ctx.saved_tensors
        a, b = both.chunk(2, dim=1)
        of_both = torch.empty_like(both)
        of_a, of_b = of_both.chunk(2, dim=1)
        torch.mul(gradient, opened, out=of_a)
        torch.ops.aten.hardsigmoid_backward.grad_input(gradient * a, b, grad_input=of_b)
        return of_both
