"""What a bound loses to the encoder and to the family, where both are known in closed form."""

import copy

import pytest
import torch
from linear_gaussian import (
    LATENT,
    PIXELS,
    exact_covariance,
    images_and_exact_value,
    likelihood_of,
    linear_gaussian,
)
from torch import Tensor

from flowvae.densities import GaussianPosterior
from flowvae.evaluation import inference_gaps
from flowvae.models import VAE
from flowvae.models.couplings import CodeShape
from flowvae.models.posteriors import FlowOptions, PlanarOptions, RealNVPOptions, build_posterior

FLOWS: list[FlowOptions] = [
    PlanarOptions(transformations=2, flow_of="noise"),
    RealNVPOptions(transformations=2, flow_of="noise", hidden=4),
]


def model_with(posterior: GaussianPosterior) -> VAE:
    """The linear-Gaussian model with an encoder that knows nothing."""
    model = linear_gaussian(exact=False)
    model.posterior = posterior.double()
    return model


def loss_of_the_best_diagonal(weight: Tensor) -> Tensor:
    """KL to a Gaussian of precision P from the nearest diagonal one, whose variances are 1 / P_ii."""
    precision = torch.linalg.inv(exact_covariance(weight))
    return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))


@pytest.mark.parametrize("full", [True, False])
def test_gaps_are_those_of_the_exactly_solvable_model(full):
    torch.manual_seed(0)
    model = model_with(GaussianPosterior(PIXELS, LATENT, full=full))
    images, exact = images_and_exact_value(model, 8)
    gaps = inference_gaps(model, images, num_samples=4000, steps=600, learning_rate=0.05, training_samples=32)
    lost = loss_of_the_best_diagonal(likelihood_of(model).weight.detach())
    assert lost > 0.1, "the true posterior is diagonal: this would prove nothing"
    expected = torch.zeros(8).double() if full else lost.expand(8)
    torch.testing.assert_close(gaps.negative_log_marginal, -exact, atol=0.04, rtol=0)
    torch.testing.assert_close(gaps.approximation, expected, atol=0.05, rtol=0)
    assert (gaps.amortization > 0.5).all()
    torch.testing.assert_close(
        gaps.amortization + gaps.approximation, gaps.negative_elbo - gaps.negative_log_marginal
    )


def test_a_posterior_without_parameters_of_an_image_is_refused():
    model = linear_gaussian(exact=True)
    images, _ = images_and_exact_value(model, 2)
    with pytest.raises(TypeError, match="posterior is a ExactPosterior"):
        inference_gaps(model, images)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("options", FLOWS, ids=lambda options: options.name)
def test_a_flow_gains_from_parameters_of_each_images_own(options, full):
    torch.manual_seed(0)
    model = linear_gaussian(exact=False)
    model.posterior = build_posterior(options, CodeShape(LATENT), PIXELS, full, blocks=1).double()
    before = copy.deepcopy(model.state_dict())
    images, exact = images_and_exact_value(model, 4)
    gaps = inference_gaps(model, images, num_samples=1000, steps=300, learning_rate=0.1)
    assert (gaps.amortization > 0.5).all()
    assert (gaps.approximation > -0.05).all()
    torch.testing.assert_close(gaps.negative_log_marginal, -exact, atol=0.1, rtol=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
