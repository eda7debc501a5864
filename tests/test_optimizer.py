"""The optimizer: what it does to kernels, and that the rest is AdamW."""

import copy

import pytest
import torch
from torch import nn

from flowvae.training.optimizer import Muon, adamw, orthogonalized


@pytest.mark.parametrize("shape", [(2, 16, 36), (2, 64, 16)])
def test_orthogonalized_keeps_singular_vectors_and_levels_values(shape):
    torch.manual_seed(0)
    left = torch.linalg.qr(torch.randn(shape[0], shape[1], 16, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(shape[0], shape[2], 16, dtype=torch.float64))[0]
    singular = torch.logspace(0, -1.5, 16, dtype=torch.float64)
    levelled = left.mT @ orthogonalized(left * singular @ right.mT) @ right
    values = levelled.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(levelled, torch.diag_embed(values), atol=1e-9, rtol=0)
    assert (values > 0.6).all()
    assert (values < 1.3).all()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 16, 3), nn.Flatten(), nn.Linear(16, 3))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> nn.Module:
    for step in range(number):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 4, 3, 3)).square().sum().backward()
        optimizer.step()
    return model


def test_a_first_step_moves_the_kernel_along_its_orthogonalized_gradient():
    model = network()
    kernel = next(model.parameters())
    before = kernel.detach().clone()
    steps(model, Muon(model.parameters(), learning_rate=0.01, weight_decay=0.1), 1)
    assert kernel.grad is not None
    direction = orthogonalized(kernel.grad.flatten(1).unsqueeze(0)).view_as(kernel)
    expected = before * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 36**0.5 * direction
    torch.testing.assert_close(kernel, expected)


def test_a_step_whose_iterations_are_in_half_precision_is_nearly_the_same():
    torch.manual_seed(0)
    before, gradient = torch.randn(2, 16, 4, 3, 3)
    after = []
    for iterates_in in (None, torch.bfloat16):
        kernel = nn.Parameter(before.clone())
        kernel.grad = gradient.clone()
        bias = nn.Parameter(torch.zeros(16))
        Muon([kernel, bias], 0.01, 0.0, iterates_in=iterates_in).step()
        after.append(kernel.detach())
    assert after[1].dtype == torch.float32
    assert not torch.equal(*after)
    torch.testing.assert_close(after[1] - before, after[0] - before, atol=0.03 * 0.01 * 0.2 * 36**0.5, rtol=0)


@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_what_is_no_kernel_goes_the_way_of_adamw(beta1):
    mine, plain = network(), network()
    # Frozen kernels, so that both see the same gradients.
    for model in (mine, plain):
        next(model.parameters()).requires_grad_(False)
    steps(mine, Muon(mine.parameters(), 0.01, 0.1, beta1), 3)
    optimizer = adamw([p for p in plain.parameters() if p.requires_grad], 0.01, 0.1, beta1)
    assert optimizer.defaults["betas"][0] == beta1
    steps(plain, optimizer, 3)
    for one, other in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_saved_state_goes_on_exactly():
    whole = network()
    steps(whole, Muon(whole.parameters(), 0.01, 0.1), 2)
    first = network()
    optimizer = Muon(first.parameters(), 0.01, 0.1)
    steps(first, optimizer, 1)
    again = copy.deepcopy(first)
    resumed = Muon(again.parameters(), 0.01, 0.1)
    resumed.load_state_dict(optimizer.state_dict())
    torch.manual_seed(1)
    resumed.zero_grad()
    again(torch.randn(8, 4, 3, 3)).square().sum().backward()
    resumed.step()
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
