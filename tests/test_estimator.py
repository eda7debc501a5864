"""Likelihood estimates against models and posteriors whose numbers are known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.utils._python_dispatch import TorchDispatchMode

from flowvae.build import build_model
from flowvae.build import posterior as build_posterior
from flowvae.config import ModelConfig
from flowvae.data import Dataset, Split
from flowvae.densities import FlowPosterior, GaussianPosterior, Posterior, StandardNormal
from flowvae.errors import UserError
from flowvae.evaluation import active_units, bounds, evaluate, log_marginal
from flowvae.flows import Planar
from flowvae.models import VAE
from flowvae.objectives import elbo, importance_weighted_bound

SHAPE = (1, 2, 3)
PIXELS, LATENT = 6, 3
NOISE = 0.7


# A linear-Gaussian model: z ~ N(0, I) and x = W z + NOISE e, so log p(x) = log N(x; 0, W W' + NOISE^2 I), and
# the posterior is N(V W' x / NOISE^2, V) with V = (I + W' W / NOISE^2)^-1.


class LinearGaussian(nn.Module):
    """The likelihood N(W z, NOISE^2 I); remembers how many pairs of image and sample it saw in each call."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.seen: list[int] = []

    def forward(self, z: Tensor) -> Distribution:
        self.seen.append(z.shape[0] * z.shape[1])
        return Independent(Normal((z @ self.weight.T).unflatten(-1, SHAPE), NOISE), 3)


class ExactPosterior(Posterior):
    """The full-covariance Gaussian posterior of the linear-Gaussian model."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.covariance = exact_covariance(weight)
        self.to_mean = self.covariance @ weight.T / NOISE**2

    def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        distribution = MultivariateNormal(features @ self.to_mean.T, self.covariance)
        z = distribution.rsample((num_samples,))
        return z, distribution.log_prob(z)

    def center(self, features: Tensor) -> Tensor:
        return (features @ self.to_mean.T).unsqueeze(0)


def exact_covariance(weight: Tensor) -> Tensor:
    return torch.linalg.inv(torch.eye(LATENT).double() + weight.T @ weight / NOISE**2)


def linear_gaussian(exact: bool) -> VAE:
    """With the exact posterior, or with a diagonal one of another mean and wider than it should be."""
    torch.manual_seed(0)
    weight = torch.randn(PIXELS, LATENT).double()
    if exact:
        posterior: Posterior = ExactPosterior(weight)
    else:
        posterior = GaussianPosterior(PIXELS, LATENT).double()
        covariance = exact_covariance(weight)
        with torch.no_grad():
            linear = posterior.mean_and_log_scale
            linear.weight.zero_()
            linear.weight[:LATENT] = covariance @ weight.T / NOISE**2
            linear.bias[:LATENT] = 0.1
            linear.bias[LATENT:] = 0.5 * covariance.diagonal().log() + math.log(1.3)
    return VAE(nn.Flatten(), posterior, StandardNormal(LATENT).double(), LinearGaussian(weight)).eval()


def images_and_exact_value(model: VAE, count: int) -> tuple[Tensor, Tensor]:
    """Draws x of the model, and their log p(x)."""
    torch.manual_seed(1)
    distribution = marginal(likelihood_of(model).weight.detach())
    x = distribution.sample((count,))
    return x.unflatten(1, SHAPE), distribution.log_prob(x)


def marginal(weight: Tensor) -> MultivariateNormal:
    """p(x)"""
    covariance = weight @ weight.T + NOISE**2 * torch.eye(PIXELS).double()
    return MultivariateNormal(torch.zeros(PIXELS).double(), covariance)


def likelihood_of(model: VAE) -> LinearGaussian:
    assert isinstance(model.likelihood, LinearGaussian)
    return model.likelihood


def in_single_precision(model: VAE) -> VAE:
    """The linear-Gaussian model with the exact posterior, whose numbers are no parameters."""
    assert isinstance(model.posterior, ExactPosterior)
    model.posterior.covariance = model.posterior.covariance.float()
    model.posterior.to_mean = model.posterior.to_mean.float()
    return model.float()


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
    for num_samples in (40, 1000):
        likelihood_of(model).seen.clear()
        with LargestTensor() as tensors:
            bounds(model, images, num_samples, chunk=64)
        largest.append(tensors.elements)
        assert sum(likelihood_of(model).seen) == 5 * num_samples
        assert max(likelihood_of(model).seen) <= 64
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


def flow_posterior(kind: str) -> tuple[FlowPosterior, Tensor, Tensor]:
    """Away from the identity, with an image's features and the context that they give."""
    torch.manual_seed(3)
    config = ModelConfig(posterior=kind, transformations=3, latent=2, features=4, hidden=8)  # type: ignore[arg-type]
    posterior = build_posterior(config).double().eval()
    assert isinstance(posterior, FlowPosterior)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    features = torch.randn(1, 4).double()
    assert posterior.context is not None
    return posterior, features, posterior.context(features).detach()


