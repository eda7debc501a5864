"""Likelihood estimates and posterior densities against what is known exactly."""

import math
from typing import Any

import pytest
import torch
from linear_gaussian import (
    ExactPosterior,
    images_and_exact_value,
    in_single_precision,
    likelihood_of,
    linear_gaussian,
)
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.utils._python_dispatch import TorchDispatchMode

from flowvae.densities import FlowPosterior, GaussianPosterior
from flowvae.errors import UserError
from flowvae.evaluation import bounds, log_marginal
from flowvae.flows import Planar
from flowvae.models.couplings import CodeShape
from flowvae.models.posteriors import (
    FlowOptions,
    InverseAutoregressiveOptions,
    PlanarOptions,
    RealNVPOptions,
    build_posterior,
)
from flowvae.objectives import elbo, importance_weighted_bound


def test_estimate_is_the_exact_value_within_its_error():
    model = linear_gaussian(exact=False)
    images, exact = images_and_exact_value(model, 10)
    scores = bounds(model, images, num_samples=2000)
    assert (scores.negative_elbo + exact > 0.05).all(), "the posterior is exact: this would prove nothing"
    repeats = torch.stack([log_marginal(model, images, num_samples=2000) for _ in range(20)])
    standard_error = repeats.std(0) / math.sqrt(len(repeats))
    assert (
        (repeats.mean(0) - exact).abs() < 3 * standard_error + 1e-6
    ).float().mean() >= 0.9  # 3 in 1000 may not
    over_images = repeats.mean(1)
    error = (over_images.mean() - exact.mean()).abs()
    assert error < 3 * over_images.std() / math.sqrt(len(over_images))
    assert error < 0.02
    assert (repeats - exact).abs().max() < 0.1


def test_negative_elbo_is_too_large_by_the_divergence_from_the_exact_posterior():
    """KL(q || p(z|x)) in closed form."""
    model = linear_gaussian(exact=False)
    images, exact = images_and_exact_value(model, 10)
    truth = ExactPosterior(likelihood_of(model).weight.detach())
    x = images.flatten(1)
    assert isinstance(model.posterior, GaussianPosterior)
    mean, log_scale = model.posterior.mean_and_log_scale(x).chunk(2, dim=1)
    q = MultivariateNormal(mean, torch.diag_embed(log_scale.exp() ** 2))
    p = MultivariateNormal(x @ truth.to_mean.T, truth.covariance)
    divergence = torch.distributions.kl_divergence(q, p)
    scores = bounds(model, images, num_samples=40_000, chunk=40_000)
    torch.testing.assert_close(scores.negative_elbo, divergence - exact, atol=0.05, rtol=0)
    torch.testing.assert_close(scores.negative_elbo.mean(), (divergence - exact).mean(), atol=0.01, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 7, 50])
@pytest.mark.parametrize("chunk", [1, 8, 1024])
def test_with_the_exact_posterior_every_sample_gives_the_exact_value(num_samples, chunk):
    model = linear_gaussian(exact=True)
    images, exact = images_and_exact_value(model, 5)
    densities = model(images, num_samples)
    weights = densities.likelihood + densities.prior - densities.posterior
    torch.testing.assert_close(weights, exact.expand(num_samples, -1), atol=1e-10, rtol=0)
    torch.testing.assert_close(elbo(densities), exact, atol=1e-10, rtol=0)
    scores = bounds(model, images, num_samples, chunk)
    torch.testing.assert_close(-scores.negative_log_marginal, exact, atol=1e-10, rtol=0)
    torch.testing.assert_close(-scores.negative_elbo, exact, atol=1e-10, rtol=0)


def test_importance_weighted_bound_grows_towards_the_exact_value():
    model = linear_gaussian(exact=False)
    images, exact = images_and_exact_value(model, 20)
    repeats = 200
    expectation, error = [], []
    for num_samples in (1, 3, 10, 100):
        copies = images.repeat(repeats, 1, 1, 1)
        values = importance_weighted_bound(model(copies, num_samples)).view(repeats, -1).mean(1)
        expectation.append(values.mean().item())
        error.append(values.std().item() / math.sqrt(repeats))
    for i in range(3):
        assert expectation[i + 1] - expectation[i] > 3 * math.hypot(error[i], error[i + 1])
    assert expectation[-1] < exact.mean() + 3 * error[-1]
    assert expectation[-1] > exact.mean() - 0.01


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation inside makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_memory_does_not_grow_with_the_number_of_samples():
    model = linear_gaussian(exact=False)
    images, _ = images_and_exact_value(model, 5)
    largest = []
    for num_samples in (200, 5000):  # whose tails of 43 and of 213 weights are smaller than a portion
        likelihood_of(model).seen.clear()
        with LargestTensor() as tensors:
            bounds(model, images, num_samples, chunk=256)
        largest.append(tensors.elements)
        assert sum(likelihood_of(model).seen) == 5 * num_samples
        assert max(likelihood_of(model).seen) <= 256
    assert largest[0] == largest[1]


