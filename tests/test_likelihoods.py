"""Likelihoods of pixels with many grey levels: masses that add up to one, and draws that follow them."""

import itertools
import math

import pytest
import torch
from causal_networks import gated_network
from torch import Tensor
from torch.distributions import Distribution

from flowvae.densities import (
    CausalMixture,
    DiscretizedLogistic,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    Likelihood,
    LogisticMixture,
    LogisticMixtureLikelihood,
)
from flowvae.densities.causal import CausalImages
from flowvae.densities.discretized_logistic import log_mass
from flowvae.densities.likelihood import BinaryImages
from flowvae.densities.logistic_mixture import Components
from flowvae.densities.tabulated import Tabulated
from flowvae.models.vae import VAEOptions
from flowvae.networks import GatedBlock
from flowvae.parts import from_dict

SETTINGS = [(0.0, -2.0), (-0.9999, -5.0), (0.3, -7.0), (1.7, -1.0), (-1.0, 3.0), (40.0, -7.0)]


def grid(levels: int) -> Tensor:
    return torch.arange(levels, dtype=torch.float64) / (levels - 1)


def one_pixel(location: float, log_scale: float, levels: int) -> DiscretizedLogistic:
    shape = (1, levels, 1, 1, 1)
    return DiscretizedLogistic(
        torch.full(shape, location, dtype=torch.float64),
        torch.full(shape, log_scale, dtype=torch.float64),
        levels,
    )


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize(("location", "log_scale"), SETTINGS)
def test_the_masses_of_all_levels_of_a_pixel_add_up_to_one(levels, location, log_scale):
    pixels = grid(levels).view(-1, 1, 1, 1)
    log_prob = one_pixel(location, log_scale, levels).log_prob(pixels)
    assert log_prob.logsumexp(1).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(("location", "log_scale"), SETTINGS[:4])
def test_a_mass_is_the_difference_of_the_logistic_function_at_the_edges(location, log_scale):
    level = 2 * grid(256) - 1
    edges = torch.cat([level[:1] - math.inf, level[1:] - 1 / 255, level[-1:] + math.inf])
    expected = ((edges - location) / math.exp(log_scale)).sigmoid().diff()
    given = torch.tensor([location, log_scale], dtype=torch.float64)
    mass = log_mass(level, given[0], given[1], 256).exp()
    torch.testing.assert_close(mass, expected, atol=1e-12, rtol=0)


def test_single_precision_is_as_good_far_from_the_location():
    """Where both edges are rounded to the same value of the logistic function, if subtracted."""
    levels = 2 * grid(256) - 1
    for location, log_scale in SETTINGS:
        given = torch.tensor(location), torch.tensor(log_scale)
        single = log_mass(levels.float(), given[0], given[1], 256)
        double = log_mass(levels, given[0].double(), given[1].double(), 256)
        assert single.isfinite().all()
        torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=1e-5)


def test_gaussian_pixels_have_the_density_of_their_means_and_variance():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(1, (1, 2, 2))).double()
    likelihood = GaussianLikelihood(decoder, (1, 2, 2), variance=0.02).double()
    images = torch.rand(50, 1, 2, 2, dtype=torch.float64)
    likelihood.initialize(images)
    z = torch.randn(3, 5, 2, dtype=torch.float64)
    means = (decoder(z.view(-1, 2)) + likelihood.offset).sigmoid().view(3, 5, 1, 2, 2)
    torch.testing.assert_close(likelihood.images(z), means)
    errors = (images[:5] - means).square().sum((2, 3, 4))
    expected = -errors / (2 * 0.02) - 2 * math.log(2 * math.pi * 0.02)
    torch.testing.assert_close(likelihood(z).log_prob(images[:5]), expected)
    draws = likelihood(z).sample(torch.Size([4000]))
    torch.testing.assert_close(draws.mean(0), means, atol=0.02, rtol=0)
    torch.testing.assert_close(draws.var(0), torch.full_like(means, 0.02), atol=0.003, rtol=0)


