"""Approximate posteriors: the density that comes with a draw is that of the draw."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from flowvae.densities import (
    BernoulliLikelihood,
    FlowPosterior,
    GaussianPosterior,
    Posterior,
    StandardNormal,
    take_path_derivative,
)
from flowvae.flows import AffineStep, Chain, RealNVP
from flowvae.models.couplings import CodeShape
from flowvae.models.posteriors import GaussianOptions, RealNVPOptions, build_posterior
from flowvae.models.vae import VAEOptions
from flowvae.parts import from_dict

SAMPLES, IMAGES, FEATURES, DIMENSION = 6, 5, 3, 4


def gaussian(full: bool = False) -> tuple[GaussianPosterior, Tensor]:
    torch.manual_seed(0)
    posterior = GaussianPosterior(FEATURES, DIMENSION, full=full).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return posterior, torch.randn(IMAGES, FEATURES).double()


KINDS = pytest.mark.parametrize("kind", ["planar", "realnvp", "iaf"])
ORDERS = pytest.mark.parametrize("flow_of", ["code", "noise"])
COVARIANCES = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def built(**options) -> Posterior:
    """As the options of an autoencoder describe it; fresh, in single precision."""
    described = from_dict(VAEOptions, {"latent": DIMENSION, **options})
    full = described.covariance == "full"
    return build_posterior(described.posterior, CodeShape(DIMENSION), FEATURES, full, blocks=1)


def flow_posterior(
    kind: str, flow_of: str = "code", covariance: str = "diagonal"
) -> tuple[FlowPosterior, Tensor]:
    """Away from the identity, with a context that matters."""
    torch.manual_seed(0)
    hidden = {} if kind == "planar" else {"hidden": 8}
    posterior = built(
        posterior=kind, transformations=3, flow_of=flow_of, covariance=covariance, **hidden
    ).double()
    assert isinstance(posterior, FlowPosterior)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return posterior.eval(), torch.randn(IMAGES, FEATURES).double()


def base_density(base: GaussianPosterior, features: Tensor) -> Independent:
    mean, log_scale = base.mean_and_log_scale(features).chunk(2, dim=1)
    return Independent(Normal(mean, log_scale.exp()), 1)


def test_gaussian_density_is_that_of_its_draws():
    posterior, features = gaussian()
    z, log_density = posterior(features, SAMPLES)
    assert z.shape == (SAMPLES, IMAGES, DIMENSION)
    torch.testing.assert_close(log_density, base_density(posterior, features).log_prob(z), atol=1e-10, rtol=0)


def test_gaussian_draws_have_its_moments():
    posterior, features = gaussian()
    z, _ = posterior(features, 40_000)
    expected = base_density(posterior, features).base_dist
    error = expected.scale / 40_000**0.5
    assert ((z.mean(0) - expected.mean).abs() < 5 * error).all()
    assert ((z.std(0) / expected.scale - 1).abs() < 0.02).all()
    correlations = torch.stack([torch.corrcoef(z[:, image].T) for image in range(IMAGES)])
    assert ((correlations - torch.eye(DIMENSION)).abs() < 0.03).all()
    torch.testing.assert_close(posterior.center(features)[0], expected.mean)


def full_covariance(posterior: GaussianPosterior, features: Tensor) -> MultivariateNormal:
    """From the two layers' outputs, entry by entry."""
    assert posterior.below is not None
    mean, log_scale = posterior.mean_and_log_scale(features).chunk(2, dim=1)
    factor = torch.diag_embed(torch.ones_like(mean))
    entries = iter(posterior.below(features).T)
    for row in range(DIMENSION):
        for column in range(row):
            factor[:, row, column] = next(entries)
    return MultivariateNormal(mean, scale_tril=log_scale.exp().unsqueeze(2) * factor)


def test_full_gaussian_density_is_that_of_its_draws():
    posterior, features = gaussian(full=True)
    z, log_density = posterior(features, SAMPLES)
    expected = full_covariance(posterior, features).log_prob(z)
    torch.testing.assert_close(log_density, expected, atol=1e-10, rtol=0)


def test_full_gaussian_draws_have_its_covariance():
    posterior, features = gaussian(full=True)
    z, _ = posterior(features, 40_000)
    expected = full_covariance(posterior, features)
    for image in range(IMAGES):
        # Whitened by what they should be, draws have the covariance 1.
        whitened = torch.linalg.solve_triangular(
            expected.scale_tril[image], (z[:, image] - expected.mean[image]).T, upper=False
        )
        assert (torch.cov(whitened) - torch.eye(DIMENSION)).abs().max() < 0.03
    assert not torch.allclose(expected.covariance_matrix[0], expected.covariance_matrix[1])


