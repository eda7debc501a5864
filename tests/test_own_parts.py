"""``flowvae.vae``: parts of one's own, beside those that are chosen by name."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal
from torch.distributions.categorical import Categorical

import flowvae
from flowvae.batch import Batch
from flowvae.densities import (
    BernoulliLikelihood,
    CausalLikelihood,
    FlowPosterior,
    FlowPrior,
    GaussianPosterior,
    Likelihood,
    Posterior,
    Prior,
    StandardNormal,
    VampPrior,
)
from flowvae.errors import UserError
from flowvae.evaluation import bounds
from flowvae.flows import AffineCoupling, Flow, Planar
from flowvae.models import VAE
from flowvae.models.bounds import ELBO, ImportanceWeighted
from flowvae.networks import Dense
from flowvae.noise import Noise, normal

SHAPE, LATENT, FEATURES = (1, 8, 8), 3, 10
IMAGES = (torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def encoder() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, FEATURES), nn.Tanh())


def decoder() -> nn.Module:
    return nn.Sequential(nn.Linear(LATENT, 64), nn.Unflatten(1, SHAPE))


class Laplacian(Posterior):
    """Independent Laplace variables, made of normal noise by their distribution functions."""

    def __init__(self) -> None:
        super().__init__()
        self.location = nn.Linear(FEATURES, LATENT)

    def forward(self, features: Tensor, num_samples: int = 1, noise: Noise = None) -> tuple[Tensor, Tensor]:
        location = self.location(features)
        drawn = normal(noise, (num_samples, *location.shape), location)
        quantile = 0.5 * (drawn / math.sqrt(2)).erf()
        z = location - quantile.sign() * torch.log1p(-2 * quantile.abs().clamp(max=0.4999))
        return z, (-(z - location).abs() - math.log(2)).sum(2)

    def center(self, features: Tensor) -> Tensor:
        return self.location(features).unsqueeze(0)


class TwoHills(Prior):
    """An even mixture of two Gaussians about -1 and 1."""

    def forward(self) -> Distribution:
        hills = Independent(Normal(torch.tensor([[-1.0], [1.0]]).expand(2, LATENT), 0.5), 1)
        return MixtureSameFamily(Categorical(torch.ones(2)), hills)

    def sample(self, num_codes: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        signs = torch.arange(num_codes).remainder(2).mul(2).sub(1).unsqueeze(1)
        shape = (num_codes, LATENT)
        return temperature * (signs + 0.5 * normal(noise, shape, torch.zeros(())))


class RealPixels(Likelihood):
    """Independent real pixels with variance 1."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = decoder()

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> Distribution:
        return Independent(Normal(self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2]), 1.0), 3)


def works(model: VAE) -> None:
    """It is trained, validated, scored, encodes, decodes and draws; every parameter has its gradient."""
    (update,) = model.updates(Batch(IMAGES, torch.arange(5)), step=10_000)
    update.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    model.eval()
    scores = model.validate(Batch(IMAGES, torch.arange(5)))
    assert scores[model.best].shape == (5,)
    found = bounds(model, IMAGES, 20)
    assert (found.negative_elbo >= found.negative_log_marginal).all()
    assert model.encode(IMAGES, 2).shape == (2, 5, LATENT)
    assert model.reconstruct(IMAGES).shape == IMAGES.shape
    assert model.path(IMAGES[:2], IMAGES[2:4], 3).shape == (2, 3, LATENT)
    assert model.sample(4).shape == (4, *SHAPE)
    assert model.dimension == LATENT


def planar() -> Flow:
    return Planar(LATENT, transformations=2, amortized=True)


def coupling() -> Flow:
    return AffineCoupling(Dense(2, 8, 2, context=True), LATENT)


def test_an_encoder_of_ones_own_is_used():
    own = encoder()
    model = flowvae.vae(SHAPE, encoder=own, latent=LATENT, channels=4)
    assert model.encoder is own
    assert isinstance(model.posterior, GaussianPosterior)
    assert model.posterior.mean_and_log_scale.in_features == FEATURES
    works(model)


def test_an_encoder_of_ones_own_is_left_as_it_was():
    """What it gives is found out without moving its statistics, or torch's generator by its dropout."""
    own = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, FEATURES)).train()
    own[2].eval()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    flowvae.vae(SHAPE, encoder=own, latent=LATENT, channels=4)
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [part.training for part in own] == [True, True, False, True]


def test_an_encoder_of_ones_own_gives_the_pseudo_inputs_of_a_prior_their_posteriors():
    own = encoder()
    model = flowvae.vae(SHAPE, encoder=own, prior="vamp", pseudo_inputs=4, latent=LATENT, channels=4)
    assert isinstance(model.prior, VampPrior)
    assert model.prior.borrowed == (own, model.posterior)
    works(model)


def test_a_decoder_of_ones_own_gives_the_logits():
    own = decoder()
    model = flowvae.vae(SHAPE, decoder=own, latent=LATENT, channels=4)
    assert isinstance(model.likelihood, BernoulliLikelihood)
    assert model.likelihood.decoder is own
    codes = torch.randn(5, LATENT)
    torch.testing.assert_close(model.decode(codes), own(codes).sigmoid())
    works(model)


