"""Noise as an argument: the same generator gives the same numbers, and no other generator moves."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.evaluation import bounds, interpolate
from flowvae.models import VAE, Bounded, Completing, Imputation, Inferring, Model, Sampler
from flowvae.models.causal_density import CausalDensity
from flowvae.models.likelihoods import CausalLikelihoodOptions, LogisticMixtureOptions, LogisticOptions
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.pixel_rnn import PixelRNNOptions
from flowvae.models.posteriors import InverseAutoregressiveOptions, PlanarOptions, RealNVPOptions
from flowvae.models.priors import RealNVPPriorOptions, VampOptions
from flowvae.models.real_nvp import RealNVPDensity, RealNVPDensityOptions
from flowvae.models.vae import MapOptions, VAEOptions, VectorOptions
from flowvae.noise import Noise, integers, normal, uniform

SHAPE = (1, 8, 8)
SMALL = VAEOptions(code=VectorOptions(features=8), networks=ConvolutionalOptions(channels=4), latent=3)
VAES = {
    "gaussian": SMALL,
    "gaussian full": replace(SMALL, covariance="full"),
    "planar": replace(SMALL, posterior=PlanarOptions(transformations=2)),
    "realnvp of noise": replace(SMALL, posterior=RealNVPOptions(2, flow_of="noise", hidden=8)),
    "iaf": replace(SMALL, posterior=InverseAutoregressiveOptions(transformations=2, hidden=8)),
    "map": replace(SMALL, code=MapOptions()),
    "realnvp prior": replace(SMALL, prior=RealNVPPriorOptions(prior_transformations=2, prior_hidden=8)),
    "vamp prior": replace(SMALL, prior=VampOptions(pseudo_inputs=4)),
    "causal": replace(
        SMALL, likelihood=CausalLikelihoodOptions(causal_channels=4, causal_blocks=1, causal_orders=4)
    ),
    "logistic": replace(SMALL, likelihood=LogisticOptions()),
    "logistic mixture": replace(SMALL, likelihood=LogisticMixtureOptions(components=3)),
}
OTHERS = {
    "pixelrnn": PixelRNNOptions(channels=4, layers=1, orders=4),
    "pixelcnn": PixelCNNOptions(causal_channels=4, causal_blocks=1, causal_orders=4),
    "realnvp": RealNVPDensityOptions(transformations=1, hidden=4),
}
IMAGES = (torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def build(name: str) -> Model:
    """In eval mode, away from where it starts."""
    torch.manual_seed(0)
    model = {**VAES, **OTHERS}[name].build(DataSpec(SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def build_vae(name: str) -> VAE:
    model = build(name)
    assert isinstance(model, VAE)
    return model


def flat(drawn: object) -> Tensor:
    """All numbers of what was drawn, in a row."""
    if isinstance(drawn, Tensor):
        return drawn.detach().double().flatten()
    assert isinstance(drawn, tuple | list)
    return torch.cat([flat(part) for part in drawn if part is not None])


def follows_its_generator(draw: Callable[[Noise], object]) -> None:
    """``draw`` is a function of the noise that it is given; without any, of torch's own generator."""
    torch.manual_seed(17)
    before = torch.get_rng_state()
    one, same, other = (flat(draw(torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator moved"
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    generator = torch.Generator().manual_seed(1)
    first, second = flat(draw(generator)), flat(draw(generator))
    assert torch.equal(first, one)
    assert not torch.equal(second, one), "the generator stood still"
    torch.manual_seed(1)
    own = flat(draw(None))
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(flat(draw(None)), own)


# The three ways to draw.

DRAWS: dict[str, Callable[[Noise, Tensor], Tensor]] = {
    "normal": lambda noise, like: normal(noise, (500, 4), like),
    "uniform": lambda noise, like: uniform(noise, (500, 4), like),
    "integers": lambda noise, like: integers(noise, 3, (500, 4), like),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_noise_follows_its_generator(kind):
    follows_its_generator(lambda noise: DRAWS[kind](noise, torch.zeros(())))


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("noise", [None, 1], ids=["of torch", "of a generator"])
def test_noise_has_the_shape_and_the_type_that_are_asked_for(kind, noise):
    generator = None if noise is None else torch.Generator().manual_seed(noise)
    for dtype in (torch.float32, torch.float64):
        drawn = DRAWS[kind](generator, torch.zeros((), dtype=dtype))
        assert drawn.shape == (500, 4)
        assert drawn.dtype == (torch.int64 if kind == "integers" else dtype)


@pytest.mark.parametrize("kind", DRAWS)
def test_noise_that_is_given_is_taken_as_it_is_or_refused(kind):
    given = torch.zeros(500, 4)
    assert DRAWS[kind](given, given) is given
    with pytest.raises(ValueError, match=r"noise has the shape \(4, 500\); expected \(500, 4\)"):
        DRAWS[kind](given.T, given)


def test_noise_is_distributed_as_its_name_says():
    noise, like = torch.Generator().manual_seed(1), torch.zeros((), dtype=torch.float64)
    gaussian, even = normal(noise, (40_000,), like), uniform(noise, (40_000,), like)
    assert abs(gaussian.mean()) < 5 / 200
    assert abs(gaussian.var() - 1) < 5 * 2**0.5 / 200
    assert even.min() >= 0
    assert even.max() < 1
    assert abs(even.mean() - 0.5) < 5 * 12**-0.5 / 200
    counts = integers(noise, 3, (30_000,), like).bincount()
    assert len(counts) == 3
    assert ((counts - 10_000).abs() < 5 * (30_000 * 2 / 9) ** 0.5).all()


# What draws.


@pytest.mark.parametrize("name", VAES)
def test_posteriors_follow_their_generator(name):
    model = build_vae(name)
    assert isinstance(model, Inferring)
    follows_its_generator(lambda noise: model.posterior(model.encoder(IMAGES), 3, noise))
    follows_its_generator(lambda noise: model.encode(IMAGES, 3, noise))
    follows_its_generator(lambda noise: model.unroll(IMAGES, 3, noise))


@pytest.mark.parametrize("name", VAES)
def test_posteriors_take_the_noise_itself(name):
    """As if a generator had drawn it, for all numbers of samples at once."""
    model = build_vae(name)
    given = torch.randn(3, 4, model.dimension, generator=torch.Generator().manual_seed(1))
    by_generator = model.encode(IMAGES, 3, torch.Generator().manual_seed(1))
    assert torch.equal(model.encode(IMAGES, 3, given), by_generator)
    torch.testing.assert_close(model.unroll(IMAGES, 3, given)[-1][0], by_generator)
    with pytest.raises(ValueError, match="noise has the shape"):
        model.encode(IMAGES, 2, given)


@pytest.mark.parametrize("name", ["gaussian", "map", "realnvp prior", "vamp prior"])
def test_priors_follow_their_generator(name):
    model = build_vae(name)
    follows_its_generator(lambda noise: model.prior.sample(6, noise))
    follows_its_generator(lambda noise: model.sample_codes(6, noise, temperature=0.5))


@pytest.mark.parametrize("name", ["gaussian", "map", "realnvp prior"])
def test_priors_take_the_noise_itself(name):
    model = build_vae(name)
    given = torch.randn(6, model.dimension, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.prior.sample(6, given), model.prior.sample(6, torch.Generator().manual_seed(1)))
    assert torch.equal(model.prior.sample(6, 0 * given), model.prior.sample(6, given, temperature=0.0))


def test_the_noise_of_a_mixture_is_more_than_one_tensor():
    with pytest.raises(ValueError, match="a mixture draws components as well as noise; give a generator"):
        build_vae("vamp prior").prior.sample(6, torch.zeros(6, 3))


@pytest.mark.parametrize("name", ["gaussian", "causal", "logistic", "logistic mixture"])
def test_pixels_follow_their_generator(name):
    likelihood, z = build_vae(name).likelihood, torch.randn(2, 4, 3)
    pixels = likelihood(z, torch.Generator().manual_seed(3))
    follows_its_generator(lambda noise: pixels.sample(noise=noise))
    follows_its_generator(lambda noise: pixels.sample((2,), noise=noise))


def test_orders_of_pixels_follow_their_generator():
    likelihood, z = build_vae("causal").likelihood, torch.randn(1, 40, 3)
    follows_its_generator(lambda noise: likelihood(z, noise).orders)


def test_images_of_codes_are_drawn_by_the_noise_that_is_given():
    model = build_vae("causal")
    codes = model.sample_codes(4)
    follows_its_generator(lambda noise: model.decode(codes, noise))
    follows_its_generator(lambda noise: model.reconstruct(IMAGES, noise))
    follows_its_generator(lambda noise: interpolate(model, IMAGES[:2], IMAGES[2:], 3, noise))
    assert model.pixel_noise is not None
    given = torch.rand(4, *model.pixel_noise)
    assert torch.equal(model.decode(codes, given), model.decode(codes, given))
    assert torch.equal(model.decode(codes, given), model.likelihood.images(codes[None], given[None])[0])


@pytest.mark.parametrize("name", ["gaussian", "logistic", "logistic mixture"])
def test_means_of_codes_take_no_noise(name):
    model = build_vae(name)
    codes = model.sample_codes(4)
    before = torch.get_rng_state()
    assert torch.equal(model.decode(codes), model.decode(codes))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [*VAES, *OTHERS])
def test_samples_follow_their_generator(name):
    model = build(name)
    assert isinstance(model, Sampler)
    follows_its_generator(lambda noise: model.sample(6, noise))


@pytest.mark.parametrize("name", ["gaussian", "realnvp prior", "map"])
def test_samples_of_an_autoencoder_take_the_noise_of_the_code(name):
    model = build_vae(name)
    given = torch.randn(6, model.dimension)
    expected = model.decode(model.prior.sample(6, given, 0.7))
    assert torch.equal(model.sample(6, given, temperature=0.7), expected)


def test_samples_of_densities_take_the_noise_itself():
    causal, flow = build("pixelcnn"), build("realnvp")
    assert isinstance(causal, CausalDensity)
    assert isinstance(flow, RealNVPDensity)
    even, gaussian = torch.rand(6, 4, 4), torch.randn(6, 64)
    assert torch.equal(causal.sample(6, even), causal.network.sample(even, causal.place))
    assert torch.equal(flow.sample(6, gaussian), flow.decode(gaussian))


def test_training_bounds_follow_their_generator():
    """The order of each image, and the place of each in its cell."""
    causal, flow = build("pixelcnn"), build("realnvp")
    many = IMAGES.repeat(10, 1, 1, 1)
    follows_its_generator(lambda noise: causal(many, noise))
    follows_its_generator(lambda noise: flow(IMAGES, 3, noise))


def test_dequantization_takes_the_noise_itself():
    flow = build("realnvp")
    assert isinstance(flow, RealNVPDensity)
    given = torch.rand(3, 4, *SHAPE)
    density = flow.log_density(flow.cell(IMAGES, given))
    torch.testing.assert_close(flow(IMAGES, 3, given), density - 64 * torch.tensor(256.0).log())


@pytest.mark.parametrize("name", [*VAES, "realnvp"])
def test_bounds_follow_their_generator(name):
    model = build(name)
    assert isinstance(model, Bounded)
    follows_its_generator(lambda noise: bounds(model, IMAGES, 5, noise=noise)[:2])
    follows_its_generator(lambda noise: bounds(model, IMAGES, 5, chunk=3, noise=noise)[:2])
    follows_its_generator(lambda noise: model.draws_for(IMAGES, noise)(2))


@pytest.mark.parametrize("name", ["gaussian", "logistic", "logistic mixture", "vamp prior"])
def test_completions_follow_their_generator(name):
    model = build(name)
    assert isinstance(model, Completing)
    known = torch.zeros((1, *SHAPE), dtype=torch.bool)
    known[:, :, :4] = True

    def completed(noise: Noise) -> Imputation:
        assert not isinstance(noise, Tensor)
        return model.impute(IMAGES[:1], known, 3, 6, noise)

    follows_its_generator(completed)