def test_gaussian_draws_are_reparametrized():
    """dz/dmean = 1 and dz/dlog_scale = z - mean, draw by draw; d log q/dlog_scale = -1."""
    posterior, features = gaussian()
    z, log_density = posterior(features, 1)
    mean, _ = posterior.mean_and_log_scale(features).chunk(2, dim=1)
    bias = posterior.mean_and_log_scale.bias
    for i in range(DIMENSION):
        (gradient,) = torch.autograd.grad(z[0, :, i].sum(), bias, retain_graph=True)
        expected = torch.zeros_like(bias)
        expected[i], expected[DIMENSION + i] = IMAGES, (z[0, :, i] - mean[:, i]).sum()
        torch.testing.assert_close(gradient, expected)
    (gradient,) = torch.autograd.grad(log_density.sum(), bias)
    torch.testing.assert_close(gradient[:DIMENSION], torch.zeros(DIMENSION).double())
    torch.testing.assert_close(gradient[DIMENSION:], torch.full((DIMENSION,), -float(IMAGES)).double())


def test_draws_are_independent_over_samples_and_images():
    posterior, _ = gaussian()
    same = torch.ones(IMAGES, FEATURES).double()
    z, _ = posterior(same, SAMPLES)
    assert len(z.flatten().unique()) == z.numel()


@pytest.mark.parametrize("kind", ["realnvp", "iaf"])
def test_flow_density_is_that_of_the_base_where_its_draws_come_from(kind):
    posterior, features = flow_posterior(kind)
    z, log_density = posterior(features, SAMPLES)
    assert posterior.context is not None
    context = posterior.context(features)
    before, inverse_log_determinant = posterior.flow.inverse(z, context)
    assert (before - z).abs().max() > 0.1, "the flow is the identity: this would prove nothing"
    assert isinstance(posterior.base, GaussianPosterior)
    base = base_density(posterior.base, features).log_prob(before)
    torch.testing.assert_close(log_density, base + inverse_log_determinant, atol=1e-8, rtol=0)


@KINDS
@ORDERS
@COVARIANCES
def test_flow_density_is_that_of_the_noise_over_the_jacobian_of_the_draw(kind, flow_of, covariance):
    posterior, features = flow_posterior(kind, flow_of, covariance)
    for image in features.split(1):
        noise = torch.randn(1, 1, DIMENSION).double().requires_grad_()
        z, log_density = posterior(image, noise=noise)
        rows = [torch.autograd.grad(each, noise, retain_graph=True)[0].flatten() for each in z.flatten()]
        expected = Normal(0, 1).log_prob(noise).sum() - torch.linalg.slogdet(torch.stack(rows)).logabsdet
        torch.testing.assert_close(log_density.sum(), expected)


@pytest.mark.parametrize("kind", ["gaussian", "realnvp", "iaf"])
@ORDERS
@COVARIANCES
def test_the_density_at_given_codes_is_that_of_draws_there(kind, flow_of, covariance):
    if kind == "gaussian":
        posterior, features = gaussian(full=covariance == "full")
    else:
        posterior, features = flow_posterior(kind, flow_of, covariance)
    z, log_density = posterior(features, SAMPLES)
    torch.testing.assert_close(posterior.density(features)(z), log_density)


@pytest.mark.parametrize("kind", ["realnvp", "iaf"])
@ORDERS
@COVARIANCES
def test_steps_lead_from_the_noise_to_the_draw(kind, flow_of, covariance):
    posterior, features = flow_posterior(kind, flow_of, covariance)
    noise = torch.randn(SAMPLES, IMAGES, DIMENSION).double()
    z, log_density = posterior(features, SAMPLES, noise)
    moved, total = noise, Normal(0, 1).log_prob(noise).sum(2)
    for step in posterior.steps(features):
        assert isinstance(step, AffineStep)
        log_scale, shift = (each.expand_as(moved) for each in step.parameters(moved))
        moved, total = moved * log_scale.exp() + shift, total - log_scale.sum(2)
    torch.testing.assert_close(moved, z)
    torch.testing.assert_close(total, log_density)


def gradients_of_elbo(posterior: Posterior, features: Tensor, path: bool) -> Tensor:
    """Of -log q(z|x) - |z - 1|^2, by one draw for each row of features [N, F]: [N, F]."""
    if path:
        take_path_derivative(posterior)
    torch.manual_seed(1)
    features = features.requires_grad_()
    z, log_density = posterior(features)
    (gradient,) = torch.autograd.grad((-log_density - (z - 1).square().sum(2)).sum(), features)
    return gradient