@pytest.mark.parametrize("make", [planar, coupling])
@pytest.mark.parametrize("own_encoder", [False, True])
def test_a_flow_of_ones_own_transforms_the_gaussian(make, own_encoder):
    flow = make()
    model = flowvae.vae(
        SHAPE, encoder=encoder() if own_encoder else None, flow=flow, latent=LATENT, channels=4
    )
    assert isinstance(model.posterior, FlowPosterior)
    assert model.posterior.flow is flow
    assert model.posterior.context is not None
    works(model)
    assert len(model.unroll(IMAGES, 2)) == 1 + len(flow.unroll(torch.zeros(1, 1, LATENT), None))


def test_a_flow_of_ones_own_goes_with_a_full_covariance():
    model = flowvae.vae(SHAPE, flow=planar(), covariance="full", latent=LATENT, channels=4)
    assert isinstance(model.posterior, FlowPosterior)
    assert model.posterior.base.below is not None
    works(model)


def test_a_posterior_of_ones_own_is_used():
    own = Laplacian()
    model = flowvae.vae(SHAPE, encoder=encoder(), posterior=own, latent=LATENT, channels=4)
    assert model.posterior is own
    works(model)
    assert len(model.unroll(IMAGES, 2)) == 1
    torch.testing.assert_close(model.center(IMAGES), own.center(model.encoder(IMAGES))[0])


def test_a_prior_of_ones_own_is_used():
    own = TwoHills()
    model = flowvae.vae(SHAPE, prior=own, latent=LATENT, channels=4)
    assert model.prior is own
    densities = model(IMAGES, 3, torch.Generator().manual_seed(1))
    z = model.encode(IMAGES, 3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(densities.prior, own().log_prob(z))
    works(model)


def test_a_likelihood_of_ones_own_is_used():
    own = RealPixels()
    model = flowvae.vae(SHAPE, likelihood=own, latent=LATENT, channels=4)
    assert model.likelihood is own
    assert model.levels is None
    codes = torch.randn(5, LATENT)
    torch.testing.assert_close(model.decode(codes), own.decoder(codes))
    works(model)


def test_all_parts_can_be_ones_own():
    parts = encoder(), Laplacian(), TwoHills(), RealPixels()
    model = flowvae.vae(
        SHAPE, encoder=parts[0], posterior=parts[1], prior=parts[2], likelihood=parts[3], latent=LATENT
    )
    assert parts == (model.encoder, model.posterior, model.prior, model.likelihood)
    owned = {id(each) for part in parts for each in part.parameters()}
    assert {id(each) for each in model.parameters()} == owned
    works(model)


def test_parts_are_chosen_by_name_with_their_options():
    model = flowvae.vae(
        SHAPE,
        posterior="planar",
        transformations=3,
        prior="realnvp",
        prior_hidden=6,
        likelihood="causal",
        causal_channels=4,
        causal_blocks=1,
        objective="importance-weighted",
        samples=2,
        latent=LATENT,
        channels=4,
    )
    assert isinstance(model.posterior, FlowPosterior)
    assert isinstance(model.posterior.flow, Planar)
    assert model.posterior.flow.transformations == 3
    assert isinstance(model.prior, FlowPrior)
    assert isinstance(model.likelihood, CausalLikelihood)
    assert isinstance(model.objective, ImportanceWeighted)
    assert model.num_samples == 2
    works(model)


def test_a_causal_likelihood_has_the_levels_that_are_given():
    small: dict[str, Any] = {"latent": LATENT, "channels": 4, "causal_channels": 4, "causal_blocks": 1}
    model = flowvae.vae((3, 6, 5), likelihood="causal", levels=256, **small)
    assert model.levels == 256
    images = torch.randint(256, (2, 3, 6, 5)) / 255
    model.initialize(images)
    assert torch.isfinite(flowvae.elbo(model(images))).all()
    assert flowvae.vae(SHAPE, likelihood="causal", **small).levels == 2


def test_what_is_not_said_is_the_default():
    model = flowvae.vae(SHAPE)
    assert isinstance(model.posterior, GaussianPosterior)
    assert isinstance(model.prior, StandardNormal)
    assert isinstance(model.likelihood, BernoulliLikelihood)
    assert model.objective == ELBO()
    assert model.dimension == 40


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"decoder": decoder(), "likelihood": "logistic"}, "logits of binary pixels; omit likelihood"),
        (
            {"decoder": decoder(), "likelihood": RealPixels()},
            "logits of binary pixels; omit likelihood",
        ),
        ({"flow": planar(), "posterior": "iaf"}, "transforms a Gaussian; omit posterior"),
        ({"flow": planar(), "posterior": Laplacian()}, "transforms a Gaussian; omit posterior"),
        ({"levels": 256}, "levels is 256, and pixels of this likelihood take 2 values"),
        ({"levels": 2, "likelihood": RealPixels()}, "pixels of this likelihood take any value"),
        ({"levels": 1, "likelihood": "causal"}, "levels is 1; it must be 2 to"),
        ({"latnet": 3}, "no option 'latnet'; did you mean latent"),
        ({"hidden": 3}, "hidden has no effect with posterior gaussian"),
        ({"posterior": "realnpv"}, "posterior is 'realnpv'; did you mean realnvp"),
        ({"pseudo_inputs": 3}, "pseudo_inputs has no effect with prior normal; .* choose vamp"),
    ],
)
def test_parts_and_options_that_do_not_go_together_are_refused(parts, message):
    with pytest.raises(UserError, match=message):
        flowvae.vae(SHAPE, **parts)


def test_a_flow_of_ones_own_does_not_transform_maps():
    with pytest.raises(UserError, match="a flow of your own transforms a code that is a vector"):
        flowvae.vae(SHAPE, flow=planar(), code="map", latent=LATENT, channels=4)
