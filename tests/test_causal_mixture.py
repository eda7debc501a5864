"""Causal networks of 8-bit pixels: what a mixture sees, that they make a density, draws, missing pixels."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.densities import CausalLikelihood, CausalMixture, LogisticMixture
from flowvae.densities.causal_mixture import least_squares
from flowvae.errors import UserError
from flowvae.models.causal_density import CausalDensity
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.pixel_rnn import PixelRNNOptions
from flowvae.models.registry import build_model
from flowvae.networks import GatedBlock
from flowvae.networks.convolutional import depth_to_space, padded
from flowvae.networks.orders import ORDERS, TURNS

CONDITION = 3


def network(
    shape: tuple[int, int, int], levels: int = 256, orders: int = 1, patch: int = 2, seed: int = 0
) -> CausalMixture:
    """In double precision, with weights so large that everything that can matter does."""
    torch.manual_seed(seed)
    blocks = [GatedBlock(5, CONDITION) for _ in range(2)]
    made = CausalMixture(shape, 5, blocks, CONDITION, orders, patch, 2, levels).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def density(shape: tuple[int, int, int], levels: int = 256, orders: int = 1, patch: int = 2) -> CausalDensity:
    return CausalDensity(network(shape, levels, orders, patch)).double().eval()


def drawn(number: int, shape: tuple[int, int, int], levels: int = 256) -> Tensor:
    return torch.randint(levels, (number, *shape)).double() / (levels - 1)


def every_image(shape: tuple[int, int, int], levels: int) -> Tensor:
    size = shape[0] * shape[1] * shape[2]
    values = itertools.product(range(levels), repeat=size)
    return torch.tensor(list(values), dtype=torch.float64).view(-1, *shape) / (levels - 1)


def places(height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """Rows and columns of the pixels in the order of the network."""
    inside = list(itertools.product(range(patch), repeat=2))
    corners = itertools.product(range(0, height, patch), range(0, width, patch))
    return [(row + down, column + right) for row, column in corners for down, right in inside]


@pytest.mark.parametrize("order", range(TURNS))
@pytest.mark.parametrize("patch", [1, 2])
def test_no_mixture_sees_its_own_pixel_or_a_later_one(patch, order):
    """Every value is changed; mixtures at and before its pixel stay bit for bit, some after it move."""
    side, colours = 6, 3
    made = network((colours, side, side), orders=TURNS, patch=patch)
    image, maps = drawn(1, (colours, side, side)), torch.randn(1, CONDITION, side // patch, side // patch)
    orders = torch.tensor([order])

    def mixtures(image: Tensor) -> Tensor:
        with torch.no_grad():
            found: LogisticMixture = made(image, maps.double(), orders)
        return torch.cat([each.flatten(0, -3) for each in found.components])

    before = mixtures(image)
    in_order = places(side, side, patch)
    for number, (row, column) in enumerate(in_order):
        for colour in range(colours):
            changed = image.clone()
            changed[0, colour, row, column] = 1 - changed[0, colour, row, column]
            moved = (mixtures(changed) != before).any(0)
            assert not any(moved[place] for place in in_order[: number + 1]), (row, column, colour)
            beside = number + 1 < len(in_order) and in_order[number + 1][1] > 0
            assert not beside or moved[in_order[number + 1]], (row, column, colour)


@pytest.mark.parametrize(
    ("shape", "levels", "orders", "patch"),
    [
        ((1, 2, 2), 5, 1, 2),
        ((1, 2, 4), 2, 4, 2),
        ((3, 1, 2), 3, 4, 2),
        ((3, 2, 1), 3, 2, 1),
        ((1, 1, 3), 4, 2, 2),
        ((1, 3, 3), 2, ORDERS, 2),
        ((1, 2, 2), 2, ORDERS, 1),
    ],
)
def test_probabilities_of_all_images_sum_to_one(shape, levels, orders, patch):
    model = density(shape, levels, orders, patch)
    images = every_image(shape, levels)
    with torch.no_grad():
        each = [
            model.network.log_prob(images, model.place, torch.full((len(images),), order))
            for order in range(orders)
        ]
        torch.testing.assert_close(torch.stack(each).exp().sum(1), torch.ones(orders).double())
        torch.testing.assert_close(model.log_prob(images).exp().sum(), torch.tensor(1.0).double())


@pytest.mark.parametrize("patch", [1, 2])
def test_256_values_of_the_last_pixel_sum_to_the_probability_of_the_others(patch):
    model = density((1, 4, 5), patch=patch)
    images = drawn(1, (1, 4, 5)).repeat(256, 1, 1, 1)
    images[:, 0, 3, 4] = torch.arange(256) / 255
    others = torch.ones(1, 1, 4, 5, dtype=torch.bool)
    others[..., 3, 4] = False
    with torch.no_grad():
        total = model.log_prob(images).logsumexp(0)
        torch.testing.assert_close(total, model.log_prob(images[:1], observed=others)[0])


@pytest.mark.parametrize(("shape", "patch"), [((3, 4, 6), 2), ((1, 5, 3), 2), ((3, 3, 4), 1)])
def test_draws_follow_the_mixtures_of_the_full_pass(shape, patch):
    """Values are the inverse distribution function of the full pass's own mixtures, at the same noise."""
    made, number = network(shape, patch=patch), 7
    maps = torch.randn(number, CONDITION, *made.sides).double()
    noise = torch.rand(number, *made.noise_shape).double()
    images = made.sample(noise, maps)
    assert torch.equal(images, made.sample(noise, maps))
    whole = padded(images, patch)
    with torch.no_grad():
        mixture = made(whole, maps)
    levels = (whole * 255).round().long()
    of_channels = depth_to_space(noise.permute(0, 3, 1, 2), patch)
    checked = iter(zip(levels.unbind(1), of_channels.unbind(1), strict=True))

    def choose(table: Tensor) -> Tensor:
        value, quantile = (each.flatten(1) for each in next(checked))
        upper = table.cumsum(2).gather(2, value.unsqueeze(2))[..., 0]
        lower = upper - table.gather(2, value.unsqueeze(2))[..., 0]
        inside = padded(torch.ones(1, 1, *shape[1:]), patch).flatten().bool()
        assert ((lower <= quantile + 1e-9) & (quantile <= upper + 1e-9))[:, inside].all()
        return value

    mixture.walk(choose)
    assert next(checked, None) is None