@pytest.mark.parametrize("kind", ["gaussian", "planar", "realnvp", "iaf"])
@ORDERS
@COVARIANCES
def test_path_derivative_is_right_in_the_mean_and_leaves_densities_alone(kind, flow_of, covariance):
    if kind == "gaussian":
        posterior, features = gaussian(covariance == "full")
    else:
        posterior, features = flow_posterior(kind, flow_of, covariance)
    same = features[:1].expand(20_000, -1)
    total = gradients_of_elbo(posterior, same, path=False)
    torch.manual_seed(2)
    before = posterior(features, SAMPLES)
    path = gradients_of_elbo(posterior, same, path=True)
    difference = path - total
    assert difference.abs().mean() > 0.01
    assert (difference.mean(0).abs() < 4.5 * difference.std(0) / len(difference) ** 0.5).all()
    torch.manual_seed(2)
    torch.testing.assert_close(posterior(features, SAMPLES), before)


def test_path_derivative_of_each_draw_vanishes_at_the_true_posterior():
    """Of N(0, I) as the target, at the posterior N(0, I), whatever the features."""
    posterior = GaussianPosterior(FEATURES, DIMENSION, full=True).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.zero_()
    take_path_derivative(posterior)
    z, log_density = posterior(torch.randn(IMAGES, FEATURES).double(), SAMPLES)
    loss = (log_density + 0.5 * z.square().sum(2)).sum()
    for gradient in torch.autograd.grad(loss, list(posterior.parameters())):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("settings", [{"normalization": "batch"}, {"flow_batch_norm": True}])
def test_posteriors_with_batch_norm_take_no_path_derivative(settings):
    posterior = built(posterior="realnvp", transformations=1, **settings)
    take_path_derivative(posterior)
    assert not posterior.path_derivative


@KINDS
@COVARIANCES
def test_center_is_where_no_noise_goes(kind, covariance):
    posterior, features = flow_posterior(kind, "noise", covariance)
    silence = torch.zeros(1, IMAGES, DIMENSION).double()
    torch.testing.assert_close(posterior.center(features), posterior(features, noise=silence)[0])


@KINDS
def test_flow_posterior_is_the_base_pushed_through_the_flow(kind):
    posterior, features = flow_posterior(kind)
    torch.manual_seed(1)
    before, base_log_density = posterior.base(features, SAMPLES)
    torch.manual_seed(1)
    z, log_density = posterior(features, SAMPLES)
    assert posterior.context is not None
    expected, log_determinant = posterior.flow(before, posterior.context(features))
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_density, base_log_density - log_determinant)
    center = posterior.flow(posterior.base.center(features), posterior.context(features))[0]
    torch.testing.assert_close(posterior.center(features), center)


@KINDS
def test_an_images_draws_do_not_depend_on_its_neighbours(kind):
    posterior, features = flow_posterior(kind)

    def draw(images: Tensor) -> tuple[Tensor, Tensor]:
        assert posterior.context is not None
        return posterior.flow(
            posterior.base.center(images).expand(SAMPLES, -1, -1), posterior.context(images)
        )

    together = draw(features)
    for image in range(IMAGES):
        alone = draw(features[image : image + 1])
        torch.testing.assert_close(alone[0][:, 0], together[0][:, image])
        torch.testing.assert_close(alone[1][:, 0], together[1][:, image])


@KINDS
def test_context_changes_what_the_flow_does(kind):
    posterior, features = flow_posterior(kind)
    z = torch.zeros(1, IMAGES, DIMENSION).double()
    assert posterior.context is not None
    moved, _ = posterior.flow(z, posterior.context(features))
    assert (moved[0, 0] - moved[0, 1]).abs().max() > 0.01


@KINDS
@ORDERS
def test_fresh_flow_posterior_is_its_base(kind, flow_of):
    posterior = built(posterior=kind, transformations=3, flow_of=flow_of).double()
    assert isinstance(posterior, FlowPosterior)
    features = torch.randn(IMAGES, FEATURES).double()
    torch.manual_seed(1)
    z, log_density = posterior(features, SAMPLES)
    torch.manual_seed(1)
    expected, expected_log_density = posterior.base(features, SAMPLES)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_density, expected_log_density)


