"""Training objectives as functions of log densities."""

import math

import pytest
import torch

from flowvae.batch import Batch
from flowvae.config import revised
from flowvae.densities import GaussianPosterior, LogDensities
from flowvae.models import VAE
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.vae import ELBO, ImportanceWeighted, VAEOptions, VectorOptions
from flowvae.objectives import elbo, free_bits_elbo, importance_weighted_bound, warm_up


def densities(samples: int, images: int, spread: float = 3.0) -> LogDensities:
    """Random numbers in float64, each a leaf of the graph."""
    torch.manual_seed(samples)
    leaves = [center + spread * torch.randn(samples, images).double() for center in (-80.0, -30.0, -20.0)]
    return LogDensities(*(leaf.requires_grad_() for leaf in leaves))


def gradients(objective: torch.Tensor, given: LogDensities) -> list[torch.Tensor]:
    return list(torch.autograd.grad(objective.sum(), list(given)))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_elbo_is_the_mean_over_samples(beta):
    given = densities(samples=5, images=7)
    for image, value in enumerate(elbo(given, beta).tolist()):
        terms = [
            given.likelihood[s, image].item()
            - beta * (given.posterior[s, image].item() - given.prior[s, image].item())
            for s in range(5)
        ]
        assert value == pytest.approx(sum(terms) / 5, abs=1e-9)


def test_elbo_weighs_only_the_divergence_by_beta():
    given = densities(samples=5, images=7)
    for gradient, expected in zip(gradients(elbo(given, 0.3), given), (1, 0.3, -0.3), strict=True):
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected / 5))


def test_importance_weighted_bound_is_the_log_of_the_mean_weight():
    given = densities(samples=6, images=7)
    weights = (given.likelihood + given.prior - given.posterior).detach()
    for image, value in enumerate(importance_weighted_bound(given).tolist()):
        # Shifted by 110 nats so that plain exponentials do not underflow.
        mean = sum(math.exp(weights[s, image].item() + 110) for s in range(6)) / 6
        assert value == pytest.approx(math.log(mean) - 110, abs=1e-9)


def test_importance_weighted_bound_weighs_the_divergence_by_beta():
    given = densities(samples=1, images=7)
    torch.testing.assert_close(importance_weighted_bound(given, 0.3), elbo(given, 0.3))
    several = densities(samples=6, images=7)
    share = torch.softmax(several.likelihood + 0.3 * (several.prior - several.posterior), 0)
    bound = importance_weighted_bound(several, 0.3)
    for gradient, weight in zip(gradients(bound, several), (1, 0.3, -0.3), strict=True):
        torch.testing.assert_close(gradient, weight * share)


def test_importance_weighted_bound_does_not_underflow():
    far = LogDensities(torch.full((4, 3), -30_000.0), torch.full((4, 3), -1000.0), torch.zeros(4, 3))
    torch.testing.assert_close(importance_weighted_bound(far), torch.full((3,), -31_000.0))