def test_chunk_is_the_largest_number_of_pairs_at_once():
    model = linear_gaussian(exact=False)
    images, _ = images_and_exact_value(model, 11)
    for chunk in (1, 4, 11, 30):
        likelihood_of(model).seen.clear()
        assert log_marginal(model, images, num_samples=7, chunk=chunk).shape == (11,)
        assert sum(likelihood_of(model).seen) == 77
        assert max(likelihood_of(model).seen) <= chunk


def test_single_precision_agrees_with_double():
    """The streamed sums do not lose digits: 4,000 samples in portions of 10."""
    model = linear_gaussian(exact=True)
    images, exact = images_and_exact_value(model, 2)
    scores = bounds(in_single_precision(model), images.float(), num_samples=4000, chunk=20)
    torch.testing.assert_close(-scores.negative_log_marginal, exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(-scores.negative_elbo, exact, atol=1e-4, rtol=0)


# Flow posteriors in two dimensions.


FLOWS: dict[str, FlowOptions] = {
    "planar": PlanarOptions(transformations=3),
    "realnvp": RealNVPOptions(transformations=3, hidden=8),
    "iaf": InverseAutoregressiveOptions(transformations=3, hidden=8),
}


def flow_posterior(kind: str) -> tuple[FlowPosterior, Tensor, Tensor]:
    """Away from the identity, with an image's features and the context that they give."""
    torch.manual_seed(3)
    posterior = build_posterior(FLOWS[kind], CodeShape(2), 4, full=False, blocks=1).double().eval()
    assert isinstance(posterior, FlowPosterior)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    features = torch.randn(1, 4).double()
    assert posterior.context is not None
    return posterior, features, posterior.context(features).detach()


def inverse_planar(flow: Planar, z: Tensor, flat: Tensor) -> Tensor:
    """Undo planar transformations one by one: along w it is a monotone function of one number, so bisect."""
    w, u, b = flow.separate(flat)
    for k in reversed(range(flow.transformations)):
        product = w[k] @ u[k]
        m = torch.log1p(torch.exp(product + math.log(math.e - 1))) - 1
        constrained = u[k] + (m - product) * w[k] / (w[k] @ w[k])
        target = z @ w[k]
        low, high = target - m.abs() - 1, target + m.abs() + 1
        for _ in range(60):
            middle = (low + high) / 2
            below = middle + m * torch.tanh(middle + b[k]) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        z = z - torch.tanh(low + b[k])[..., None] * constrained
    return z


def log_density(posterior: FlowPosterior, features: Tensor, context: Tensor, z: Tensor) -> Tensor:
    """Log q(z|x) of any z [N, 2], from the flow's inverse and torch's normal distribution."""
    z = z.unsqueeze(1)
    if isinstance(posterior.flow, Planar):
        before = inverse_planar(posterior.flow, z, posterior.flow.parameters_of_all + context[0])
        again, log_determinant = posterior.flow(before, context)
        torch.testing.assert_close(again, z, atol=1e-8, rtol=0)
    else:
        before, log_determinant = posterior.flow.inverse(z, context)
        log_determinant = -log_determinant
    assert isinstance(posterior.base, GaussianPosterior)
    mean, log_scale = posterior.base.mean_and_log_scale(features).chunk(2, dim=1)
    base = Independent(Normal(mean, log_scale.exp()), 1).log_prob(before)
    return (base - log_determinant).squeeze(1)


@pytest.mark.parametrize("kind", FLOWS)
@torch.no_grad()
def test_flow_posteriors_density_integrates_to_one(kind):
    posterior, features, context = flow_posterior(kind)
    z, given = posterior(features, 20_000)
    z = z.squeeze(1)
    # The density that is integrated is the one that training and evaluation see.
    torch.testing.assert_close(
        log_density(posterior, features, context, z[:500]), given[:500, 0], atol=1e-8, rtol=0
    )
    base, _ = posterior.base(features, 500)
    assert (posterior.flow(base, context)[0] - base).abs().max() > 0.5, "close to the identity"
    margin = 0.5 * (z.amax(0) - z.amin(0))
    low, high = z.amin(0) - margin, z.amax(0) + margin
    side = 400
    axes = [torch.linspace(float(low[i]), float(high[i]), side).double() for i in (0, 1)]
    grid = torch.cartesian_prod(*axes)
    area = torch.prod((high - low) / (side - 1))
    total = log_density(posterior, features, context, grid).exp().sum() * area
    assert total.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("samples", [0, -1])
def test_no_samples_are_refused(samples):
    model = linear_gaussian(exact=True)
    images, _ = images_and_exact_value(model, 2)
    with pytest.raises(UserError, match=f"num_samples is {samples}"):
        log_marginal(model, images, samples)