@pytest.mark.parametrize(
    ("shape", "levels", "orders"), [((1, 2, 2), 3, 1), ((1, 1, 3), 3, 4), ((3, 1, 1), 3, 2)]
)
def test_draws_have_the_probabilities_of_the_density(shape, levels, orders):
    model, number = density(shape, levels, orders), 20_000
    found = (model.sample(number, torch.Generator().manual_seed(0)) * (levels - 1)).round().flatten(1)
    powers = levels ** torch.arange(found.shape[1]).flip(0).double()
    counts = torch.bincount((found * powers).sum(1).long(), minlength=levels ** found.shape[1])
    with torch.no_grad():
        expected = model.log_prob(every_image(shape, levels)).exp()
    error = (expected * (1 - expected) / number).sqrt()
    assert ((counts / number - expected).abs() <= 5 * error + 1e-4).all()


def test_probabilities_given_any_code_sum_to_one_and_depend_on_it():
    torch.manual_seed(0)
    upsampler = torch.nn.Sequential(
        torch.nn.Linear(2, 2 * CONDITION), torch.nn.Unflatten(1, (CONDITION, 1, 2))
    )
    given = CausalLikelihood(upsampler, network((1, 2, 3), 2)).double()
    z = torch.randn(3, 1, 2).double().expand(-1, 64, -1)
    with torch.no_grad():
        log_prob = given(z).log_prob(every_image((1, 2, 3), 2))
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(3).double())
    assert (log_prob[0] - log_prob[1]).abs().max() > 0.01