def test_importance_weighted_bound_of_one_sample_is_the_elbo():
    given = densities(samples=1, images=7)
    torch.testing.assert_close(importance_weighted_bound(given), elbo(given))
    for one, other in zip(
        gradients(importance_weighted_bound(given), given), gradients(elbo(given), given), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_importance_weighted_bound_is_at_least_the_elbo():
    given = densities(samples=20, images=500)
    assert (importance_weighted_bound(given) > elbo(given)).all()
    constant = LogDensities(*(field[:1].expand(20, -1) for field in given))
    torch.testing.assert_close(importance_weighted_bound(constant), elbo(constant))


def test_importance_weighted_gradient_weighs_samples_by_their_share():
    given = densities(samples=6, images=7)
    share = torch.softmax(given.likelihood + given.prior - given.posterior, 0)
    likelihood, prior, posterior = gradients(importance_weighted_bound(given), given)
    torch.testing.assert_close(likelihood, share)
    torch.testing.assert_close(prior, share)
    torch.testing.assert_close(posterior, -share)


def test_free_bits_equal_the_elbo_above_the_threshold():
    given = densities(samples=5, images=7)
    divergence = (given.posterior - given.prior).mean().item()
    assert divergence > 5
    torch.testing.assert_close(free_bits_elbo(given, divergence - 1, beta=0.3), elbo(given, 0.3).mean())
    torch.testing.assert_close(free_bits_elbo(given, 0.0), elbo(given).mean())
    for one, other in zip(
        gradients(free_bits_elbo(given, divergence - 1), given),
        gradients(elbo(given).mean(), given),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_free_bits_cost_a_constant_below_the_threshold():
    given = densities(samples=5, images=7)
    threshold = (given.posterior - given.prior).mean().item() + 1
    value = free_bits_elbo(given, threshold, beta=0.3)
    torch.testing.assert_close(value, given.likelihood.mean() - 0.3 * threshold)
    likelihood, prior, posterior = gradients(value, given)
    torch.testing.assert_close(likelihood, torch.full_like(likelihood, 1 / 35))
    assert (prior == 0).all()
    assert (posterior == 0).all()


def test_warm_up_rises_in_a_straight_line():
    assert [warm_up(step, 10) for step in range(0, 11, 5)] == [0.0, 0.5, 1.0]
    assert warm_up(11, 10) == 1.0
    assert warm_up(0, 0) == 1.0


# What an autoencoder's options make of them.


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_options_choose_the_objective(beta):
    given = densities(samples=5, images=7)
    divergence = (given.posterior - given.prior).mean().item()
    expected = {
        ELBO(): elbo(given, beta).mean(),
        ELBO(free_bits=divergence + 1): free_bits_elbo(given, divergence + 1, beta),
        ImportanceWeighted(): importance_weighted_bound(given, beta).mean(),
    }
    for objective, value in expected.items():
        torch.testing.assert_close(objective(given, beta), value)


def small(**options) -> VAE:
    torch.manual_seed(0)
    return VAEOptions(
        code=VectorOptions(features=8), networks=ConvolutionalOptions(channels=4), latent=3, **options
    ).with_parts((1, 8, 8))


IMAGES = (torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
BATCH = Batch(IMAGES, torch.arange(6))


@pytest.mark.parametrize("objective", [ELBO(), ELBO(free_bits=3.0), ImportanceWeighted()], ids=repr)
@pytest.mark.parametrize("step", [0, 3, 10, 50])
def test_training_minimizes_the_objective_with_the_warm_up_of_its_step(objective, step):
    model = small(objective=objective, samples=3, kl_warm_up=10)
    torch.manual_seed(1)
    (update,) = model.updates(BATCH, step)
    torch.manual_seed(1)
    given = model(IMAGES, 3)
    assert update.player == "model"
    torch.testing.assert_close(update.loss, -objective(given, min(step / 10, 1.0)))
    kl, reconstruction = (given.posterior - given.prior).mean(), -given.likelihood.mean()
    expected = {"negative_elbo": reconstruction + kl, "kl": kl, "reconstruction": reconstruction}
    torch.testing.assert_close(dict(update.shown), expected)
    assert not any(value.requires_grad for value in update.shown.values())
    assert next(iter(update.shown)) == "negative_elbo"


def test_validation_follows_the_objective():
    """One sample for the ELBO, whatever training takes; S for the importance-weighted bound."""
    for objective, samples in ((ELBO(), 1), (ImportanceWeighted(), 3)):
        model = small(objective=objective, samples=3, kl_warm_up=10).eval()
        torch.manual_seed(1)
        scores = model.validate(BATCH)
        torch.manual_seed(1)
        given = model(IMAGES, samples)
        torch.testing.assert_close(scores["negative_elbo"], -elbo(given))
        torch.testing.assert_close(scores["kl"], (given.posterior - given.prior).mean(0))
        torch.testing.assert_close(scores["reconstruction"], -given.likelihood.mean(0))
        assert next(iter(scores)) == model.best
        if samples == 3:
            torch.testing.assert_close(scores["importance_weighted"], -importance_weighted_bound(given))
        else:
            assert "importance_weighted" not in scores


@pytest.mark.parametrize("kind", [ELBO, ImportanceWeighted])
def test_objectives_take_the_path_derivative_or_not(kind):
    assert small(objective=kind()).posterior.path_derivative
    assert not small(objective=kind(path_derivative=False)).posterior.path_derivative


@pytest.mark.parametrize("step", [5, 10])
@pytest.mark.parametrize("posterior", ["gaussian", "realnvp"])
def test_the_doubly_reparametrized_gradient_is_right_in_the_mean(posterior, step):
    """Of the layer that makes codes; the bound, and gradients of the likelihood, stay as they are."""
    found = []
    for path_derivative in (False, True):
        options = revised(VAEOptions(), {"posterior": posterior, "objective": "importance-weighted"})
        changed = {"path_derivative": path_derivative}
        objective = revised(options, changed).objective
        model = small(posterior=options.posterior, objective=objective, samples=3, kl_warm_up=10).double()
        (layer,) = (part for part in model.posterior.modules() if isinstance(part, GaussianPosterior))
        batch = Batch(IMAGES[:1].double().expand(500, -1, -1, -1), torch.arange(500))
        torch.manual_seed(1)
        drawn = []
        for _ in range(20):
            (update,) = model.updates(batch, step)
            parameters = [*layer.mean_and_log_scale.parameters(), *model.likelihood.parameters()]
            drawn.append([update.loss, *torch.autograd.grad(update.loss, parameters)])
        found.append([torch.stack([each.detach() for each in some]) for some in zip(*drawn, strict=True)])
    (loss, whole, _, *of_likelihood), (same_loss, double, _, *same) = found
    torch.testing.assert_close([loss, *of_likelihood], [same_loss, *same])
    error = (whole.var(0) / len(whole) + double.var(0) / len(double)).sqrt()
    assert ((whole - double).mean(0).abs() < 5 * error + 1e-9).all()
    assert not torch.allclose(whole, double)
