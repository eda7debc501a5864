"""The causal network: what each conditional distribution sees, that they make a density, and its draws."""

import itertools

import pytest
import torch
from causal_networks import gated_network
from torch import Tensor, nn

from flowvae.batch import Batch, DataSpec
from flowvae.densities import CausalLikelihood, CausalSymbols
from flowvae.densities.causal_symbols import _bits, to_symbols
from flowvae.errors import UserError
from flowvae.models.causal_density import CausalDensity
from flowvae.models.likelihoods import CausalLikelihoodOptions
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.vae import VAEOptions
from flowvae.networks import GatedBlock
from flowvae.networks.causal import PATCH
from flowvae.networks.convolutional import depth_to_space, fewer
from flowvae.networks.orders import ORDERS, turn, turn_back

CONDITION = 3


def network(sides: tuple[int, int], condition: int = 0, seed: int = 0, blocks: int = 2) -> CausalSymbols:
    """In double precision, with weights so large that everything that can matter does."""
    torch.manual_seed(seed)
    made = gated_network(sides, 5, blocks, condition).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def binary(*shape: int) -> Tensor:
    return (torch.rand(*shape) < 0.5).double()


def every_image(height: int, width: int) -> Tensor:
    pixels = itertools.product((0.0, 1.0), repeat=height * width)
    return torch.tensor(list(pixels), dtype=torch.float64).view(-1, 1, height, width)


def test_symbols_are_the_patches():
    images = binary(7, 1, 6, 8)
    symbols = to_symbols(images)
    assert symbols.shape == (7, 3, 4)
    assert torch.equal(depth_to_space(_bits(symbols, 2), 2).double(), images)
    assert len(to_symbols(every_image(2, 2)).unique()) == 16


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("condition", [0, CONDITION])
def test_no_logit_sees_its_own_patch_or_a_later_one(seed, condition):
    """Every pixel is changed; logits at and before its patch stay bit for bit, some after it move."""
    height, width = 10, 8
    made = network((height, width), condition, seed)
    maps = torch.randn(1, condition, height // 2, width // 2).double() if condition else None
    image = binary(1, 1, height, width)
    with torch.no_grad():
        before = made(image, maps).flatten(2)
        for row, column in itertools.product(range(height), range(width)):
            changed = image.clone()
            changed[0, 0, row, column] = 1 - changed[0, 0, row, column]
            moved = (made(changed, maps).flatten(2) != before).any(1)[0]
            patch = row // 2 * (width // 2) + column // 2
            assert not moved[: patch + 1].any(), (row, column)
            # The neighbours that come after it, within what the first layer reaches.
            later = [patch + 1] if column // 2 + 1 < width // 2 else []
            below = patch + width // 2
            later += [place for place in (below,) if row // 2 + 1 < height // 2]
            assert moved[later].all(), (row, column)


def test_a_logit_sees_all_of_the_condition_within_reach():
    made = network((8, 8), CONDITION)
    image, maps = binary(1, 1, 8, 8), torch.randn(1, CONDITION, 4, 4).double().requires_grad_()
    made(image, maps)[0, :, 2, 1].sum().backward()
    assert maps.grad is not None
    reached = maps.grad.abs().sum(1)[0] > 0
    assert reached[2, :2].all()
    assert reached[1, :3].all()
    assert not reached[2, 2:].any()
    assert not reached[3].any()


@pytest.mark.parametrize("condition", [0, CONDITION])
def test_probabilities_of_all_images_sum_to_one(condition):
    made = network((2, 4), condition)
    images = every_image(2, 4)
    maps = torch.randn(1, condition, 1, 2).double().expand(256, -1, -1, -1) if condition else None
    with torch.no_grad():
        total = made.log_prob(images, maps).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0).double())


def likelihood(sides: tuple[int, int] = (2, 4), dimension: int = 2) -> CausalLikelihood:
    torch.manual_seed(0)
    height, width = sides[0] // 2, sides[1] // 2
    upsampler = torch.nn.Sequential(
        torch.nn.Linear(dimension, CONDITION * height * width),
        torch.nn.Unflatten(1, (CONDITION, height, width)),
    )
    return CausalLikelihood(upsampler.double(), network(sides, CONDITION)).double()


def test_probabilities_given_any_code_sum_to_one():
    given = likelihood()
    z = torch.randn(3, 1, 2).double().expand(-1, 256, -1)
    with torch.no_grad():
        log_prob = given(z).log_prob(every_image(2, 4))
    assert log_prob.shape == (3, 256)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(3).double())
    assert (log_prob[0] - log_prob[1]).abs().max() > 0.1, "the code makes no difference"


def test_blocks_take_maps_in_the_memory_format_of_fast_convolutions():
    made = CausalSymbols((8, 8), 5, [GatedBlock(5, CONDITION)], CONDITION, orders=2).eval()
    taken: list[bool] = []

    def watch(module: nn.Module, arguments: tuple[Tensor, Tensor]) -> None:
        taken.extend(maps.is_contiguous(memory_format=torch.channels_last) for maps in arguments)

    made.blocks[0].register_forward_pre_hook(watch)
    made.log_prob(binary(3, 1, 8, 8).float(), torch.randn(6, CONDITION, 4, 4), torch.arange(6) % 2)
    assert taken == [True, True]