def test_samples_and_images_are_not_mixed_up():
    torch.manual_seed(0)
    upsampler = torch.nn.Sequential(
        torch.nn.Linear(2, 4 * CONDITION), torch.nn.Unflatten(1, (CONDITION, 2, 2))
    )
    given = CausalLikelihood(upsampler, network((3, 4, 4))).double()
    z, images = torch.randn(3, 5, 2).double(), drawn(5, (3, 4, 4))
    with torch.no_grad():
        together = given(z).log_prob(images)
        for s, b in itertools.product(range(3), range(5)):
            alone = given(z[s : s + 1, b : b + 1]).log_prob(images[b : b + 1])
            torch.testing.assert_close(together[s, b], alone[0, 0])


# Missing pixels.


def completed(image: Tensor, known: Tensor, levels: int) -> Tensor:
    """All images [N, C, H, W] that agree with the known pixels of an image [C, H, W]."""
    places = (~known).flatten().nonzero()[:, 0]
    values = torch.tensor(list(itertools.product(range(levels), repeat=len(places)))).double() / (levels - 1)
    all_of_them = image.flatten().expand(len(values), -1).clone()
    all_of_them[:, places] = values
    return all_of_them.view(-1, *image.shape)


@pytest.mark.parametrize(("shape", "orders"), [((1, 2, 3), 1), ((1, 3, 3), 4), ((3, 2, 1), 4)])
def test_probabilities_of_the_known_pixels_sum_to_one(shape, orders):
    model, levels = density(shape, 3, orders), 3
    known = (torch.rand(1, *shape[1:], generator=torch.Generator().manual_seed(1)) < 0.6).expand(shape)
    everything = completed(torch.zeros(shape).double(), ~known, levels)
    with torch.no_grad():
        each = model.log_prob(everything, observed=known.expand_as(everything))
        torch.testing.assert_close(each.exp().sum(), torch.ones(()).double())
        # What is missing has no influence.
        noise = torch.where(known, everything, torch.rand_like(everything).round())
        assert torch.equal(model.log_prob(noise, observed=known.expand_as(everything)), each)
        nothing = model.log_prob(everything[:1], observed=torch.zeros(1, *shape, dtype=torch.bool))
    assert nothing.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("orders", [1, 4])
def test_completions_follow_the_exact_conditional(orders):
    shape, levels = (1, 3, 3), 3
    model = density(shape, levels, orders)
    image = drawn(1, shape, levels)[0]
    known = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
    with torch.no_grad():
        everything = completed(image, known, levels)
        log_prob = model.log_prob(everything)
    exact = (log_prob.softmax(0).view(-1, 1, 1, 1) * everything).sum(0)
    found = model.impute(image[None], known[None], 500, 10_000, torch.Generator().manual_seed(0))
    assert (found.log_prob[0] - log_prob.logsumexp(0)).abs() < 4 * found.standard_error[0] + 1e-9
    torch.testing.assert_close(found.mean[0], exact, atol=0.03, rtol=0)
    assert (found.images[:, 0][:, known] == image[known]).all()


def test_channels_of_a_pixel_are_missing_together():
    model, images = density((3, 2, 2)), drawn(2, (3, 2, 2))
    known = torch.ones(2, 3, 2, 2, dtype=torch.bool)
    known[0, 1, 0, 0] = False
    with pytest.raises(UserError, match="hide all of them or none"):
        model.log_prob(images, observed=known)
    with pytest.raises(UserError, match="hide all of them or none"):
        model.impute(images, known)


# Building.


