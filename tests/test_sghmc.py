"""Stochastic-gradient Hamiltonian Monte Carlo: its distribution, its energy, and momentum as its limit."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowvae.models.sghmc import DECAY, LIGHTEST, SGHMC

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
TARGETS = {  # covariances
    "independent": torch.tensor([[1.0, 0.0], [0.0, 0.25]], dtype=torch.float64),
    "correlated": torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
}
CHAINS = 10_000


def run_chains(covariance: Tensor, steps: int = 400, gradient_noise: float = 0.0, **options: Any) -> Tensor:
    """The last states [CHAINS, 2] of independent chains that start at 0."""
    torch.manual_seed(0)
    theta = nn.Parameter(torch.zeros(CHAINS, 2, dtype=torch.float64))
    optimizer = SGHMC([theta], **options)
    precision = covariance.inverse()
    for _ in range(steps):
        theta.grad = (theta.detach() - MEAN) @ precision
        theta.grad += gradient_noise * torch.randn_like(theta)
        optimizer.step()
    return theta.detach()


def stationary(covariance: Tensor, lr: float, friction: float, added: float) -> Tensor:
    """The covariance of the chain itself: S = A S A' + N, solved as a linear system."""
    precision, one, zero = covariance.inverse(), torch.eye(2).double(), torch.zeros(2, 2).double()
    stride = lr**0.5
    kick = torch.cat(
        [torch.cat([one, zero], 1), torch.cat([-stride * precision, (1 - friction) * one], 1)]
    )  # of (theta, r)
    drift = torch.cat([torch.cat([one, stride * one], 1), torch.cat([zero, one], 1)])
    noise = drift @ torch.block_diag(zero, added * one) @ drift.T
    step = drift @ kick
    flat = torch.linalg.solve(torch.eye(16).double() - torch.kron(step, step), noise.flatten())
    return flat.view(4, 4)[:2, :2]


def assert_gaussian(samples: Tensor, covariance: Tensor) -> None:
    """Mean and covariance are right to 4.5 standard errors."""
    of_mean = (covariance.diag() / len(samples)).sqrt()
    assert ((samples.mean(0) - MEAN).abs() < 4.5 * of_mean).all()
    variances = covariance.diag()
    of_covariance = ((variances[:, None] * variances + covariance**2) / len(samples)).sqrt()
    assert ((torch.cov(samples.T) - covariance).abs() < 4.5 * of_covariance).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_chain_has_the_mean_and_the_covariance_of_its_target(target, temperature):
    covariance, lr, friction = TARGETS[target], 0.01, 0.05
    samples = run_chains(covariance, lr=lr, friction=friction, temperature=temperature)
    exact = stationary(covariance, lr, friction, 2 * friction * temperature)
    assert_gaussian(samples, exact)
    # The step alone makes it wider than the target, by at most this.
    assert_gaussian(samples, temperature * covariance)
    assert (exact.diag() / (temperature * covariance.diag()) < 1.02).all()


@pytest.mark.parametrize("friction", [0.05, 0.5])
def test_the_error_of_the_variance_is_as_documented(friction):
    for curvature in (1.0, 4.0):
        lr, target = 1e-3, torch.eye(2).double() / curvature
        found = stationary(target, lr, friction, 2 * friction)[0, 0] * curvature
        assert found.item() - 1 == pytest.approx(lr * curvature / (4 - 2 * friction), rel=0.01)


def test_a_momentum_on_a_flat_potential_has_the_documented_variance():
    torch.manual_seed(0)
    theta = nn.Parameter(torch.zeros(CHAINS, 5, dtype=torch.float64))
    optimizer = SGHMC([theta], lr=0.1, friction=0.5, temperature=2.0)
    for _ in range(30):
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
    variance = 2.0 / (1 - 0.5 / 2)
    error = variance * math.sqrt(2 / theta.numel())
    assert abs(optimizer.state[theta]["momentum"].var().item() - variance) < 4 * error


def test_the_noise_estimate_corrects_for_the_noise_of_the_gradient():
    covariance, lr, friction, deviation = TARGETS["correlated"], 0.01, 0.1, 3.0
    estimate = lr * deviation**2 / 2
    corrected = run_chains(
        covariance, gradient_noise=deviation, lr=lr, friction=friction, noise_estimate=estimate
    )
    assert_gaussian(corrected, stationary(covariance, lr, friction, 2 * friction))
    hot = run_chains(covariance, gradient_noise=deviation, lr=lr, friction=friction)
    assert_gaussian(hot, stationary(covariance, lr, friction, 2 * friction + lr * deviation**2))


