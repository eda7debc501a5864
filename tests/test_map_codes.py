"""Codes that are maps: what is a vector to everything around it is convolved where it is transformed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import flowvae, is_refusal, succeeds
from made_runs import moved_model
from torch.distributions import Independent, Normal

from flowvae.batch import DataSpec
from flowvae.config import Config, System
from flowvae.densities import FlowPosterior, GaussianPosterior
from flowvae.errors import UserError
from flowvae.evaluation import bounds
from flowvae.flows import Chain, Checkerboard, Flattened
from flowvae.models import VAE
from flowvae.models.couplings import CodeShape
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.posteriors import InverseAutoregressiveOptions, PlanarOptions, RealNVPOptions
from flowvae.models.priors import RealNVPPriorOptions, VampOptions
from flowvae.models.registry import PRESETS
from flowvae.models.vae import MapOptions, VAEOptions, VectorOptions

SHAPE = (1, 8, 8)
LATENT = 3
SIZE = LATENT * 2 * 2
SMALL = VAEOptions(networks=ConvolutionalOptions(channels=4), code=MapOptions(), latent=LATENT)
OPTIONS = {
    "gaussian": SMALL,
    "planar": replace(SMALL, posterior=PlanarOptions(transformations=2)),
    "realnvp": replace(SMALL, posterior=RealNVPOptions(transformations=3, hidden=4)),
    "realnvp prior": replace(SMALL, prior=RealNVPPriorOptions(prior_transformations=2, prior_hidden=4)),
    "vamp prior": replace(SMALL, prior=VampOptions(pseudo_inputs=4)),
}


def build(options: VAEOptions, shape: tuple[int, int, int] = SHAPE) -> VAE:
    return options.build(DataSpec(shape))


def some_images(number: int = 5) -> torch.Tensor:
    return torch.bernoulli(torch.full((number, *SHAPE), 0.5))


@pytest.mark.parametrize("name", OPTIONS)
def test_to_everything_else_the_code_is_a_vector(name):
    torch.manual_seed(0)
    model = moved_model(Config(model=OPTIONS[name])).eval()
    images = some_images()
    code = OPTIONS[name].code_shape(SHAPE)
    assert (code, code.dimension) == (CodeShape(LATENT, (2, 2)), SIZE)
    assert model.encode(images, 4).shape == (4, 5, SIZE)
    assert model.prior().event_shape == (SIZE,)
    assert model.reconstruct(images).shape == images.shape
    assert model.sample(3).shape == (3, *SHAPE)
    densities = model(images, 4)
    assert all(part.shape == (4, 5) for part in densities)
    loss = -(densities.likelihood + densities.prior - densities.posterior).mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_gaussian_density_is_that_of_the_normal_distribution():
    torch.manual_seed(0)
    model = moved_model(Config(model=SMALL)).eval()
    features = model.encoder(some_images())
    z, log_density = model.posterior(features, 6)
    assert isinstance(model.posterior, GaussianPosterior)
    mean, log_scale = model.posterior.mean_and_log_scale(features).chunk(2, dim=1)
    expected = Independent(Normal(mean.flatten(1), log_scale.flatten(1).exp()), 1)
    torch.testing.assert_close(log_density, expected.log_prob(z))


def test_every_place_of_a_map_sees_its_part_of_the_image():
    """The mean at a place has the gradient of the pixels near it, and none of a far corner."""
    model = build(replace(SMALL, networks=ConvolutionalOptions(channels=4, blocks=0)), (1, 32, 32))
    images = torch.rand(1, 1, 32, 32, requires_grad=True)
    center = model.posterior.center(model.encoder(images)).unflatten(2, (LATENT, 8, 8))
    (gradient,) = torch.autograd.grad(center[0, 0, :, 0, 0].sum(), images)
    assert gradient[0, 0, :4, :4].abs().sum() > 0
    assert gradient[0, 0, 16:, 16:].abs().sum() == 0


def test_transformations_alternate_and_are_counted():
    model = build(OPTIONS["realnvp"])
    assert isinstance(model.posterior, FlowPosterior)
    assert isinstance(model.posterior.flow, Flattened)
    assert isinstance(model.posterior.flow.flow, Chain)
    checkered = [isinstance(part, Checkerboard) for part in model.posterior.flow.flow.flows]
    assert checkered == [True, False, False, True]  # a pair of channel couplings between the two
    images = some_images()
    assert len(model.posterior.unroll(model.encoder(images), 2)) == 1 + 2 * 3
    assert len(model.unroll(images, 2)) == 1 + 3  # a pair is one transformation


def test_sides_that_are_odd_have_no_checkerboard():
    """A quarter of 28 x 28 is 7 x 7."""
    model = build(OPTIONS["realnvp"], (1, 28, 28))
    assert not any(isinstance(part, Checkerboard) for part in model.modules())
    assert model.encode(torch.zeros(2, 1, 28, 28)).shape == (1, 2, LATENT * 7 * 7)


def test_fresh_posterior_flows_and_priors_are_the_identity():
    torch.manual_seed(0)
    model = build(replace(OPTIONS["realnvp"], prior=OPTIONS["realnvp prior"].prior))
    assert isinstance(model.posterior, FlowPosterior)
    features = model.encoder(some_images())
    base, flow = model.posterior.base.center(features), model.posterior.center(features)
    torch.testing.assert_close(flow, base)
    standard = Independent(Normal(torch.zeros(SIZE), torch.ones(SIZE)), 1)
    torch.testing.assert_close(model.prior().log_prob(base), standard.log_prob(base))


def test_importance_weighted_estimate_approaches_the_exact_marginal():
    """A code of 1 x 1 x 1: log p(x) by quadrature over the line."""
    torch.manual_seed(0)
    shape = (1, 4, 4)
    model = build(replace(SMALL, networks=ConvolutionalOptions(channels=4, blocks=0), latent=1), shape)
    assert isinstance(model.posterior, GaussianPosterior)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.posterior.mean_and_log_scale.bias[1] = 0.3  # wide: no weight is heavy
    model = model.double().eval()
    images = torch.bernoulli(torch.full((4, *shape), 0.5)).double()
    grid = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    z = grid.view(-1, 1, 1).expand(-1, 4, 1)
    with torch.no_grad():
        joint = model.likelihood(z).log_prob(images) + model.prior().log_prob(z)
        exact = joint.logsumexp(0) + math.log(18 / 2000)
        estimate = -bounds(model, images, 20_000).negative_log_marginal
    torch.testing.assert_close(estimate, exact, atol=0.02, rtol=0)


COLOUR = [name for name in PRESETS if name.startswith("cifar10")]


@pytest.mark.parametrize("preset", COLOUR)
def test_colour_presets_train_are_scored_and_pictured(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)

    def draw(number: int) -> np.ndarray:
        return random.integers(0, 256, (number, 3, 16, 16), np.uint8)

    np.savez("colours.npz", train=draw(40), valid=draw(10), test=draw(60))
    small = ["--channels", 8, "--blocks", 1, "--latent", 4, "--batch-size", 8, "--steps", 6]
    if preset.endswith("realnvp"):
        small += ["--hidden", 8]
    if preset.endswith("prior"):
        small += ["--prior-hidden", 8]
    succeeds("train", preset, "--data", "colours.npz", *small, "--track", "none", "--out", "run")
    succeeds("evaluate", "run", "--samples", "2", "--images", "5")
    for command in ("sample", "reconstruct", "interpolate"):
        succeeds(command, "run")
    assert len(list((tmp_path / "run").glob("*.png"))) == 3


def test_colour_presets_of_all_data_sets_differ_in_the_data_alone():
    for name in (each for each in COLOUR if each != "cifar10-causal"):  # which other data have no preset of
        for data in ("svhn", "celeba"):
            other = PRESETS[name.replace("cifar10", data)]
            assert other == replace(PRESETS[name], data=replace(other.data, data=data))


def refuse(options: System, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        options.build(DataSpec(SHAPE))


def test_what_has_no_maps_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    iaf = replace(SMALL, posterior=InverseAutoregressiveOptions(transformations=1))
    refuse(iaf, "iaf needs a code that is a vector; choose --posterior realnvp or planar")
    six = replace(SMALL, posterior=RealNVPOptions(transformations=1, hidden=6))
    refuse(six, r"hidden is 6; .* multiple of 4")
    with pytest.raises(UserError, match="a code that is a map needs a Gaussian with diagonal covariance"):
        replace(SMALL, covariance="full")
    is_refusal(flowvae("train", "iaf-4", "--code", "map"), "choose --covariance diagonal")
    words = ["--code", "map", "--covariance", "diagonal"]  # only together are they possible
    is_refusal(flowvae("train", "iaf-4", *words), "iaf needs a code that is a vector")
    assert not list(tmp_path.iterdir())


def test_a_prior_of_maps_names_its_own_option():
    six = replace(SMALL, prior=RealNVPPriorOptions(prior_transformations=1, prior_hidden=6))
    refuse(six, r"prior_hidden is 6; .* multiple of 4")


def test_the_same_settings_make_a_code_that_is_a_vector():
    vector = build(replace(SMALL, code=VectorOptions()))
    assert vector.encode(some_images()).shape == (1, 5, LATENT)
