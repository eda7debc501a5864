"""What importance weights say of their estimate: against known shapes, and where log p(x) is known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from linear_gaussian import images_and_exact_value, linear_gaussian
from scipy.stats import genpareto
from torch import Tensor

from flowvae.densities import LogDensities
from flowvae.evaluation import Bounds, bounds
from flowvae.evaluation.likelihood import accumulated
from flowvae.evaluation.pareto import pareto_k, tail_length
from flowvae.evaluation.reliability import caveat, weight_diagnostics


def bounds_of(log_weights: Tensor, at_once: int) -> Bounds:
    """Of given log weights [S, B], taken few at a time."""
    portions = iter(log_weights.split(at_once))

    def draw(count: int) -> LogDensities:
        portion = next(portions)
        assert len(portion) == count
        return LogDensities(portion, torch.zeros_like(portion), torch.zeros_like(portion))

    return accumulated(draw, len(log_weights), at_once)


def sizes_and_shapes(scores: Bounds) -> tuple[Tensor, Tensor]:
    assert scores.effective_sample_size is not None
    assert scores.pareto_k is not None
    return scores.effective_sample_size, scores.pareto_k


def diagnostics(scores: Bounds) -> dict[str, float]:
    return weight_diagnostics(*sizes_and_shapes(scores))


def zhang_stephens(excesses: np.ndarray) -> float:
    """The shape as Zhang & Stephens 2009 write it, one sample at a time, with the prior of PSIS."""
    x = np.sort(excesses)
    n = len(x)
    m = 30 + math.floor(math.sqrt(n))
    theta = [
        1 / x[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * x[math.floor(n / 4 + 0.5) - 1])
        for j in range(1, m + 1)
    ]

    def minus_shape(t: float) -> float:
        return -float(np.mean(np.log(1 - t * x)))

    profile = [n * (math.log(t / minus_shape(t)) + minus_shape(t) - 1) for t in theta]
    weights = [1 / sum(math.exp(other - this) for other in profile) for this in profile]
    found = -minus_shape(sum(t * weight for t, weight in zip(theta, weights, strict=True)))
    return (n * found + 5) / (n + 10)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.5, 0.7, 1.0, 2.0])
def test_the_fit_finds_the_shape_of_generalized_pareto_samples(shape):
    draws = np.asarray(
        genpareto.rvs(shape, scale=3.0, size=(400, 200), random_state=np.random.default_rng(0))
    )
    weights = torch.from_numpy(np.concatenate([1 + draws, np.ones((1, 200))])).log().sort(0, True).values
    found = pareto_k(weights)
    expected = (400 * shape + 5) / 410
    assert found.mean().item() == pytest.approx(expected, abs=0.03)
    # The estimator's own standard error (1 + k) / sqrt(M) for k > -1/2.
    assert found.std().item() == pytest.approx((1 + shape) / math.sqrt(400), rel=0.25)
    one_by_one = [zhang_stephens(sample) for sample in draws.T[:10]]
    torch.testing.assert_close(
        found[:10], torch.tensor(one_by_one, dtype=torch.float64), rtol=1e-8, atol=1e-8
    )
    torch.testing.assert_close(pareto_k(weights - 1000), found)  # of no unit


@pytest.mark.parametrize("at_once", [8, 97, 500])
def test_diagnostics_are_those_of_all_weights_however_they_are_streamed(at_once):
    log_weights = 3 * torch.randn(500, 4).double() - 90
    scores = bounds_of(log_weights, at_once)
    weights = (log_weights + 90).exp()
    sizes, shapes = sizes_and_shapes(scores)
    torch.testing.assert_close(sizes, weights.sum(0) ** 2 / weights.square().sum(0))
    assert tail_length(500) == 68
    ordered = log_weights.sort(0, descending=True).values
    torch.testing.assert_close(shapes, pareto_k(ordered[:69]))


@pytest.mark.parametrize(("num_samples", "length"), [(1, 1), (24, 5), (100, 20), (225, 45), (10_000, 300)])
def test_the_tail_is_a_fifth_of_the_samples_or_fewer(num_samples, length):
    assert tail_length(num_samples) == length


def test_weights_without_a_tail_have_no_k():
    equal = torch.zeros(500, 1).double()
    few = torch.randn(20, 1).double()
    nearly_all_zero = torch.full((500, 1), -math.inf).double()
    nearly_all_zero[7] = 0
    for log_weights, size in ((equal, 500), (few, None), (nearly_all_zero, 1)):
        sizes, shapes = sizes_and_shapes(bounds_of(log_weights, 50))
        assert shapes.isnan().all()
        assert size is None or sizes.item() == pytest.approx(size)


def test_weights_that_span_thousands_of_nats_have_a_finite_k():
    """Also where all of the tail is hundreds of nats above its threshold: it is no flat one."""
    _, shapes = sizes_and_shapes(bounds_of(3000 * torch.randn(500, 3).double(), 100))
    assert (shapes > 10).all()
    assert shapes.isfinite().all()
    far = -torch.randn(500, 3).double().square() * torch.tensor([1e5, 1e9, 1e30])
    _, shapes = sizes_and_shapes(bounds_of(far, 100))
    assert (shapes > 10).all()
    assert shapes.isfinite().all()
    tail = torch.cat([3000 * torch.rand(68, 2).double(), torch.tensor([[-1e4, -math.inf]]).double()])
    assert (pareto_k(tail.sort(0, descending=True).values) > 10).all()


def judged(shift: float, stretch: float, num_samples: int) -> tuple[float, dict[str, Any]]:
    """By how much the mean -log p(x) is too high, and what the weights say."""
    model = linear_gaussian(exact=False, shift=shift, stretch=stretch)
    images, exact = images_and_exact_value(model, 100)
    scores = bounds(model, images, num_samples, chunk=20_000)
    error = (scores.negative_log_marginal + exact).mean().item()
    return error, {"samples": num_samples, **diagnostics(scores)}


@pytest.mark.parametrize(
    ("shift", "stretch"), [(0, 0.02), (0, 0.3), (0.5, 0.1), (1.0, 1.0), (0, 30.0)], ids=str
)
def test_a_degenerate_proposal_is_flagged(shift, stretch):
    error, evaluation = judged(shift, stretch, 500)
    assert error > 0.5, "the estimate is right: this would prove nothing"
    said = str(caveat(evaluation))
    assert "S = 500" in said
    assert "upper bound" in said
    assert "--samples" in said
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize(("shift", "stretch"), [(0, 1.0), (0.1, 1.3), (0.1, 1.0), (0, 2.0)], ids=str)
@pytest.mark.parametrize("num_samples", [100, 500])
def test_a_good_proposal_is_not_flagged(shift, stretch, num_samples):
    error, evaluation = judged(shift, stretch, num_samples)
    assert abs(error) < 0.06
    assert caveat(evaluation) is None


def test_a_tenth_of_the_images_is_enough():
    good, bad = torch.randn(500, 17).double(), 10 * torch.randn(500, 3).double()
    evaluation = {"samples": 500, **diagnostics(bounds_of(torch.cat([good, bad], 1), 50))}
    assert evaluation["pareto_k_too_high"] == pytest.approx(3 / 20)
    said = str(caveat(evaluation))
    assert "effective sample size" in said
    assert "Pareto" not in said
    assert caveat({"samples": 500, **diagnostics(bounds_of(good, 50))}) is None


def test_heavy_tails_are_enough():
    weights = torch.from_numpy(genpareto.rvs(0.8, size=(10_000, 20), random_state=np.random.default_rng(0)))
    evaluation = {"samples": 10_000, **diagnostics(bounds_of((1 + weights).log(), 1000))}
    assert evaluation["effective_sample_size_lowest_decile"] > 10
    said = str(caveat(evaluation))
    assert "Pareto k is above 0.7 for " in said
    assert "effective" not in said


def test_an_image_without_a_tail_has_none_that_is_too_heavy():
    equal, bad = torch.zeros(500, 15).double(), 10 * torch.randn(500, 5).double()
    evaluation = diagnostics(bounds_of(torch.cat([equal, bad], 1), 50))
    assert evaluation["pareto_k_too_high"] == pytest.approx(5 / 20)
    assert "pareto_k_too_high" not in diagnostics(bounds_of(equal, 50))