def energies(lr: float, time: float) -> Tensor:
    """Of a particle in ``U = |theta|^4 / 4``, without friction and noise."""
    theta = nn.Parameter(torch.tensor([1.0, -0.5], dtype=torch.float64))
    optimizer = SGHMC([theta], lr=lr, friction=0.0)
    found = []
    for _ in range(round(time / lr**0.5)):
        potential = theta.square().sum().square() / 4
        (theta.grad,) = torch.autograd.grad(potential, theta)
        optimizer.step()
        potential = theta.detach().square().sum().square() / 4
        found.append(potential + optimizer.state[theta]["momentum"].square().sum() / 2)
    return torch.stack(found)


def test_without_friction_the_energy_keeps_to_first_order_and_does_not_drift():
    start = (1.0 + 0.25) ** 2 / 4
    coarse, fine = (energies(lr, time=100.0) for lr in (4e-4, 1e-4))
    worst = [(each - start).abs().max().item() for each in (coarse, fine)]
    assert worst[1] < 0.01
    assert worst[0] / worst[1] == pytest.approx(2, rel=0.1)  # the step is the root of lr
    early, late = fine[: len(fine) // 2], fine[len(fine) // 2 :]
    assert abs(early.mean() - late.mean()) < worst[1] / 20


def test_momentum_moves_before_the_parameters_and_keeps_a_modified_energy():
    """Symplectic Euler on ``U = theta^2 / 2`` conserves ``(r^2 + theta^2 - sqrt(lr) r theta) / 2``."""
    theta = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = SGHMC([theta], lr=0.25, friction=0.0)
    found = []
    for _ in range(50):
        theta.grad = theta.detach().clone()
        optimizer.step()
        r, x = optimizer.state[theta]["momentum"], theta.detach()
        found.append((r**2 + x**2 - 0.5 * r * x).item() / 2)
    assert found == pytest.approx([0.5] * 50, abs=1e-12)


@pytest.mark.parametrize("friction", [0.1, 0.7, 1.0])
def test_at_temperature_0_it_is_gradient_descent_with_momentum(friction):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    other = copy.deepcopy(network)
    ours = SGHMC(network.parameters(), lr=0.03, friction=friction, temperature=0.0)
    theirs = torch.optim.SGD(other.parameters(), lr=0.03, momentum=1 - friction)
    for _ in range(20):
        inputs = torch.randn(8, 4, dtype=torch.float64)
        for each, optimizer in ((network, ours), (other, theirs)):
            optimizer.zero_grad()
            each(inputs).square().mean().backward()
            optimizer.step()
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)


def test_while_masses_adapt_it_is_adam_without_momentum():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    other = copy.deepcopy(network)
    ours = SGHMC(network.parameters(), lr=0.03, friction=1.0, temperature=0.0, adaptation=10)
    theirs = torch.optim.Adam(other.parameters(), lr=0.03, betas=(0.0, DECAY), eps=LIGHTEST)
    for _ in range(10):
        inputs = torch.randn(8, 4, dtype=torch.float64)
        for each, optimizer in ((network, ours), (other, theirs)):
            optimizer.zero_grad()
            each(inputs).square().mean().backward()
            optimizer.step()
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)


def test_masses_stay_as_they_were_adapted_and_leave_the_target_as_it_is():
    covariance = TARGETS["independent"]
    samples = run_chains(covariance, steps=400, lr=0.01, friction=0.1, adaptation=50)
    assert_gaussian(samples, covariance)
    theta = nn.Parameter(torch.ones(3))
    optimizer = SGHMC([theta], lr=0.1, friction=1.0, temperature=0.0, adaptation=4)
    strides = []
    for gradient in (5.0, 1.0, 0.1, 0.01, 30.0, 40.0):
        theta.grad = torch.full_like(theta, gradient)
        before = theta.detach().clone()
        optimizer.step()
        strides.append(((before - theta) / gradient)[0].item())
    assert strides[:4] == sorted(set(strides[:4]))  # masses follow the gradients down
    assert strides[4] == pytest.approx(strides[1])  # to the largest mean of the last steps, of 2, 3 and 4
    assert strides[5] == pytest.approx(strides[4])


def test_a_restored_chain_goes_on_bit_for_bit():
    def steps(theta: nn.Parameter, optimizer: SGHMC, numbers: range) -> None:
        for number in numbers:
            torch.manual_seed(number)
            theta.grad = theta.detach().clone()
            optimizer.step()

    unbroken = nn.Parameter(torch.ones(3))
    optimizer = SGHMC([unbroken], lr=0.1, adaptation=7)
    steps(unbroken, optimizer, range(5))
    again = nn.Parameter(unbroken.detach().clone())
    restored = SGHMC([again], lr=0.5, friction=0.9)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(unbroken, optimizer, range(5, 9))
    steps(again, restored, range(5, 9))
    assert torch.equal(unbroken, again)


@pytest.mark.parametrize(
    "options", [{"friction": 1.5}, {"noise_estimate": 0.2}, {"temperature": -1.0}, {"lr": math.nan}]
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match="none may be negative"):
        SGHMC([nn.Parameter(torch.ones(1))], **{"lr": 0.1, **options})