def test_samples_and_images_are_not_mixed_up():
    given, z, images = likelihood((4, 4)), torch.randn(3, 5, 2).double(), binary(5, 1, 4, 4)
    with torch.no_grad():
        together = given(z).log_prob(images)
        for s, b in itertools.product(range(3), range(5)):
            alone = given(z[s : s + 1, b : b + 1]).log_prob(images[b : b + 1])
            torch.testing.assert_close(together[s, b], alone[0, 0])


def test_one_map_for_all_images_is_a_map_for_each():
    made, images = network((4, 6), CONDITION), binary(5, 1, 4, 6)
    maps = torch.randn(1, CONDITION, 2, 3).double()
    torch.testing.assert_close(made(images, maps), made(images, maps.expand(5, -1, -1, -1)))


@pytest.mark.parametrize("condition", [0, CONDITION])
def test_draws_follow_the_conditional_distributions_of_the_full_pass(condition):
    """Symbols are the inverse distribution function of the full pass's own logits, at the same noise."""
    made, number = network((6, 8), condition), 40
    maps = torch.randn(number, condition, 3, 4).double() if condition else None
    noise = torch.rand(number, 3, 4).double()
    images = made.sample(noise, maps)
    assert set(images.unique().tolist()) == {0.0, 1.0}
    with torch.no_grad():
        upper = made(images, maps).softmax(1).cumsum(1)
    symbols = to_symbols(images).unsqueeze(1)
    lower = (upper - made(images, maps).softmax(1)).gather(1, symbols)[:, 0]
    assert (lower <= noise + 1e-9).all()
    assert (noise <= upper.gather(1, symbols)[:, 0] + 1e-9).all()


def test_draws_have_the_probabilities_of_the_density():
    made, number = network((2, 4)), 100_000
    places = (to_symbols(made.sample(torch.rand(number, 1, 2).double())) * torch.tensor([16, 1])).flatten(1)
    observed = torch.bincount(places.sum(1), minlength=256) / number
    images = every_image(2, 4)
    order = (to_symbols(images) * torch.tensor([16, 1])).flatten(1).sum(1)
    with torch.no_grad():
        expected = torch.zeros(256).double().index_put((order,), made.log_prob(images).exp())
    error = (expected * (1 - expected) / number).sqrt()
    assert ((observed - expected).abs() <= 5 * error + 1e-5).all()


def test_the_same_noise_shows_what_the_code_decides():
    given, noise = likelihood((4, 4)), torch.rand(2, 5, 2, 2).double()
    one, other = given(torch.randn(2, 5, 2).double()), given(torch.randn(2, 5, 2).double())
    assert torch.equal(one.sample(noise=noise), one.sample(noise=noise))
    assert not torch.equal(one.sample(noise=noise), other.sample(noise=noise))
    assert one.sample(torch.Size((3,))).shape == (3, 2, 5, 1, 4, 4)
    with pytest.raises(NotImplementedError):
        _ = one.mean  # what the model makes are draws, and no averages of them


def test_it_starts_at_the_frequencies_of_patches():
    torch.manual_seed(0)
    made = gated_network((4, 4), 5, 1)
    with torch.no_grad():
        made.last.weight.zero_()
    images = (torch.rand(50, 1, 4, 4) < 0.3).float()
    made.initialize(images)
    counts = torch.nn.functional.one_hot(to_symbols(images), 16).float().mean(0)  # [2, 2, 16]
    torch.testing.assert_close(made(images)[0].softmax(0).permute(1, 2, 0), counts, atol=0.02, rtol=0)
    made.initialize(torch.full((1, 1, 4, 4), 0.5))  # intensities are probabilities
    torch.testing.assert_close(made(images).softmax(1), torch.full((50, 16, 2, 2), 1 / 16))


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    made, images = gated_network((4, 4), 5, 2, dropout=0.5), binary(3, 1, 4, 4).float()
    assert not torch.equal(made(images), made(images))
    made.eval()
    assert torch.equal(made(images), made(images))


def test_pixel_cnn_is_an_exact_density():
    torch.manual_seed(0)
    model = CausalDensity(gated_network((2, 4), 5, 2, CONDITION).double()).double()
    images = every_image(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(images).exp().sum(), torch.tensor(1.0).double())
        # Of a single order, what training maximizes is the density itself.
        torch.testing.assert_close(model(images), model.log_prob(images))
    assert model.sample(3).shape == (3, 1, 2, 4)
    assert not model.initialized
    model.initialize(images)
    assert model.initialized


def test_every_order_is_another_and_can_be_undone():
    image = torch.arange(16).view(1, 1, 4, 4)
    turned = [turn(image, order) for order in range(ORDERS)]
    assert len({tuple(each.flatten().tolist()) for each in turned}) == ORDERS
    for order, each in enumerate(turned):
        assert torch.equal(turn_back(each, order), image)