@KINDS
@ORDERS
def test_unrolled_posterior_begins_with_its_base_and_ends_with_a_draw(kind, flow_of):
    posterior, features = flow_posterior(kind, flow_of)
    torch.manual_seed(2)
    steps = posterior.unroll(features, SAMPLES)
    assert len(steps) == 4
    z_0, log_density_0 = steps[0]
    assert isinstance(posterior.base, GaussianPosterior)
    torch.testing.assert_close(log_density_0, base_density(posterior.base, features).log_prob(z_0))
    torch.manual_seed(2)
    torch.testing.assert_close(steps[-1], posterior(features, SAMPLES))


def test_unrolled_gaussian_is_one_draw():
    posterior, features = gaussian()
    torch.manual_seed(2)
    (step,) = posterior.unroll(features, SAMPLES)
    torch.manual_seed(2)
    torch.testing.assert_close(step, posterior(features, SAMPLES))


@KINDS
def test_without_context_every_image_has_the_same_flow(kind):
    posterior = built(posterior=kind, transformations=2, context=False).double()
    assert isinstance(posterior, FlowPosterior)
    assert posterior.context is None
    with torch.no_grad():
        for parameter in posterior.flow.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    z, _ = posterior.flow(torch.ones(SAMPLES, IMAGES, DIMENSION).double(), None)
    assert (z - 1).abs().max() > 0.01
    torch.testing.assert_close(z, z[:1, :1].expand_as(z))


def test_transformations_are_counted_as_in_the_literature():
    """One Real NVP transformation is two couplings with swapped halves; planar ones are K in one module."""
    for transformations in (1, 5):
        options = RealNVPOptions(transformations)
        code = CodeShape(DIMENSION)
        at_once = options.flow(code, blocks=1)
        assert isinstance(at_once, RealNVP)
        assert at_once.bias.shape[:2] == (transformations, 2)
        chain = replace(options, normalization="batch").flow(code, blocks=1)
        assert isinstance(chain, Chain)
        assert [flow.swap for flow in chain.flows] == [False, True] * transformations


def test_options_of_a_gaussian_make_no_flow():
    posterior = build_posterior(GaussianOptions(), CodeShape(DIMENSION), FEATURES, full=True, blocks=1)
    assert isinstance(posterior, GaussianPosterior)
    assert posterior.below is not None


def test_standard_normal_prior():
    z = torch.randn(SAMPLES, IMAGES, DIMENSION)
    by_hand = -0.5 * (z.square() + torch.log(torch.tensor(2 * torch.pi))).sum(2)
    torch.testing.assert_close(StandardNormal(DIMENSION)().log_prob(z), by_hand)


def test_bernoulli_likelihood_of_binary_images_sums_to_one():
    """Over all 2^6 images of 2 x 3 pixels, and pixel by pixel as by hand."""
    decoder = torch.nn.Sequential(torch.nn.Linear(DIMENSION, 6), torch.nn.Unflatten(1, (1, 2, 3)))
    likelihood = BernoulliLikelihood(decoder, (1, 2, 3)).double()
    with torch.no_grad():
        likelihood.offset.copy_(torch.randn(1, 2, 3))
    z = torch.randn(SAMPLES, 1, DIMENSION).double().expand(-1, 64, -1)
    images = ((torch.arange(64)[:, None] >> torch.arange(6)) & 1).double().view(64, 1, 2, 3)
    log_prob = likelihood(z).log_prob(images)
    assert log_prob.shape == (SAMPLES, 64)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(SAMPLES).double())
    probability = torch.sigmoid(decoder(z[:, 0]) + likelihood.offset)
    by_hand = torch.where(images[37] == 1, probability, 1 - probability).log().sum((1, 2, 3))
    torch.testing.assert_close(log_prob[:, 37], by_hand)


def test_bernoulli_likelihood_starts_at_the_mean_image():
    linear = torch.nn.Linear(DIMENSION, 6)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    likelihood = BernoulliLikelihood(torch.nn.Sequential(linear, torch.nn.Unflatten(1, (1, 2, 3))), (1, 2, 3))
    mean = torch.tensor([[[0.2, 0.5, 0.9], [0.0, 1.0, 0.05]]])
    assert not likelihood.initialized
    likelihood.initialize(torch.stack([mean * 0.9, mean * 1.1]))
    assert likelihood.initialized
    start = likelihood(torch.randn(SAMPLES, IMAGES, DIMENSION)).mean
    # A pixel that is never on in training may be on in a test image: its probability is not 0.
    torch.testing.assert_close(start, mean.clamp(0.01, 0.99).expand(SAMPLES, IMAGES, 1, 2, 3))
