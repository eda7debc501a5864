"""The evaluation of models on images."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from linear_gaussian import (
    LATENT,
    NOISE,
    PIXELS,
    SHAPE,
    ExactPosterior,
    LinearGaussian,
    exact_covariance,
    in_single_precision,
    likelihood_of,
    linear_gaussian,
    marginal,
)
from torch import Tensor, nn
from torch.distributions import Bernoulli

from flowvae.batch import Batch
from flowvae.data import Dataset, Split
from flowvae.densities import GaussianPosterior, Posterior, StandardNormal
from flowvae.errors import UserError
from flowvae.evaluation import active_units, bounds, evaluate, interpolate, log_marginal, path_quality
from flowvae.models import VAE, Model, Scored, Update
from flowvae.models.vae import VAEOptions
from flowvae.noise import Noise
from flowvae.objectives import elbo
from flowvae.parts import from_dict


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


def tiny_model(**options: Any) -> VAE:
    torch.manual_seed(0)
    return from_dict(VAEOptions, {"latent": 3, "features": 8, **options}).with_parts((1, 8, 8))


FLOW = {"posterior": "realnvp", "transformations": 2, "hidden": 8}


@pytest.mark.parametrize("options", [{}, FLOW], ids=["gaussian", "realnvp"])
def test_negative_elbo_is_at_least_the_estimate_on_a_trained_model(options):
    model = tiny_model(**options)
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


def test_the_ends_of_an_interpolation_are_the_reconstructions():
    model = tiny_model(**FLOW).double().eval()
    first, second = binary_dataset().test.images[:10].double().split(5)
    path = interpolate(model, first, second, steps=4)
    assert path.shape == (5, 4, *first.shape[1:])
    for index, images in ((0, first), (-1, second)):
        torch.testing.assert_close(path[:, index], model.reconstruct(images))


def with_known_means(slopes: list[float], scale: float = 1.0) -> VAE:
    """A model whose posterior mean in dimension i is slopes[i] times pixel i."""
    posterior = GaussianPosterior(PIXELS, len(slopes))
    with torch.no_grad():
        posterior.mean_and_log_scale.weight.zero_()
        posterior.mean_and_log_scale.weight[: len(slopes), : len(slopes)] = torch.diag(torch.tensor(slopes))
        posterior.mean_and_log_scale.bias[len(slopes) :] = math.log(scale)
    return VAE(nn.Flatten(), posterior, StandardNormal(len(slopes)), LinearGaussian(torch.eye(len(slopes))))


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

    class Scale(Posterior):
        def __init__(self, base: Posterior, factors: Tensor) -> None:
            super().__init__()
            self.base, self.factors = base, factors

        def forward(
            self, features: Tensor, num_samples: int = 1, noise: Noise = None
        ) -> tuple[Tensor, Tensor]:
            z, log_density = self.base(features, num_samples, noise)
            return z * self.factors, log_density - self.factors.log().sum()

        def center(self, features: Tensor) -> Tensor:
            return self.base.center(features) * self.factors

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
    assert "bits_per_dim" not in result  # of a density there are none
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


def test_evaluation_runs_in_eval_mode_and_leaves_the_model_as_it_was():
    model = tiny_model(**FLOW, normalization="batch", flow_batch_norm=True).train()
    model.likelihood.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, binary_dataset(), num_samples=3, num_images=10)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} moved"
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "samples is 0"),
        ({"num_samples": -3}, "samples is -3"),
        ({"num_images": 0}, "images is 0"),
        ({"num_images": 61}, "images is 61.*60"),
        ({"split": "validation"}, "split is validation; did you mean valid"),
    ],
)
def test_evaluation_refuses_what_cannot_be_measured(options, message):
    with pytest.raises(UserError, match=message):
        evaluate(tiny_model(), binary_dataset(), **options)


@torch.no_grad()
def test_a_score_that_is_not_finite_is_one_line():
    """Of weights that are finite, every one."""
    model = tiny_model()
    for parameter in model.posterior.parameters():
        parameter.fill_(1e30)
    with pytest.raises(UserError, match=r"^reconstruction of test images is not finite; "):
        evaluate(model, binary_dataset(), num_samples=2)


def grey_dataset(dataset: Dataset) -> Dataset:
    def grey(split: Split) -> Split:
        return Split(split.images * 255, split.labels)

    return Dataset("grey", "none", grey(dataset.train), grey(dataset.valid), grey(dataset.test))


def test_pixels_that_the_likelihood_is_not_one_of_are_refused():
    binary, grey = binary_dataset(), grey_dataset(binary_dataset())
    with pytest.raises(
        UserError, match="take 256 values, those of the model 2; choose --binarization static"
    ):
        evaluate(tiny_model(), grey)
    with pytest.raises(UserError, match=r"of the model 256; .* not binary, or a model of binary pixels$"):
        evaluate(tiny_model(likelihood="logistic"), binary)
    with pytest.raises(UserError, match=r"static or dynamic, or a model of 8-bit pixels$"):
        evaluate(BinaryCoin(0.2), grey)
    any_number = in_single_precision(linear_gaussian(exact=True))
    evaluate(any_number, binary_dataset(20, SHAPE), num_samples=1)


def test_bits_per_dim_of_8_bit_pixels():
    """One level of the logistic of scale 1 about 0."""
    model = tiny_model(likelihood="logistic")
    with torch.no_grad():
        for parameter in model.likelihood.parameters():
            parameter.zero_()
    grey = grey_dataset(binary_dataset())
    grey = Dataset("grey", "none", grey.train, grey.valid, Split(torch.full_like(grey.test.images, 100)))
    edges = torch.tensor([100.5, 99.5], dtype=torch.float64) * 2 / 255 - 1
    bits = -math.log2(edges.sigmoid().diff().abs())
    scores = evaluate(model, grey, num_samples=1)
    assert scores["reconstruction"] / math.log(2) / 64 == pytest.approx(bits, abs=1e-3)
    assert scores["bits_per_dim"] == pytest.approx(scores["nll"] / math.log(2) / 64)


class Coin(Model, Scored):
    """Every pixel is on with the same probability."""

    best = "nll"

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(probability).logit())

    def log_prob(self, images: Tensor) -> Tensor:
        pixels = Bernoulli(logits=self.logit.expand_as(images), validate_args=False)
        return pixels.log_prob(images).sum((1, 2, 3))

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        loss = -self.log_prob(batch.images).mean()
        yield Update("model", loss, {"nll": loss.detach()})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": -self.log_prob(batch.images)}


class BinaryCoin(Coin):
    levels = 2


def test_an_exact_density_is_scored_by_its_own_likelihood():
    data = binary_dataset()
    images = data.test.images.float()
    each = -(images * math.log(0.2) + (1 - images) * math.log(0.8)).sum((1, 2, 3))
    expected = each.mean().item()
    scores = evaluate(BinaryCoin(0.2), data, num_samples=50)
    assert scores["nll"] == pytest.approx(expected, rel=1e-5)
    assert scores["nll_standard_error"] == pytest.approx(each.std().item() / math.sqrt(60), rel=1e-4)
    assert scores["bits_per_dim"] == pytest.approx(expected / 64 / math.log(2), rel=1e-5)
    absent = {"reconstruction", "negative_elbo", "kl", "active_units", "samples", "effective_sample_size"}
    assert not absent & scores.keys()
    torch.testing.assert_close(log_marginal(Coin(0.2), images, 1, chunk=7), -each.double())


class Contrast(Model):
    """Has no likelihood: how far the batch's brightness is from its parameter."""

    best = "contrast"

    def __init__(self) -> None:
        super().__init__()
        self.brightness = nn.Parameter(torch.tensor(0.5))

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        yield Update("model", self.validate(batch)["contrast"].mean(), {})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        assert not self.training
        return {"contrast": (batch.images.mean((1, 2, 3)) - self.brightness).abs()}