def several_orders(orders: int, sides: tuple[int, int] = (2, 4)) -> CausalSymbols:
    torch.manual_seed(0)
    made = gated_network(sides, 5, 2, CONDITION, orders=orders).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize(("orders", "sides"), [(4, (2, 4)), (ORDERS, (3, 3))])
def test_each_order_is_a_density_of_its_own(orders, sides):
    made, images = several_orders(orders, sides), every_image(*sides)
    maps = torch.randn(1, CONDITION, *fewer(sides, PATCH)).double()
    with torch.no_grad():
        all_orders = torch.stack(
            [made.log_prob(images, maps, torch.full((len(images),), order)) for order in range(orders)]
        )
    torch.testing.assert_close(all_orders.exp().sum(1), torch.ones(orders).double())
    assert (all_orders[:, None] - all_orders).abs().amax(-1).add(torch.eye(orders)).min() > 0.01


def test_the_samples_of_an_image_take_turns_at_the_orders():
    made, images = several_orders(4), binary(5, 1, 2, 4)
    upsampler = torch.nn.Sequential(
        torch.nn.Linear(2, 2 * CONDITION), torch.nn.Unflatten(1, (CONDITION, 1, 2))
    )
    given, z = CausalLikelihood(upsampler.double(), made), torch.zeros(4, 5, 2).double()
    with torch.no_grad():
        maps = upsampler(z[0, :1])
        found = given(z).log_prob(images)
        each = torch.stack([made.log_prob(images, maps, torch.full((5,), order)) for order in range(4)])
    torch.testing.assert_close(found.sort(0).values, each.sort(0).values)


@pytest.mark.parametrize(("orders", "sides"), [(4, (2, 4)), (ORDERS, (3, 3))])
def test_draws_with_several_orders_have_the_probabilities_of_their_mixture(orders, sides):
    made, number, images = several_orders(orders, sides), 100_000, every_image(*sides)
    patches = fewer(sides, PATCH)
    maps = torch.randn(1, CONDITION, *patches).double()
    drawn = made.sample(torch.rand(number, *patches).double(), maps).flatten(1)
    places = drawn @ 2.0 ** torch.arange(drawn.shape[1] - 1, -1, -1, dtype=drawn.dtype)
    observed = torch.bincount(places.long(), minlength=len(images)) / number
    with torch.no_grad():
        each = [made.log_prob(images, maps, torch.full((len(images),), order)) for order in range(orders)]
    expected = torch.stack(each).exp().mean(0)
    error = (expected * (1 - expected) / number).sqrt()
    assert ((observed - expected).abs() <= 5 * error + 1e-5).all()


def test_pixel_cnn_with_several_orders_is_their_mixture():
    made, images = CausalDensity(several_orders(4)).double().eval(), every_image(2, 4)
    with torch.no_grad():
        exact = made.log_prob(images)
        each = [
            made.network.log_prob(images, made.place, torch.full((len(images),), order)) for order in range(4)
        ]
        drawn = made(images.repeat(400, 1, 1, 1)).view(400, -1)
    torch.testing.assert_close(exact.exp().sum(), torch.tensor(1.0).double())
    torch.testing.assert_close(exact.exp(), torch.stack(each).exp().mean(0))
    # In training, every image has every order as often: a bound, by Jensen.
    bound = torch.stack(each).mean(0)
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - bound).abs() < 5 * error).all()
    assert (bound < exact).all()


def test_pixel_cnn_trains_by_its_bound_and_is_validated_by_its_density():
    made, images = CausalDensity(several_orders(4)).double().eval(), every_image(2, 4)[::16]
    batch = Batch(images, torch.arange(len(images)))
    torch.manual_seed(1)
    bound = made(images)
    torch.manual_seed(1)
    (update,) = made.updates(batch, step=0)
    assert update.player == "model"
    torch.testing.assert_close(update.loss, -bound.mean())
    torch.testing.assert_close(update.shown["nll"], -bound.mean())
    assert not update.shown["nll"].requires_grad
    assert made.best == "nll"
    torch.testing.assert_close(made.validate(batch), {"nll": -made.log_prob(images)})


def test_pixel_cnn_has_no_code_whose_temperature_could_be_set():
    made = CausalDensity(several_orders(1)).double()
    with pytest.raises(UserError, match="no code to apply a temperature to"):
        made.sample(3, temperature=0.5)


@pytest.mark.parametrize(
    "options",
    [VAEOptions(likelihood=CausalLikelihoodOptions(causal_orders=5)), PixelCNNOptions(causal_orders=5)],
    ids=["likelihood", "model"],
)
def test_more_than_four_orders_are_those_of_a_square(options):
    options.build(DataSpec((1, 8, 8)))
    with pytest.raises(UserError, match="8 x 12; more than 4 orders need square images"):
        options.build(DataSpec((1, 8, 12)))
    with pytest.raises(UserError, match="3 channels; of binary pixels, the causal network needs 1"):
        options.build(DataSpec((3, 8, 8)))


def test_logarithms_of_half_precision_are_summed_in_single_precision():
    network = gated_network((4, 4), 4, 1).bfloat16()
    assert network.log_prob(torch.ones(2, 1, 4, 4).bfloat16(), None).dtype == torch.float32
