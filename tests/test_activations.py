"""Activations of causal networks against the plain operations of which they are made."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowvae.networks.activations import gate, padded_hardswish


def plainly_gated(both: Tensor) -> Tensor:
    a, b = both.chunk(2, dim=1)
    return a * F.hardsigmoid(b)


FUNCTIONS = {
    "gate": (gate, plainly_gated),
    "padded by 1": (lambda x: padded_hardswish(x, 1), lambda x: F.pad(F.hardswish(x), (1, 1, 1, 0))),
    "padded by 3": (lambda x: padded_hardswish(x, 3), lambda x: F.pad(F.hardswish(x), (3, 3, 3, 0))),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_the_plain_operations(name, dtype, memory_format):
    torch.manual_seed(0)
    x = (4 * torch.randn(3, 6, 5, 4)).to(dtype).to(memory_format=memory_format).requires_grad_()
    mine, plain = (function(x) for function in FUNCTIONS[name])
    assert torch.equal(mine, plain)
    weights = torch.randn(mine.shape).to(dtype)  # in another memory format than some of the maps
    (of_mine,), (of_plain,) = (torch.autograd.grad((weights * y).sum(), x) for y in (mine, plain))
    assert of_mine.abs().sum() > 0
    assert torch.equal(of_mine, of_plain)