@pytest.mark.parametrize("options", [PixelCNNOptions(), PixelRNNOptions()], ids=["cnn", "rnn"])
def test_the_levels_of_the_data_decide_the_distribution(options):
    binary = build_model(options, DataSpec((1, 8, 8), 2))
    grey = build_model(options, DataSpec((1, 8, 8), 256))
    assert (binary.levels, grey.levels) == (2, 256)
    assert build_model(options, DataSpec((3, 7, 8), 256)).levels == 256
    with pytest.raises(UserError, match="3 channels; of binary pixels, the causal network needs 1"):
        build_model(options, DataSpec((3, 8, 8), 2))


def started(shape: tuple[int, int, int], images: Tensor, orders: int = 1) -> CausalDensity:
    torch.manual_seed(0)
    small = PixelCNNOptions(causal_channels=8, causal_blocks=1, causal_orders=orders)
    model = build_model(small, DataSpec(shape, 256))
    assert isinstance(model, CausalDensity)
    model.initialize(images)
    return model.eval()


@pytest.mark.parametrize("orders", [1, 4])
def test_it_starts_at_the_linear_prediction(orders):
    """Of images in which each value is linear in those before it, but for noise of a tenth."""
    torch.manual_seed(0)
    shape, deviation = (3, 5, 6), 0.02
    smooth = (0.5 + 0.1 * torch.randn(600, 1, 1, 1)).expand(-1, *shape) + 0.05 * torch.randn(600, 1, 5, 6)
    images = ((smooth + deviation * torch.randn(600, *shape)).clamp(0, 1) * 255).round() / 255
    with torch.no_grad():
        found = -started(shape, images, orders).log_prob(images).mean().item() / 0.6931 / 90
    # A Gaussian of these widths has log2(255 sigma) + 2.05 bits: of the first channel of a pixel, whose
    # neighbours tell the level of the image, and of the others, of which the first tells the most.
    alone = math.log2(255 * math.hypot(0.1, 0.05, deviation)) + 2.05
    best = (math.log2(255 * 0.054) + math.log2(255 * 0.028) + math.log2(255 * 0.0245)) / 3 + 2.05
    assert best - 0.1 < found < best + 0.5
    assert found < alone - 1


def test_least_squares_are_those_of_the_values_themselves():
    torch.manual_seed(0)
    inputs, count, colours = 5, 200, 3
    x = torch.randn(count, inputs).double()
    y = torch.randn(count, 2 * colours).double() * 0.1 + x @ torch.randn(inputs, 2 * colours).double() * 0.2
    seen = torch.ones(2 * colours, inputs, dtype=torch.bool)
    seen[:colours, -2:] = False
    both = torch.cat([x, y], 1)
    weights, coefficients = least_squares(both.mT @ both / count, seen, colours)
    assert weights.shape == (6, 5)
    assert coefficients.shape == (6,)
    assert (weights[~seen] == 0).all()
    first = torch.linalg.lstsq(x[:, :3], y[:, :1]).solution[:, 0]
    torch.testing.assert_close(weights[0, :3], first, atol=1e-3, rtol=0)
    third = torch.linalg.lstsq(torch.cat([x, y[:, 3:5]], 1), y[:, 5:]).solution[:, 0]
    torch.testing.assert_close(weights[5], third[:5], atol=1e-3, rtol=0)
    torch.testing.assert_close(coefficients[4:], third[5:], atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 4)])
def test_a_prediction_that_has_started_is_causal_too(shape):
    """Draws follow the density of a network whose linear prediction is not zero."""
    model = started(shape, drawn(200, shape).float()).double()
    images = model.sample(3, torch.Generator().manual_seed(0))
    levels, values = (images * 255).round().long(), list[Tensor]()
    distribution = model.pixels(torch.zeros(3, 0), torch.zeros(3, dtype=torch.int64))
    portions = distribution.values(levels)

    def choose(table: Tensor) -> Tensor:
        value = next(portions)
        values.append(table.gather(2, value.unsqueeze(2)).log().flatten())
        return value

    with torch.no_grad():
        assert torch.equal(distribution.walk(choose), levels)
        torch.testing.assert_close(torch.stack(values).sum(0), model.log_prob(images), atol=1e-6, rtol=0)
