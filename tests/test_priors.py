"""Priors: densities of their own draws, whose probability is one in all."""

import math

import pytest
import torch
from torch import Tensor

from flowvae.densities import FlowPosterior, FlowPrior, Prior, StandardNormal, VampPrior
from flowvae.flows import RealNVP
from flowvae.models import VAE
from flowvae.models.couplings import CodeShape
from flowvae.models.priors import RealNVPPriorOptions
from flowvae.models.vae import VAEOptions
from flowvae.networks.dropout import raise_dropout
from flowvae.parts import from_dict
from flowvae.shares import Share, sharing

SHAPE = (1, 8, 8)
KINDS = ["normal", "realnvp", "vamp"]


def model(prior: str, posterior: str = "gaussian", latent: int = 2) -> VAE:
    """Moved away from where it starts."""
    torch.manual_seed(0)
    options = {"posterior": posterior, "latent": latent, "features": 8, "channels": 4, "prior": prior}
    if posterior != "gaussian":
        options["transformations"] = 2
    if prior == "realnvp":
        options |= {"prior_transformations": 2, "prior_hidden": 8}
    if prior == "vamp":
        options["pseudo_inputs"] = 5
    built = from_dict(VAEOptions, options).with_parts(SHAPE).double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return built


def grid(reach: float, steps: int) -> tuple[Tensor, float]:
    """Points of the plane [steps, steps, 2], and the area of each."""
    axis = torch.linspace(-reach, reach, steps).double()
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), 2), (2 * reach / (steps - 1)) ** 2


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one(kind):
    points, area = grid(20.0, 1001)
    with torch.no_grad():
        total = model(kind).prior().log_prob(points).exp().sum() * area
    assert total.item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density(kind):
    """The mean and the second moments of draws are those of the density on a grid."""
    prior: Prior = model(kind).prior
    points, area = grid(20.0, 1001)
    with torch.no_grad():
        weights = (prior().log_prob(points).exp() * area).unsqueeze(2)
        draws = prior.sample(200_000)
    assert draws.shape == (200_000, 2)
    for power in (1, 2):
        expected = (weights * points**power).sum((0, 1))
        moments = draws**power
        error = moments.std(0) / math.sqrt(200_000)
        assert ((moments.mean(0) - expected).abs() < 5 * error + 5e-3).all()


def test_flow_prior_is_the_base_where_its_draws_come_from():
    prior = model("realnvp", latent=5).prior
    assert isinstance(prior, FlowPrior)
    plain = torch.randn(4, 3, 5).double()
    z, log_determinant = prior.flow.inverse(plain)
    assert (z - plain).abs().max() > 0.1, "the flow is the identity: this would prove nothing"
    by_hand = -0.5 * plain.square().sum(2) - 2.5 * math.log(2 * math.pi) - log_determinant
    torch.testing.assert_close(prior().log_prob(z), by_hand)


def fresh_prior(**options) -> Prior:
    """Of codes of three numbers; its options need neither an encoder nor a posterior."""
    described = RealNVPPriorOptions(prior_transformations=2, **options)
    return described.prior(CodeShape(3), 1, SHAPE, torch.nn.Identity(), model("normal").posterior)


def test_flow_prior_begins_as_the_standard_normal():
    prior = fresh_prior()
    z = torch.randn(4, 5, 3)
    torch.testing.assert_close(prior().log_prob(z), StandardNormal(3)().log_prob(z))


def test_vamp_prior_is_the_mixture_of_posteriors():
    built = model("vamp")
    prior = built.prior
    assert isinstance(prior, VampPrior)
    inputs = prior.pseudo_inputs()
    mean, log_scale = built.posterior.mean_and_log_scale(built.encoder(inputs)).chunk(2, dim=1)  # type: ignore[attr-defined]
    z = torch.randn(4, 3, 2).double()
    each = torch.distributions.Normal(mean, log_scale.exp()).log_prob(z.unsqueeze(2)).sum(3)
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(2) - math.log(5))


def test_vamp_prior_starts_at_training_images():
    prior = model("vamp").prior
    assert isinstance(prior, VampPrior)
    images = (torch.rand(3, *SHAPE) < 0.5).double()
    prior.initialize(images)
    assert torch.equal(prior.pseudo_inputs().round(), images[[0, 1, 2, 0, 1]])


def test_vamp_prior_saves_no_weight_twice_and_follows_its_model():
    import copy

    built = copy.deepcopy(model("vamp"))
    assert [name for name in built.state_dict() if name.startswith("prior")] == ["prior.pseudo_logits"]
    z = torch.zeros(1, 1, 2).double()
    before = built.prior().log_prob(z)
    with torch.no_grad():
        next(iter(built.posterior.parameters())).mul_(2)
    assert not torch.equal(built.prior().log_prob(z), before)


@pytest.mark.parametrize("posterior", ["gaussian", "planar", "realnvp", "iaf"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_prior_goes_with_every_posterior(kind, posterior):
    built = model(kind, posterior, latent=3)
    densities = built((torch.rand(4, *SHAPE) < 0.5).double(), num_samples=2)
    assert densities.prior.shape == (2, 4)
    densities.prior.sum().backward()
    assert all(p.grad is not None for p in built.prior.parameters())


def test_dropout_of_pseudo_inputs_is_that_of_no_share():
    """They are not images of the batch, and all processes and portions have all of them."""
    built = model("vamp").train()
    assert isinstance(built.prior, VampPrior)
    raise_dropout(built, 0.5)
    torch.manual_seed(1)
    _, whole, _ = built.prior.components()
    for rank in range(2):
        torch.manual_seed(1)
        with sharing(Share(rank, 2, 7)):
            assert torch.equal(built.prior.components()[1], whole)


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_scales_the_distance_of_codes_from_the_mean(kind):
    prior = model(kind).prior

    def draw(temperature: float) -> Tensor:
        with torch.no_grad():
            codes = prior.sample(50, torch.Generator().manual_seed(1), temperature)
            return prior.flow(codes.unsqueeze(0))[0][0] if isinstance(prior, FlowPrior) else codes

    at_one, at_half, at_zero = draw(1.0), draw(0.5), draw(0.0)
    # At 0 every code is the mean: of a mixture, that of its components' means.
    torch.testing.assert_close(at_zero, at_zero[:1].expand(50, -1))
    torch.testing.assert_close(at_half - at_zero, 0.5 * (at_one - at_zero))
    assert (at_one - at_zero).abs().mean() > 0.1
    if isinstance(prior, VampPrior):
        torch.testing.assert_close(at_zero[0], prior().mean)
    else:
        torch.testing.assert_close(at_zero, torch.zeros_like(at_zero))


def test_couplings_of_the_prior_have_options_of_their_own():
    """Not those of the posterior's."""
    given = {"prior": "realnvp", "prior_hidden": 6, "prior_transformations": 3, "prior_bounded": False}
    others = {"posterior": "realnvp", "transformations": 2, "hidden": 5}
    built = from_dict(VAEOptions, {**others, **given, "latent": 4}).with_parts(SHAPE)
    prior, posterior = built.prior, built.posterior
    assert isinstance(prior, FlowPrior)
    assert isinstance(prior.flow, RealNVP)
    assert isinstance(posterior, FlowPosterior)
    assert isinstance(posterior.flow, RealNVP)
    assert prior.flow.bias.shape == (3, 2, 6)
    assert posterior.flow.bias.shape == (2, 2, 5)
    assert not any("bound" in name for name, _ in prior.named_parameters())
    assert any("bound" in name for name, _ in posterior.named_parameters())