def mixture(channels: int, levels: int, components: int = 3, images: int = 1) -> LogisticMixture:
    torch.manual_seed(0)
    pixel = (1, images, components)
    return LogisticMixture(
        Components(
            torch.randn(*pixel, 1, 1).double(),
            torch.randn(*pixel, channels, 1, 1).double(),
            torch.randn(*pixel, channels, 1, 1).double() - 2,
            torch.randn(*pixel, channels * (channels - 1) // 2, 1, 1).double(),
        ),
        levels,
    )


def all_pixels(channels: int, levels: int) -> Tensor:
    """Every combination of the channels' values, [levels^C, C, 1, 1]."""
    values = torch.cartesian_prod(*[grid(levels)] * channels).view(-1, channels)
    return values[:, :, None, None]


@pytest.mark.parametrize(("channels", "levels"), [(1, 256), (2, 256), (3, 2), (3, 12), (4, 4)])
def test_the_masses_of_all_colours_of_a_pixel_add_up_to_one(channels, levels):
    log_prob = mixture(channels, levels).log_prob(all_pixels(channels, levels))
    assert log_prob.logsumexp(1).item() == pytest.approx(0, abs=1e-10)


def test_the_last_of_three_channels_sums_to_the_density_of_two():
    """By the chain rule then, with the test above, all 256^3 colours sum to one."""
    three = mixture(3, 256)
    logits, location, log_scale, coefficients = three.components
    two = LogisticMixture(
        Components(logits, location[..., :2, :, :], log_scale[..., :2, :, :], coefficients[..., :1, :, :]),
        256,
    )
    for red, green in itertools.product([0, 17, 128, 255], repeat=2):
        pixels = torch.tensor([red, green]).double().view(1, 2, 1, 1) / 255
        colours = torch.cat([pixels.expand(256, -1, -1, -1), grid(256).view(-1, 1, 1, 1)], dim=1)
        assert three.log_prob(colours).logsumexp(1).item() == pytest.approx(
            two.log_prob(pixels).item(), abs=1e-9
        )


def test_each_channel_moves_with_those_before_it_by_coefficients_of_its_own():
    """``P(r) P(g | r) P(b | r, g)`` of each component, written out."""
    distribution = mixture(3, 8)
    colours = all_pixels(3, 8)
    logits, location, log_scale, coefficients = (value[0, 0, ..., 0, 0] for value in distribution.components)
    red, green, blue = (2 * colours[:, :, 0, 0, None] - 1).unbind(1)
    of_green, of_blue_by_red, of_blue_by_green = coefficients.unbind(1)
    mass = log_mass(red, location[:, 0], log_scale[:, 0], 8)
    mass += log_mass(green, location[:, 1] + of_green * red, log_scale[:, 1], 8)
    moved = location[:, 2] + of_blue_by_red * red + of_blue_by_green * green
    mass += log_mass(blue, moved, log_scale[:, 2], 8)
    expected = (logits.log_softmax(0) + mass).logsumexp(1)
    torch.testing.assert_close(distribution.log_prob(colours)[0], expected)


def test_later_channels_follow_earlier_ones():
    """A coefficient of 1 and a narrow scale make green a copy of red."""
    wide = torch.tensor([0.0, -6.0, -6.0]).view(1, 1, 1, 3, 1, 1)
    copies = torch.tensor([1.0, 0.0, 1.0]).view(1, 1, 1, 3, 1, 1)
    parameters = Components(torch.zeros(1, 1, 1, 1, 1), torch.zeros_like(wide), wide, copies)
    images = torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.2, 0.8], [0.2, 0.8, 0.8]]).view(3, 3, 1, 1)
    same, blue_differs, both_differ = LogisticMixture(parameters, 256).log_prob(images)[0].tolist()
    assert same > -12
    assert blue_differs < same - 100
    assert both_differ < same - 100


@pytest.mark.parametrize("channels", [1, 2])
def test_draws_follow_the_masses(channels):
    levels = 4
    distribution = mixture(channels, levels)
    expected = distribution.log_prob(all_pixels(channels, levels)).exp()[0]
    draws = mixture(channels, levels, images=1)
    many = Components(*(value.expand(1, 20_000, *value.shape[2:]) for value in draws.components))
    torch.manual_seed(1)
    values = (LogisticMixture(many, levels).sample()[0, :, :, 0, 0] * (levels - 1)).round().long()
    index = sum(values[:, channel] * levels ** (channels - 1 - channel) for channel in range(channels))
    counts = torch.bincount(torch.as_tensor(index), minlength=levels**channels) / 20_000
    torch.testing.assert_close(counts.double(), expected, atol=0.015, rtol=0)