def inverse_planar(z: Tensor, flat: Tensor, transformations: int = 3) -> Tensor:
    """Undo planar transformations one by one: along w it is a monotone function of one number, so bisect."""
    w, u, b = (part.unflatten(0, (transformations, -1)) for part in flat.split([6, 6, 3]))
    for k in reversed(range(transformations)):
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
        before = inverse_planar(z, posterior.flow.parameters_of_all + context[0])
        again, log_determinant = posterior.flow(before, context)
        torch.testing.assert_close(again, z, atol=1e-8, rtol=0)
    else:
        before, log_determinant = posterior.flow.inverse(z, context)
        log_determinant = -log_determinant
    assert isinstance(posterior.base, GaussianPosterior)
    mean, log_scale = posterior.base.mean_and_log_scale(features).chunk(2, dim=1)
    base = Independent(Normal(mean, log_scale.exp()), 1).log_prob(before)
    return (base - log_determinant).squeeze(1)


@pytest.mark.parametrize("kind", ["planar", "realnvp", "iaf"])
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


# On images.


def binary_dataset(images: int = 60, shape: tuple[int, int, int] = (1, 8, 8)) -> Dataset:
    """Bright left halves, and after them bright right halves, with noise."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        right = torch.arange(count) >= count // 2
        probability = torch.full((count, *shape), 0.1)
        middle = shape[2] // 2
        probability[~right, :, :, :middle] = 0.9
        probability[right, :, :, middle:] = 0.9
        return Split(torch.bernoulli(probability, generator=generator).to(torch.uint8), right.long())

    return Dataset("halves", "static", split(images), split(images), split(images))


def tiny_model(**config: Any) -> VAE:
    torch.manual_seed(0)
    return build_model(ModelConfig(latent=3, features=8, hidden=8, **config), (1, 8, 8))


@pytest.mark.parametrize("kind", ["gaussian", "realnvp"])
def test_negative_elbo_is_at_least_the_estimate_on_a_trained_model(kind):
    model = tiny_model(posterior=kind, transformations=0 if kind == "gaussian" else 2)
    images = binary_dataset(20).train.images.float()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    untrained = -elbo(model(images)).mean().item()
    for _ in range(25):
        loss = -elbo(model(images)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = bounds(model.eval(), images, num_samples=100)
    assert scores.negative_elbo.mean() < untrained - 5, "not trained: this would prove little"
    assert (scores.negative_elbo >= scores.negative_log_marginal).all()
    assert scores.negative_elbo.mean() > scores.negative_log_marginal.mean() + 0.01


def with_known_means(slopes: list[float], scale: float = 1.0) -> VAE:
    """A model whose posterior mean in dimension i is slopes[i] times pixel i."""
    posterior = GaussianPosterior(PIXELS, len(slopes))
    with torch.no_grad():
        posterior.mean_and_log_scale.weight.zero_()
        posterior.mean_and_log_scale.weight[: len(slopes), : len(slopes)] = torch.diag(torch.tensor(slopes))
        posterior.mean_and_log_scale.bias[len(slopes) :] = math.log(scale)
    return VAE(nn.Flatten(), posterior, StandardNormal(len(slopes)), nn.Identity())


@pytest.mark.parametrize(
    ("slopes", "active"),
    # Pixels have variance 1, so means have slope^2, against the threshold 0.01.
    [([1.0, 0.15, 0.05, 0.0], 2), ([0.0, 0.0, 0.0, 0.0], 0), ([2.0, -1.0, 0.5, -0.15], 4)],
)
def test_active_units_of_known_posteriors(slopes, active):
    torch.manual_seed(0)
    images = torch.randn(3000, *SHAPE) + 5
    assert active_units(with_known_means(slopes), images) == active


def test_active_units_do_not_count_the_noise_of_sampling():
    """With 4 samples of scale 1 a mean over samples varies by 0.25 where the posterior mean does not vary."""
    torch.manual_seed(0)
    model = with_known_means([0.0, 0.0, 1.0, 0.0])
    assert active_units(model, torch.randn(20_000, *SHAPE), num_samples=4) == 1


def test_active_units_follow_the_flow():
    """A flow that swaps what is active and what is not, by scaling one away."""

    class Scale(FlowPosterior):
        def __init__(self, base: Posterior, factors: Tensor) -> None:
            nn.Module.__init__(self)
            self.base, self.factors = base, factors

        def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
            z, log_density = self.base(features, num_samples)
            return z * self.factors, log_density - self.factors.log().sum()

    torch.manual_seed(0)
    model = with_known_means([1.0, 1.0, 0.0, 0.0])
    model.posterior = Scale(model.posterior, torch.tensor([0.01, 1.0, 1.0, 1.0]))
    assert active_units(model, torch.randn(3000, *SHAPE)) == 1


class Watching(nn.Module):
    """An encoder that keeps the images that it saw."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return self.encoder(images)


