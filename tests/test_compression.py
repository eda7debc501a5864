"""Compression: everything is undone bit by bit, and takes as many bits as the densities say."""

import math

import numpy as np
import pytest
import torch
from compressible import NAMES, REFUSED, SHAPE, moved
from flow_constructors import FLOWS, context_for, event_of, make
from hypothesis import given, settings
from hypothesis import strategies as st

from flowvae.compression import Coding, blocks, codes
from flowvae.compression.blocks import _with, _without, portions
from flowvae.compression.codes import CELL, REACH, STEPS, as_floats, do, pop_normal, push_normal, undo
from flowvae.compression.stack import Stack
from flowvae.errors import UserError
from flowvae.evaluation.likelihood import bounds
from flowvae.flows import MonotoneStep
from flowvae.models import Bounded, Sampler, Scored
from flowvae.objectives import importance_weighted_bound

pytest.importorskip("constriction")


@pytest.fixture
def growing(monkeypatch) -> None:
    """Portions grow from the first images on, so that few images are few passes."""
    monkeypatch.setattr(blocks, "GROWTH", 2)


def test_a_stack_undoes_pops_by_pushes():
    random = np.random.default_rng(0)
    stack = Stack()
    sizes, table = random.integers(1, 1 << 23, (3, 50)), random.random((40, 7))
    uniform, drawn, same = stack.pop_uniform(sizes), stack.pop(table), stack.pop(table[0], 30)
    assert ((uniform >= 0) & (uniform < sizes)).all()
    assert stack.initial_words > 90
    stack.push(same, table[0])
    stack.push(drawn, table)
    stack.push_uniform(uniform, sizes)
    untouched = Stack()
    assert np.array_equal(stack._coder.get_compressed(), untouched._coder.get_compressed())


def test_what_is_pushed_onto_an_empty_stack_is_popped_from_its_words():
    table = np.array([0.1, 0.2, 0.7])
    for number in (0, 1, 5, 100):
        values = np.random.default_rng(number).integers(0, 3, number)
        stack = Stack()
        stack.push(values, table)
        assert np.array_equal(Stack(stack.words()).pop(table, number), values)


def test_a_transposed_table_is_the_same_table():
    table = np.random.default_rng(0).random((500, 4)) ** 4
    popped = []
    for same in (table, np.asfortranarray(table)):
        stack = Stack()
        popped.append(stack.pop(same))
        stack.push(popped[-1], table)
        assert np.array_equal(stack._coder.get_compressed(), Stack()._coder.get_compressed())
    assert np.array_equal(*popped)


def test_noise_is_standard_normal_and_takes_as_many_bits_as_its_density_says():
    stack = Stack()
    noise = pop_normal(stack, (2, 10_000))
    numbers = noise * CELL
    assert abs(numbers.mean()) < 0.03
    assert abs(numbers.std() - 1) < 0.03
    density = -0.5 * numbers**2 - 0.5 * math.log(2 * math.pi) + math.log(CELL)
    taken = 32.0 * (stack._size - stack._coder.num_words())
    assert taken == pytest.approx(-density.sum() / math.log(2), rel=1e-4)
    push_normal(stack, noise)
    assert np.array_equal(stack._coder.get_compressed(), Stack()._coder.get_compressed())


@given(st.lists(st.integers(-(2**46), 2**46), min_size=1, max_size=20))
@settings(deadline=None)
def test_any_code_can_be_pushed(codes):
    stack = Stack(np.arange(1, 1000, dtype=np.uint32))
    some = np.array([*codes, *(round(edge / CELL) for edge in (-REACH, REACH))])
    push_normal(stack, some)
    assert np.array_equal(pop_normal(stack, some.shape), some)


def test_noise_beyond_the_table_is_near_its_end(monkeypatch):
    """It is popped once in 2^24 times. Were it anywhere, its code could be too far from 0."""
    monkeypatch.setattr(codes, "NORMAL", np.array([*np.zeros(STEPS), 1.0]))
    stack = Stack()
    noise = pop_normal(stack, (2, 5000))
    beyond = np.abs(noise[np.abs(noise) * CELL >= REACH]) * CELL - REACH
    assert len(beyond) > 9900
    assert np.median(beyond) < CELL * 8
    assert beyond.max() < 1e3
    assert (noise < 0).mean() == pytest.approx(0.5, abs=0.03)
    push_normal(stack, noise)
    assert np.array_equal(stack._coder.get_compressed(), Stack()._coder.get_compressed())


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_of_whole_numbers_is_the_flow_and_loses_nothing(name):
    """The stack shrinks by log|det|, by which the log density of the codes falls."""
    flow = make(name).eval()
    number = 200
    with torch.no_grad():  # scales within reach of whole numbers
        for parameter in flow.parameters():
            parameter *= 0.5
    context = context_for(name, flow, number)
    torch.manual_seed(1)
    before = (torch.randn(1, number, *event_of(name), dtype=torch.float64) / CELL).round().long().numpy()
    stack = Stack()
    size = stack._coder.num_bits()
    with torch.no_grad():
        steps = flow.steps(context)
        after = do(stack, before, steps)
        exact, log_determinant = flow(as_floats(before), context)
        change = (stack._coder.num_bits() - size) * math.log(2)
        assert change == pytest.approx(-float(log_determinant.sum()), rel=2e-3, abs=30)
        error = (as_floats(after) - exact).abs().median() / CELL
        assert error < 100, "codes are not those of the flow"
        assert np.array_equal(undo(stack, after, steps), before)
    assert np.array_equal(stack._coder.get_compressed(), Stack()._coder.get_compressed())