def of_many_pixels(kind: str, channels: int, levels: int) -> Distribution:
    """A distribution of four images of 2 x 6 pixels, each with parameters of its own."""
    torch.manual_seed(0)
    shape = (1, 4, channels, 2, 6)
    if kind == "binary":
        return BinaryImages(torch.randn(shape).double())
    if kind == "causal":
        network = gated_network((2, 6), 5, blocks=2, condition=3, orders=2).double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        orders = torch.tensor([[0, 1, 1, 0]])
        return CausalImages(network, torch.randn(1, 4, 3, 1, 3).double(), orders)
    if kind == "causal mixture":
        blocks = [GatedBlock(5, 3) for _ in range(2)]
        network = CausalMixture((channels, 2, 6), 5, blocks, 3, orders=2, levels=levels).double().eval()
        return CausalImages(network, torch.randn(1, 4, 3, 1, 3).double(), torch.tensor([[0, 1, 1, 0]]))
    if kind == "logistic":
        return DiscretizedLogistic(torch.randn(shape).double(), torch.randn(shape).double() - 1, levels)
    sizes = (3,), (3, channels), (3, channels), (3, channels * (channels - 1) // 2)
    return LogisticMixture(Components(*(torch.randn(1, 4, *size, 2, 6).double() for size in sizes)), levels)


@pytest.mark.parametrize(
    ("kind", "channels", "levels"),
    [
        ("binary", 1, 2),
        ("causal", 1, 2),
        ("causal mixture", 3, 5),
        ("causal mixture", 1, 256),
        ("logistic", 3, 5),
        ("logistic", 1, 256),
        ("mixture", 3, 5),
        ("mixture", 1, 256),
        ("mixture", 3, 256),
    ],
)
def test_the_probability_is_the_product_of_those_of_the_values_one_by_one(kind, channels, levels):
    distribution = of_many_pixels(kind, channels, levels)
    assert isinstance(distribution, Tabulated)
    images = (distribution.sample()[0] * (levels - 1)).round().long()
    portions = distribution.values(images)
    of_values: list[Tensor] = []

    def choose(table: Tensor) -> Tensor:
        values = next(portions)
        torch.testing.assert_close(table.sum(2), torch.ones_like(table[..., 0]))
        of_values.append(table.gather(2, values.unsqueeze(2)).log().flatten(1).sum(1))
        return values

    assert torch.equal(distribution.walk(choose), images)
    assert next(portions, None) is None
    expected = distribution.log_prob(images.double() / (levels - 1))[0]
    torch.testing.assert_close(torch.stack(of_values).sum(0), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("location", "log_scale"), SETTINGS)
def test_the_mean_is_within_half_a_level_of_that_of_the_masses(location, log_scale):
    pixels = grid(256).view(-1, 1, 1, 1)
    distribution = one_pixel(location, log_scale, 256)
    exact = (distribution.log_prob(pixels).exp() * grid(256)).sum().item()
    assert distribution.mean[0, 0].item() == pytest.approx(exact, abs=0.5 / 255)
    torch.manual_seed(0)
    drawn = distribution.sample(torch.Size([40])).mean().item()
    assert drawn == pytest.approx(exact, abs=0.02)


SHAPE = (3, 8, 8)


def built(kind: str) -> Likelihood:
    torch.manual_seed(0)
    options = {"likelihood": kind, "latent": 4, "features": 8, "channels": 8}
    return from_dict(VAEOptions, options).with_parts(SHAPE).likelihood


@pytest.mark.parametrize("kind", ["logistic", "logistic-mixture"])
def test_a_likelihood_starts_from_images(kind):
    torch.manual_seed(0)
    # Pixels about levels of their own, so that one offset for all pixels would be found out.
    centers = torch.rand(SHAPE)
    images = ((centers + 0.1 * torch.randn(500, *SHAPE)).clamp(0, 1) * 255).round() / 255
    model = built(kind)
    z = torch.zeros(2, 500, 4)
    before = model(z).log_prob(images).mean()
    model.initialize(images)
    assert isinstance(model, DiscretizedLogisticLikelihood | LogisticMixtureLikelihood)
    assert model.initialized
    distribution = model(z)
    after = distribution.log_prob(images)
    assert after.shape == (2, 500)
    # A Gaussian of these widths has log2(256 * 0.1) + 2.05 = 6.7 bits, which the edges make less.
    bits = -after.mean().item() / math.log(2) / math.prod(SHAPE)
    assert 6 < bits < 7.1
    assert after.mean() > before + 100
    torch.testing.assert_close(distribution.mean[0, 0], images.mean(0), atol=0.05, rtol=0)
    drawn = model(z).sample()
    assert drawn.shape == (2, 500, *SHAPE)
    torch.testing.assert_close((drawn * 255).round() / 255, drawn)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "logistic", "logistic-mixture"])
def test_a_likelihood_without_orders_has_one(kind):
    """Chains of annealing cycle through as many."""
    assert built(kind).orders == 1


@pytest.mark.parametrize("kind", ["logistic", "logistic-mixture"])
def test_gradients_reach_every_parameter(kind):
    model = built(kind).double()
    images = torch.randint(0, 256, (5, *SHAPE)) / 255
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0, 1
    z = torch.randn(2, 5, 4).double().requires_grad_()
    model(z).log_prob(images.double()).sum().backward()
    for tensor in (z, *model.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0