def test_evaluation_says_what_was_measured_and_on_what():
    """With the exact posterior every number is known, and that of each image without noise."""
    model = linear_gaussian(exact=True)
    dataset = binary_dataset(40, SHAPE)
    x = dataset.test.images.double().flatten(1)
    weight = likelihood_of(model).weight.detach()
    exact = -marginal(weight).log_prob(x)
    mean, covariance = x @ ExactPosterior(weight).to_mean.T, exact_covariance(weight)
    squared = (x - mean @ weight.T).square().sum(1) + torch.trace(weight @ covariance @ weight.T)
    reconstruction = 0.5 * squared / NOISE**2 + 0.5 * PIXELS * math.log(2 * math.pi * NOISE**2)
    fractions: list[float] = []
    result = evaluate(in_single_precision(model), dataset, num_samples=1000, seed=5, report=fractions.append)
    assert fractions[-1] == 1.0
    assert result["nll"] == pytest.approx(exact.mean().item(), abs=1e-3)
    assert result["negative_elbo"] == pytest.approx(exact.mean().item(), abs=1e-3)
    assert result["reconstruction"] == pytest.approx(reconstruction.mean().item(), abs=0.05)
    assert result["kl"] == pytest.approx((exact - reconstruction).mean().item(), abs=0.05)
    for name in ("nll_standard_error", "negative_elbo_standard_error"):
        assert result[name] == pytest.approx(exact.std().item() / math.sqrt(40), rel=1e-3)
    assert result["bits_per_dim"] == pytest.approx(exact.mean().item() / (PIXELS * math.log(2)), abs=1e-3)
    known = {
        "samples": 1000,
        "images": 40,
        "active_units": LATENT,
        "dataset": "halves",
        "binarization": "static",
        "split": "test",
        "parameters": PIXELS * LATENT,
        "seed": 5,
    }
    assert {name: result[name] for name in known} == known
    assert isinstance(result["version"], str)


def test_evaluation_is_a_function_of_its_seed_and_leaves_the_generator_alone():
    dataset, model = binary_dataset(), tiny_model()
    torch.manual_seed(17)
    before = torch.get_rng_state()
    one, same, other = (
        evaluate(model, dataset, num_samples=5, num_images=20, seed=seed) for seed in (1, 1, 2)
    )
    assert (torch.get_rng_state() == before).all()
    assert one == same
    assert one["nll"] != other["nll"]


def test_a_subset_is_drawn_at_random_from_a_sorted_split():
    dataset, model = binary_dataset(), tiny_model()
    model.encoder = Watching(model.encoder)
    evaluate(model, dataset, num_samples=1, num_images=20, seed=0)
    seen = model.encoder.images[0]
    assert len(seen) == 20
    assert len(seen.flatten(1).unique(dim=0)) == 20  # without replacement
    right = (seen[..., 4:].mean((1, 2, 3)) > 0.5).sum().item()
    assert 3 <= right <= 17


def test_evaluation_runs_in_eval_mode():
    model = tiny_model(
        posterior="realnvp", transformations=2, normalization="batch", flow_batch_norm=True
    ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, binary_dataset(), num_samples=3, num_images=10)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} moved"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "samples is 0"),
        ({"num_samples": -3}, "samples is -3"),
        ({"num_images": 0}, "images is 0"),
        ({"num_images": 61}, "images is 61.*60"),
    ],
)
def test_evaluation_refuses_what_cannot_be_measured(options, message):
    with pytest.raises(UserError, match=message):
        evaluate(tiny_model(), binary_dataset(), **options)
