"""Missing pixels: likelihoods of the known ones, and completions, against exact values."""

import itertools
import math
from typing import Any, Unpack

import pytest
import torch
from causal_networks import gated_network
from linear_gaussian import LATENT, NOISE, PIXELS, SHAPE, LinearGaussian, linear_gaussian, marginal
from system_table import TABLE
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from flowvae.batch import Batch, DataSpec, Given, Labelled, labelled
from flowvae.data.named import number_of
from flowvae.densities import BernoulliLikelihood, GaussianPosterior, Posterior, StandardNormal
from flowvae.errors import UserError
from flowvae.evaluation import bounds, log_marginal, score
from flowvae.evaluation.imputed import missing_scores
from flowvae.models import VAE, Bounded, Completing, Model, Scored
from flowvae.models.causal_density import CausalDensity
from flowvae.models.registry import build_model
from flowvae.models.vae import ImportanceWeighted, VAEOptions
from flowvae.noise import Noise, normal
from flowvae.objectives import importance_weighted_bound

MASKS = torch.tensor(
    [[1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
).bool()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight_of(model: VAE) -> Tensor:
    assert isinstance(model.likelihood, LinearGaussian)
    return model.likelihood.weight.detach()


def drawn_images(model: VAE) -> Tensor:
    """An image for each mask, drawn from the model; missing pixels have a value that must not matter."""
    torch.manual_seed(3)
    return marginal(weight_of(model)).sample((len(MASKS),)).view(-1, *SHAPE)


def exact_log_prob(weight: Tensor, image: Tensor, known: Tensor) -> Tensor:
    if not known.any():
        return torch.zeros((), dtype=torch.float64)
    joint = marginal(weight)
    some = MultivariateNormal(joint.loc[known], joint.covariance_matrix[known][:, known])
    return some.log_prob(image.flatten()[known])


def conditional(weight: Tensor, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of W z at the missing pixels, given the known ones."""
    joint = marginal(weight).covariance_matrix
    gain = joint[~known][:, known] @ torch.linalg.inv(joint[known][:, known])
    noise = NOISE**2 * torch.eye(int((~known).sum())).double()
    return gain @ image.flatten()[known], joint[~known][:, ~known] - noise - gain @ joint[known][:, ~known]


# The linear-Gaussian model, whose encoder was made for complete images.


@pytest.mark.parametrize("exact", [True, False], ids=["exact q", "wrong q"])
@pytest.mark.parametrize("row", range(len(MASKS)))
def test_the_probability_of_the_known_pixels_is_estimated(exact, row):
    model = linear_gaussian(exact)
    image, known = drawn_images(model)[row, None], MASKS[row].view(1, *SHAPE)
    found = model.impute(image, known, 1, 20_000, seeded())
    expected = exact_log_prob(weight_of(model), image[0], MASKS[row])
    assert (found.log_prob[0] - expected).abs() <= 4 * found.standard_error[0] + 1e-9
    assert 1 <= found.effective_sample_size[0] <= 20_000


@pytest.mark.parametrize("exact", [True, False], ids=["exact q", "wrong q"])
@pytest.mark.parametrize("row", [0, 1, 3])
def test_completions_are_draws_from_the_exact_conditional(exact, row):
    model = linear_gaussian(exact)
    weight, known = weight_of(model), MASKS[row]
    image = drawn_images(model)[row]
    repeated = image.expand(250, *SHAPE)
    found = model.impute(repeated, known.view(SHAPE).expand_as(repeated), 1, 2000, seeded())
    assert (found.images[0].flatten(1)[:, known] == image.flatten()[known]).all()
    drawn = found.images[0].flatten(1)[:, ~known]  # [250, missing]: one completion of each of 250 copies
    mean, covariance = conditional(weight, image, known)
    error = covariance.diagonal().sqrt() / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - mean).abs() < 4 * error).all()
    deviation = covariance.diagonal().sqrt()
    correlated = torch.cov(drawn.T).view_as(covariance) / deviation.outer(deviation)
    torch.testing.assert_close(correlated, covariance / deviation.outer(deviation), atol=0.25, rtol=0)
    # The weighted moments of all candidates are more precise.
    torch.testing.assert_close(found.mean.flatten(1)[:, ~known].mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(found.spread.flatten(1)[:, ~known].mean(0), deviation, atol=0.02, rtol=0.02)


def test_scores_of_completions_are_those_of_their_definitions():
    model, observed = linear_gaussian(exact=False), MASKS.view(-1, *SHAPE)
    images, weight = drawn_images(model), weight_of(model)
    found = missing_scores(model, images, observed, num_samples=1000, completions=(1, 3), seed=2)
    for row, (image, known) in enumerate(zip(images, MASKS, strict=True)):
        whole = exact_log_prob(weight, image, torch.ones_like(known))
        expected = exact_log_prob(weight, image, known) - whole
        assert (found["missing_nll"][row] - expected).abs() <= 4 * found["missing_nll_error"][row] + 1e-9
        noise = seeded(number_of(torch.cat([image[None], known.view(1, *SHAPE).double()]), seed=2))
        completed = model.impute(image[None], known.view(1, *SHAPE), 3, 1000, noise)
        hidden = (~known).sum().clamp(min=1)
        wrong = (completed.images[:, 0] - image).flatten(1).abs().sum(1) / hidden
        assert found["best_of_1"][row] == wrong[0]
        assert found["best_of_3"][row] == wrong.min()
        assert found["error"][row] == (completed.mean[0] - image).abs().sum() / hidden
        assert found["effective_sample_size"][row] == completed.effective_sample_size[0]
    assert found["best_of_1"][2] == 0  # nothing is hidden


def test_the_error_of_a_difference_is_that_of_both_estimates():
    """The spread over repetitions is the standard error."""
    model = linear_gaussian(exact=False)
    images, observed = drawn_images(model)[:1], MASKS[:1].view(-1, *SHAPE)
    rows = [missing_scores(model, images, observed, 300, (1,), seed) for seed in range(100)]
    values = torch.cat([row["missing_nll"] for row in rows])
    errors = torch.cat([row["missing_nll_error"] for row in rows])
    assert 0.7 < errors.mean() / values.std() < 1.4


def test_binary_images_are_completed_with_whole_values():
    model = linear_gaussian(exact=True)
    images, observed = drawn_images(model).gt(0).double(), MASKS.view(-1, *SHAPE)
    model.levels = 2
    found = missing_scores(model, images, observed, 50)
    assert {"best_of_1", "best_of_5", "best_of_20"} <= found.keys()
    hidden = (~MASKS).sum(1)
    wrong = torch.stack([found["error"], found["best_of_1"]]) * hidden
    torch.testing.assert_close(wrong, wrong.round(), atol=1e-6, rtol=0)


def test_without_weights_a_wrong_posterior_fills_in_wrongly():
    """What resampling is there for: the test above could otherwise pass by itself."""
    model = linear_gaussian(exact=False)
    known, image = MASKS[0], drawn_images(model)[0]
    repeated = image.expand(800, *SHAPE)
    found = model.impute(repeated, known.view(SHAPE).expand_as(repeated), 1, 1, seeded())
    drawn = found.images[0].flatten(1)[:, ~known]
    mean, covariance = conditional(weight_of(model), image, known)
    assert ((drawn.mean(0) - mean).abs() > 5 * covariance.diagonal().sqrt() / math.sqrt(len(drawn))).any()


# The same model with the exact posterior given the known pixels, by an encoder that sees the mask.


class GivenTheKnown(Posterior):
    """q(z|x) = p(z|x_known), from features [B, 2 * PIXELS], images and masks."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _exact(self, features: Tensor) -> MultivariateNormal:
        image, known = features.chunk(2, dim=1)
        rows = self.weight * known.unsqueeze(2)  # [B, PIXELS, LATENT]; missing pixels say nothing
        covariance = torch.linalg.inv(torch.eye(LATENT).double() + rows.mT @ rows / NOISE**2)
        mean = torch.einsum("bde,bpe,bp->bd", covariance, rows, image) / NOISE**2
        return MultivariateNormal(mean, covariance)

    def forward(self, features: Tensor, num_samples: int = 1, noise: Noise = None) -> tuple[Tensor, Tensor]:
        exact = self._exact(features)
        plain = normal(noise, (num_samples, *exact.loc.shape), exact.loc)
        z = exact.loc + torch.einsum("bde,sbe->sbd", exact.scale_tril, plain)
        return z, exact.log_prob(z)

    def center(self, features: Tensor) -> Tensor:
        return self._exact(features).loc.unsqueeze(0)


def seeing_masks() -> VAE:
    weight = weight_of(linear_gaussian(True))
    prior = StandardNormal(LATENT).double()
    return VAE(nn.Flatten(), GivenTheKnown(weight), prior, LinearGaussian(weight), sees_mask=True).eval()


def test_with_the_exact_posterior_every_bound_is_tight():
    model = seeing_masks()
    images, observed = drawn_images(model), MASKS.view(-1, *SHAPE)
    images = torch.where(observed, images, 0.0)
    expected = torch.stack(
        [exact_log_prob(weight_of(model), *pair) for pair in zip(images, MASKS, strict=True)]
    )
    found = bounds(model, images, 7, observed=observed)
    torch.testing.assert_close(found.negative_elbo, -expected)
    torch.testing.assert_close(found.negative_log_marginal, -expected)
    # The bound of MIWAE (Mattei & Frellsen 2019, equation 4) is the importance-weighted one.
    densities = model(images, 3, observed=observed)
    torch.testing.assert_close(importance_weighted_bound(densities), expected)
    imputed = model.impute(images, observed, 1, 10, seeded())
    torch.testing.assert_close(imputed.log_prob, expected)
    torch.testing.assert_close(imputed.effective_sample_size, torch.full_like(expected, 10.0))


def test_training_uses_the_bound_of_the_known_pixels():
    model = seeing_masks()
    model.objective, model.num_samples = ImportanceWeighted(), 3
    images, observed = drawn_images(model), MASKS.view(-1, *SHAPE)
    batch = Batch(torch.where(observed, images, 0.0), torch.arange(len(images)), None, observed)
    (update,) = model.updates(batch, 10**6)
    rows = zip(batch.images, MASKS, strict=True)
    expected = torch.stack([exact_log_prob(weight_of(model), *pair) for pair in rows])
    torch.testing.assert_close(update.loss, -expected.mean())


# A model of binary pixels with a single latent dimension, integrated numerically.


class TinyDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 8), nn.Linear(8, PIXELS)

    def forward(self, z: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(z))).view(-1, *SHAPE)


def tiny() -> VAE:
    torch.manual_seed(5)
    decoder = TinyDecoder()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(4)
    posterior = GaussianPosterior(PIXELS, 1)
    with torch.no_grad():
        posterior.mean_and_log_scale.bias[1] = 0.0  # wide enough for the weights to have light tails
    model = VAE(nn.Flatten(), posterior, StandardNormal(1), BernoulliLikelihood(decoder, SHAPE))
    return model.double().eval()


def integrated(model: VAE, image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x_known), and the means of all pixels given them."""
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64).view(-1, 1, 1)
    pixels = model.likelihood(z)
    chances = torch.where(image > 0, pixels.mean, 1 - pixels.mean)
    of_known = torch.where(known, chances, 1.0).flatten(1).prod(1)
    density = of_known * model.prior().log_prob(z).exp()[:, 0] * (16 / 20_000)
    return density.sum().log(), (density.view(-1, 1, 1, 1) * pixels.mean[:, 0]).sum(0) / density.sum()


@pytest.mark.parametrize("row", range(len(MASKS)))
def test_binary_pixels_are_filled_in_as_integration_says(row):
    model, known = tiny(), MASKS[row].view(1, *SHAPE)
    image = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]).double().view(1, *SHAPE)
    found = model.impute(image, known, 3, 20_000, seeded())
    log_prob, mean = integrated(model, image[0], known[0])
    assert (found.log_prob[0] - log_prob).abs() <= 4 * found.standard_error[0] + 1e-9
    torch.testing.assert_close(found.mean[0][~known[0]], mean[~known[0]], atol=0.02, rtol=0)
    assert (found.images[:, known] == image[known]).all()
    # So is the estimate by the bounds, from the posterior of an encoder that sees missing pixels as zeros.
    estimate = log_marginal(model, image * known, 20_000, noise=seeded(), observed=known)
    torch.testing.assert_close(estimate[0], log_prob, atol=0.05, rtol=0)


# Autoregressive pixels, by enumeration.


def causal(sides: tuple[int, int], orders: int) -> CausalDensity:
    torch.manual_seed(0)
    model = CausalDensity(gated_network(sides, 5, 2, 3, orders=orders)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def completed(image: Tensor, known: Tensor) -> Tensor:
    """All images that agree with the known pixels."""
    places = (~known).flatten().nonzero()[:, 0]
    values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(places))), dtype=image.dtype)
    all_of_them = image.flatten().expand(len(values), -1).clone()
    all_of_them[:, places] = values
    return all_of_them.view(-1, *image.shape)


@pytest.mark.parametrize(("sides", "orders"), [((4, 3), 1), ((3, 4), 4)])
def test_probabilities_of_the_known_pixels_sum_to_one(sides, orders):
    model = causal(sides, orders)
    known = torch.rand(1, *sides, generator=seeded(1)) < 0.6
    everything = completed(torch.zeros(1, *sides).double(), ~known)  # all values of the known pixels
    with torch.no_grad():
        each = model.log_prob(everything, observed=known.expand_as(everything))
    torch.testing.assert_close(each.exp().sum(), torch.ones(()).double())


def test_missing_pixels_that_come_last_are_summed_over_exactly():
    model = causal((4, 4), 1)
    image = (torch.rand(1, 4, 4, generator=seeded(2)) < 0.5).double()
    known = torch.ones(1, 4, 4, dtype=torch.bool)
    known[:, 2:] = False  # the second row of patches
    known[:, 3, 0] = True  # and a part of its first patch is known
    with torch.no_grad():
        exact = model.log_prob(completed(image, known)).logsumexp(0)
        found = model.log_prob((image * known)[None], observed=known[None])[0]
    torch.testing.assert_close(found, exact)
    imputed = model.impute(image[None], known[None], 1, 5, seeded())
    torch.testing.assert_close(imputed.log_prob[0], exact)
    torch.testing.assert_close(imputed.effective_sample_size[0], torch.tensor(5.0).double())


@pytest.mark.parametrize("orders", [1, 4])
def test_causal_completions_follow_the_exact_conditional(orders):
    model = causal((4, 4), orders)
    image = (torch.rand(1, 4, 4, generator=seeded(2)) < 0.5).double()
    known = torch.rand(1, 4, 4, generator=seeded(3)) < 0.5
    with torch.no_grad():
        everything = completed(image, known)
        log_prob = model.log_prob(everything)
    exact = (log_prob.softmax(0).view(-1, 1, 1, 1) * everything).sum(0)
    found = model.impute(image[None], known[None], 500, 20_000, seeded())
    assert (found.log_prob[0] - log_prob.logsumexp(0)).abs() < 4 * found.standard_error[0]
    torch.testing.assert_close(found.mean[0], exact, atol=0.03, rtol=0)
    torch.testing.assert_close(found.images.mean(0)[0], exact, atol=0.12, rtol=0)
    assert (found.images[:, 0][:, known] == image[known]).all()


# Every system that accepts missing pixels.

ACCEPTING = [name for name, row in TABLE.items() if row.system in ("vae", "pixelcnn", "pixelrnn")]


def built(name: str, missing: bool) -> tuple[Model, Tensor]:
    row = TABLE[name]
    torch.manual_seed(0)
    model = build_model(row.options_of_system(), DataSpec((1, 8, 8), 2 if row.binary else 256, 5, 2, missing))
    levels = (model.levels or 256) - 1
    images = torch.randint(levels + 1, (6, 1, 8, 8), generator=seeded()) / levels
    model.initialize(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval(), images


LABELS = torch.arange(6) % 2


def own_labels(model: Model, images: Tensor) -> Labelled:
    """The labels, if the model takes any."""
    return labelled(LABELS[: len(images)] if model.conditional else None)


def probabilities(model: Model, images: Tensor, **given: Unpack[Given]) -> Tensor:
    labels: Any = own_labels(model, images)
    if isinstance(model, Scored):
        return model.log_prob(images, **given, **labels)
    assert isinstance(model, Bounded)
    return -bounds(model, images, 3, noise=seeded(), **given, **labels).negative_elbo


@pytest.mark.parametrize("name", ACCEPTING)
@torch.no_grad()
def test_masks_that_hide_nothing_change_nothing(name):
    for missing in (False, True):
        model, images = built(name, missing)
        everything = torch.ones_like(images, dtype=torch.bool)
        with_mask = probabilities(model, images, observed=everything)
        assert torch.equal(with_mask, probabilities(model, images))


@pytest.mark.parametrize("name", ACCEPTING)
@torch.no_grad()
def test_images_without_known_pixels_have_probability_one(name):
    model, images = built(name, True)
    nothing, given = torch.zeros_like(images, dtype=torch.bool), own_labels(model, images)
    if isinstance(model, Scored):
        assert (model.log_prob(images * 0, observed=nothing, **given) == 0).all()
        return
    assert isinstance(model, VAE)
    densities = model(images * 0, 3, observed=nothing, **given)
    assert (densities.likelihood == 0).all()
    assert isinstance(model, Completing)
    found = model.impute(images, nothing, 4, 50, seeded(), **given)
    assert found.images.shape == (4, *images.shape)


@pytest.mark.parametrize("name", ACCEPTING)
@torch.no_grad()
def test_values_of_missing_pixels_do_not_matter(name):
    model, images = built(name, True)
    known = torch.rand(images.shape, generator=seeded(4)) < 0.5
    both = [probabilities(model, torch.where(known, images, other), observed=known) for other in (0.0, 1.0)]
    assert torch.equal(*both)
    assert isinstance(model, Completing)
    first, second = (
        model.impute(torch.where(known, images, other), known, 2, 6, seeded(), **own_labels(model, images))
        for other in (images, 1 - images)
    )
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert (first.images[:, known] == images[known]).all()
    assert (first.spread[known] == 0).all()
    assert ((first.effective_sample_size >= 1 - 1e-9) & (first.effective_sample_size <= 6 + 1e-9)).all()


@pytest.mark.parametrize("name", ACCEPTING)
def test_training_and_scores_take_masks(name):
    model, images = built(name, True)
    known = torch.rand(images.shape, generator=seeded(4)) < 0.5
    batch = Batch(images * known, torch.arange(6), LABELS, known)
    for update in model.updates(batch, 0):
        update.loss.backward()
    assert all(value.isfinite().all() for value in model.validate(batch).values())
    scores = score(model, images * known, 3, seeded(), observed=known)
    alone = score(model, (images * known)[2:3], 3, seeded(), observed=known[2:3])
    torch.testing.assert_close(scores["nll"][2:3], alone["nll"])
    if "bits_per_dim" in scores:
        expected = scores["nll"] / math.log(2) / known.flatten(1).sum(1)
        torch.testing.assert_close(scores["bits_per_dim"], expected)


def test_the_mixture_hides_all_channels_or_none():
    options = TABLE["vae"].options_of_system()
    assert options is not None
    from flowvae.parts import from_dict

    model = build_model(
        from_dict(VAEOptions, {"likelihood": "logistic-mixture", "latent": 2}), DataSpec((3, 8, 8), 256)
    )
    assert isinstance(model, VAE)
    known = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    model.impute(torch.zeros(1, 3, 8, 8), known, 2, 3)
    known[:, 0] = True
    with pytest.raises(UserError, match="hide all of them or none"):
        model.impute(torch.zeros(1, 3, 8, 8), known, 2, 3)


def test_wrong_masks_and_models_that_do_not_support_them_are_refused():
    model, images = built("vae", True)
    assert isinstance(model, VAE)
    with pytest.raises(UserError, match=r"observed is torch\.bool \[6, 1, 8, 4\]; give bool \[6, 1, 8, 8\]"):
        model.encode(images, observed=torch.ones(6, 1, 8, 4, dtype=torch.bool))
    with pytest.raises(UserError, match=r"observed is torch\.float32"):
        model.encode(images, observed=torch.ones(6, 1, 8, 8))
    row = next(name for name, row in TABLE.items() if row.system == "semi-supervised")
    other = build_model(TABLE[row].options_of_system(), DataSpec((1, 8, 8), 2, 5, 2))
    batch = Batch(images, torch.arange(6), None, torch.ones_like(images, dtype=torch.bool))
    with pytest.raises(UserError, match="pixels are missing, which this model does not support"):
        other.given(batch)
