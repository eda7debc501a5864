"""What importance weights say of the estimate: known tails, and counts by hand."""

import math

import pytest
import torch
from linear_gaussian import images_and_exact_value, linear_gaussian
from torch import Tensor

from flowvae.evaluation import bounds, distrust
from flowvae.evaluation.weights import WeightStatistics, pareto_shape


def statistics_of(log_weights: Tensor, at_once: int) -> WeightStatistics:
    statistics = WeightStatistics(len(log_weights))
    for few in log_weights.split(at_once):
        statistics.add(few)
    return statistics


@pytest.mark.parametrize("at_once", [1, 7, 300])
def test_effective_samples_are_counted_over_all_portions(at_once):
    log_weights = 3 * torch.randn(300, 5).double() - 1000  # whose exponentials underflow
    weights = (log_weights + 1000).exp()
    expected = weights.sum(0).square() / weights.square().sum(0)
    found = statistics_of(log_weights, at_once).effective_sample_size()
    torch.testing.assert_close(found, expected)


def test_the_tail_does_not_depend_on_the_portions():
    log_weights = torch.randn(500, 4).double()
    once, often = (statistics_of(log_weights, at_once).pareto_k() for at_once in (500, 3))
    assert once is not None
    assert often is not None
    torch.testing.assert_close(often, once)


def test_equal_weights_count_in_full_and_have_no_tail():
    statistics = statistics_of(torch.full((400, 3), -80.0).double(), 100)
    torch.testing.assert_close(statistics.effective_sample_size(), torch.full((3,), 400.0).double())
    k = statistics.pareto_k()
    assert k is not None
    assert (k == -math.inf).all()


def test_one_weight_that_carries_everything_counts_once():
    log_weights = torch.zeros(400, 1).double()
    log_weights[7] = 200.0
    torch.testing.assert_close(statistics_of(log_weights, 50).effective_sample_size(), torch.ones(1).double())


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.5, 0.7, 1.0, 1.5])
def test_the_shape_of_a_known_tail_is_found(k):
    """Excesses of the generalized Pareto distribution, by its quantile function."""
    uniform = torch.rand(4000, 20, dtype=torch.float64)
    excesses = (uniform.pow(-k) - 1) / k
    found = pareto_shape(excesses.sort(0, descending=True).values)
    # The estimate's deviation is about (1 + k) / sqrt(M).
    assert (found - k).abs().max() < 5 * (1 + abs(k)) / math.sqrt(4000) + 0.01


def test_the_tail_of_weights_with_a_known_shape_is_found():
    """Weights of the Pareto distribution P(w > x) = x^(-1 / k) have that tail beyond every threshold."""
    for k in (0.4, 0.9):
        log_weights = -k * torch.rand(20_000, 200, dtype=torch.float64).log()
        found = statistics_of(log_weights, 500).pareto_k()
        assert found is not None
        assert found.mean().item() == pytest.approx(k, abs=0.03)


def test_too_few_samples_have_no_tail_to_be_fitted():
    assert statistics_of(torch.randn(20, 3), 20).pareto_k() is None
    assert statistics_of(torch.randn(21, 3), 20).pareto_k() is not None


def test_bounds_know_how_far_they_can_be_trusted():
    exact, wide = linear_gaussian(exact=True), linear_gaussian(exact=False)
    images, _ = images_and_exact_value(exact, 4)
    of_exact, of_wide = bounds(exact, images, 200), bounds(wide, images, 200, chunk=30)
    assert of_exact.effective_sample_size is not None
    assert of_wide.effective_sample_size is not None
    torch.testing.assert_close(of_exact.effective_sample_size, torch.full((4,), 200.0).double())
    assert (of_wide.effective_sample_size < 190).all()
    assert (of_wide.effective_sample_size >= 1).all()
    assert of_wide.pareto_k is not None
    assert of_wide.pareto_k.shape == (4,)


@pytest.mark.parametrize(
    ("size", "k", "trusted"),
    [(10.0, 1.0, True), (9.9, 0.2, False), (300.0, 1.1, False), (10.0, None, True), (2.0, None, False)],
)
def test_what_cannot_be_trusted_is_said_in_one_line(size, k, trusted):
    scores = {"samples": 1000, "effective_sample_size": size, **({} if k is None else {"pareto_k": k})}
    said = distrust(scores)
    if trusted:
        assert said is None
    else:
        assert said is not None
        assert f"of 1,000 samples, {size:.1f} carry the weight" in said
        assert ("Pareto k" in said) == (k is not None)
        assert "\n" not in said


def test_exact_densities_are_trusted():
    assert distrust({"nll": 80.0}) is None