@pytest.mark.usefixtures("growing")
@pytest.mark.parametrize("name", NAMES)
def test_images_are_restored_and_take_as_many_bits_as_the_bound_says(name):
    model = moved(name)
    assert model.levels is not None
    assert isinstance(model, Sampler)
    images = (model.draw(30) * (model.levels - 1)).round().long()
    coding = Coding(model)
    words, initial = coding.compress(images)
    assert torch.equal(coding.decompress(words, len(images)), images)
    assert model.training is False
    assert next(model.parameters()).dtype == torch.float32
    seen = images / (model.levels - 1)
    with torch.no_grad():
        if isinstance(model, Scored):
            most = least = -model.log_prob(seen).mean()
        else:
            # Between the two, as a level has a probability of at least one in 2^18, unlike under the model.
            assert isinstance(model, Bounded)
            found = bounds(model, seen, 200)
            most, least = found.negative_elbo.mean(), found.negative_log_marginal.mean()
    per_image = 32 * (len(words) - initial) * math.log(2) / len(images)
    assert 0.95 * float(least) - 2 < per_image < 1.05 * float(most) + 2


@pytest.mark.usefixtures("growing")
@pytest.mark.parametrize("name", ["vae-realnvp-of-noise", "vae-causal", "vae-mixture-of-maps"])
def test_several_samples_take_the_importance_weighted_bound_of_the_codes_that_were_drawn(name):
    model = moved(name)
    assert isinstance(model, Sampler)
    assert model.levels is not None
    images = (model.draw(150) * (model.levels - 1)).round().long()
    coding = Coding(model, samples=4)
    log_weights, found = coding.model.log_weights, list[torch.Tensor]()

    def recorded(*given):
        found.append(log_weights(*given))
        return found[-1]

    coding.model.log_weights = recorded
    words, initial = coding.compress(images)
    weights = torch.cat(found, 1)
    assert weights.shape == (4, 150)
    assert len(found) < 150, "no portion had several images"
    expected = float(math.log(4) - weights.logsumexp(0).mean())
    per_image = 32 * (len(words) - initial) * math.log(2) / len(images)
    assert per_image == pytest.approx(expected, rel=1e-3, abs=0.1)
    assert expected < -float(weights.mean()) - 0.1
    with torch.no_grad():
        densities = [model(images / (model.levels - 1), 4) for _ in range(20)]
    independent = -torch.stack([importance_weighted_bound(each) for each in densities]).mean()
    assert expected == pytest.approx(float(independent), rel=0.01, abs=0.5)
    assert torch.equal(coding.decompress(words, len(images)), images)


def test_several_samples_need_an_inverse():
    coding = Coding(moved("vae-planar-whole-gradient"), samples=2)
    with pytest.raises(UserError, match="Planar has no inverse"):
        coding.compress(torch.zeros(1, *SHAPE, dtype=torch.int64))
    with pytest.raises(UserError, match="no code"):
        Coding(moved("pixelcnn"), samples=2)


@given(st.data())
@settings(deadline=None)
def test_a_sample_can_be_removed_and_put_back(data):
    values = np.arange(5 * 3 * 2).reshape(5, 3, 2)
    index = np.array(data.draw(st.lists(st.integers(0, 4), min_size=3, max_size=3)))
    one = values[None, index, np.arange(3)]
    assert np.array_equal(_with(_without(values, index), one, index), values)


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_compress_say_so(name):
    with pytest.raises(UserError, match=REFUSED[name]):
        Coding(moved(name)).compress(torch.zeros(1, *SHAPE, dtype=torch.int64))


@pytest.mark.usefixtures("growing")
@pytest.mark.parametrize(
    "name",
    ["vae-realnvp-of-noise", "vae-causal", "pixelcnn", "pixelcnn-mixture", "vae-mixture-of-maps", "realnvp"],
)
@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 5, 7)], ids=str)
@pytest.mark.parametrize("kind", ["black", "white", "noise"])
@pytest.mark.parametrize("number", [1, 33])
def test_images_of_any_kind_are_restored(name, shape, kind, number):
    if "causal" in name and shape == (1, 5, 7):
        shape = (1, 6, 6)
    coding = Coding(moved(name, shape))
    most = coding.levels - 1
    images = {
        "black": torch.zeros(number, *shape, dtype=torch.int64),
        "white": torch.full((number, *shape), most),
        "noise": torch.randint(0, most + 1, (number, *shape)),
    }[kind]
    words, _ = coding.compress(images)
    assert torch.equal(coding.decompress(words, number), images)


def test_codes_out_of_reach_are_refused():
    model = moved("vae-realnvp-of-noise")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1e3
    images = torch.randint(0, 2, (5, *SHAPE))
    with pytest.raises(UserError, match="too far from 0"):
        Coding(model).compress(images)


@given(st.integers(1, 5000))
@settings(deadline=None, max_examples=50)
def test_portions_add_up(number):
    sizes = portions(number)
    assert sum(sizes) == number
    assert min(sizes) >= 1


def test_threads_are_as_before():
    before = torch.get_num_threads()
    Coding(moved("vae")).compress(torch.zeros(1, *SHAPE, dtype=torch.int64))
    assert torch.get_num_threads() == before


def test_a_monotone_step_of_another_shape_is_the_same_map():
    step = MonotoneStep(lambda z: z + torch.tensor([1.0, 2.0, 3.0, 4.0]) * z, 8, (-1, 1))
    square = step.reshaped(lambda z: z.flatten(-2), lambda z: z.unflatten(-1, (2, 2)))
    z = torch.randn(3, 2, 2)
    torch.testing.assert_close(square.function(z), z * torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
    assert square[1:] == step[1:]