def test_a_model_without_a_likelihood_has_the_numbers_of_its_validation():
    data = binary_dataset()
    expected = (data.test.images.float().mean((1, 2, 3)) - 0.5).abs()
    scores = evaluate(Contrast(), data)
    assert scores["contrast"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert scores["contrast_standard_error"] == pytest.approx(expected.std().item() / 60**0.5, rel=1e-4)
    assert not {"nll", "bits_per_dim", "samples", "active_units"} & scores.keys()
    assert (scores["images"], scores["parameters"]) == (60, 1)


def test_the_quality_of_paths_is_that_of_their_images():
    """By hand: even steps, one jump, and the exact density of the images at their nearest levels."""
    coin = Coin(0.2)
    even = torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    jump = (even > 0.6).float()
    paths = torch.stack([even, jump])
    quality = path_quality(coin, paths, levels=2)
    torch.testing.assert_close(quality.largest_step, torch.tensor([1.0, 4.0]))
    on, off = -16 * math.log(0.2), -16 * math.log(0.8)
    # A half is rounded to the even level, which is 0.
    expected = torch.tensor([(3 * off + 2 * on) / 5, (3 * off + 2 * on) / 5]).double()
    torch.testing.assert_close(quality.negative_log_marginal, expected, atol=1e-4, rtol=0)
    as_they_are = path_quality(coin, paths, levels=None).negative_log_marginal
    torch.testing.assert_close(as_they_are[0], torch.tensor(0.5 * (on + off)).double(), atol=1e-4, rtol=0)
