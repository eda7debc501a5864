"""PixelRNN: convolutional LSTMs against the paper's skewed maps, what a pixel sees, densities and draws."""

import itertools
import math
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from command_line import succeeds, write_images
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.densities.causal_symbols import to_symbols
from flowvae.models.causal_density import CausalDensity
from flowvae.models.pixel_rnn import DiagonalOptions, PixelRNNOptions, RowOptions
from flowvae.models.registry import build_model
from flowvae.networks import DiagonalLSTM, RowLSTM
from flowvae.networks.convolutional import padded
from flowvae.networks.convolutional_lstm import ConvolutionalLSTM, diagonals, rows

KINDS = {"row": RowOptions(), "diagonal": DiagonalOptions()}
BLOCKS = {"row": RowLSTM, "diagonal": DiagonalLSTM}


Module = TypeVar("Module", bound=torch.nn.Module)


def moved(module: Module) -> Module:
    """In double precision, with weights so large that everything that can matter does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module.double().eval()


def density(
    kind: str, sides: tuple[int, int], patch: int, layers: int = 2, orders: int = 1, **more: bool
) -> CausalDensity:
    assert patch in (1, 2)
    options = PixelRNNOptions(KINDS[kind], layers, 6, orders=orders, patch=patch, **more)
    torch.manual_seed(0)
    model = moved(build_model(options, DataSpec((1, *sides), 2, classes=2)))
    assert isinstance(model, CausalDensity)
    return model


def every_image(height: int, width: int) -> Tensor:
    pixels = itertools.product((0.0, 1.0), repeat=height * width)
    return torch.tensor(list(pixels), dtype=torch.float64).view(-1, 1, height, width)


# The recurrence.


@pytest.mark.parametrize(("height", "width"), [(3, 4), (4, 3), (1, 5), (5, 1), (3, 3)])
def test_lines_have_every_position_once_and_after_what_it_sees(height, width):
    for lines, beside in ((rows(height, width), None), (diagonals(height, width), (-1, 1))):
        ends = list(itertools.accumulate((high - low for low, high in lines.lines), initial=0))
        assert all(high <= lines.places for _, high in lines.lines)
        for direction, order in enumerate(lines.order.tolist()):
            assert sorted(order) == list(range(height * width))
            line_of = {
                position: (line, low + place)
                for line, (start, (low, high)) in enumerate(zip(ends, lines.lines, strict=False))
                for place, position in enumerate(order[start : start + high - low])
            }
            for position, (line, place) in line_of.items():
                row, column = divmod(position, width)
                if beside is None:
                    assert (line, place) == (row, column)
                    continue
                assert place == row
                if row:
                    assert line_of[position - width] == (line - 1, place - 1)
                before = column + beside[direction]
                if 0 <= before < width:
                    assert line_of[row * width + before] == (line - 1, place)


def skewed(maps: Tensor) -> Tensor:
    """Offset each row of maps [N, C, H, W] by one position from the row above: [N, C, H, W + H - 1]."""
    height = maps.shape[2]
    return torch.stack([F.pad(maps[:, :, row], (row, height - 1 - row)) for row in range(height)], dim=2)


def unskewed(maps: Tensor) -> Tensor:
    width = maps.shape[3] - maps.shape[2] + 1
    return torch.stack([maps[:, :, row, row : row + width] for row in range(maps.shape[2])], dim=2)


def test_unskewing_inverts_skewing():
    maps = torch.randn(2, 3, 4, 5)
    assert skewed(maps).shape == (2, 3, 4, 8)
    assert torch.equal(unskewed(skewed(maps)), maps)


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = gates.chunk(4, dim=1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def of_rows(lstm: ConvolutionalLSTM, x: Tensor) -> Tensor:
    """The Row LSTM with convolutions, row by row."""
    (of_input,), (of_state,) = lstm.of_inputs, lstm.of_states
    inputs = of_input(F.pad(x, (1, 0, 0, 0)))
    state = cell = x.new_zeros(len(x), lstm.size, 1, x.shape[3])
    states = []
    for row in inputs.split(1, dim=2):
        state, cell = lstm_step(row + of_state(F.pad(state, (1, 1, 0, 0))), cell)
        states.append(state)
    return torch.cat(states, dim=2)


def of_skewed_maps(lstm: ConvolutionalLSTM, x: Tensor) -> Tensor:
    """The Diagonal BiLSTM as in the paper, with column-wise convolutions of skewed maps."""
    found = []
    for of_input, of_state, maps in zip(lstm.of_inputs, lstm.of_states, (x, x.flip(3)), strict=True):
        # Positions outside of the map have no state, which the paper leaves open.
        inside = skewed(torch.ones_like(maps[:, :1]))
        inputs = skewed(of_input(maps))
        state = cell = x.new_zeros(len(x), lstm.size, x.shape[2], 1)
        states = []
        for column, here in zip(inputs.split(1, dim=3), inside.split(1, dim=3), strict=True):
            state, cell = lstm_step(column + of_state(F.pad(state, (0, 0, 1, 0))), cell)
            state, cell = state * here, cell * here
            states.append(state)
        found.append(unskewed(torch.cat(states, dim=3)))
    left, right = found[0], found[1].flip(3)
    return left + F.pad(right, (0, 0, 1, 0))[:, :, :-1]


@pytest.mark.parametrize(("height", "width"), [(3, 4), (5, 2), (1, 3)])
@pytest.mark.parametrize(("kind", "expected"), [("row", of_rows), ("diagonal", of_skewed_maps)])
def test_a_block_is_the_lstm_of_the_paper(kind, expected, height, width):
    """States and all gradients, which are written by hand, are those of the plain convolutions."""
    torch.manual_seed(0)
    block = moved(BLOCKS[kind](6))
    x = torch.randn(3, 6, height, width).double().requires_grad_()
    found = block(x, None)
    plain = x + block.mix(expected(block.lstm, x))
    torch.testing.assert_close(found, plain)
    weight = torch.randn_like(plain)
    parameters = [x, *block.parameters()]
    gradients, plain_gradients = (
        torch.autograd.grad((output * weight).sum(), parameters) for output in (found, plain)
    )
    torch.testing.assert_close(gradients, plain_gradients)


def test_products_in_half_precision_are_close():
    torch.manual_seed(0)
    for kind in BLOCKS.values():
        block, x = kind(32), torch.randn(2, 32, 6, 5)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = block(x, None)
        torch.testing.assert_close(narrow, block(x, None), atol=0.03, rtol=0.03)


# What a pixel sees.


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_no_logit_sees_its_own_patch_or_a_later_one(kind, patch):
    """Of diagonals, every later logit moves.

    Except for those left of what the first layer reaches, in the row after the change of a row's last pixel.
    Nothing to the right of it is left in its row to see it.
    """
    height, width = 5, 7
    network = density(kind, (height, width), patch).network
    columns = math.ceil(width / patch)
    image = (torch.rand(1, 1, height, width) < 0.5).double()
    maps = torch.randn(1, 6, math.ceil(height / patch), columns).double()
    with torch.no_grad():
        before = network(padded(image, patch), maps).flatten(2)
        possible = before.isfinite()
        for row, column in itertools.product(range(height), range(width)):
            changed = image.clone()
            changed[0, 0, row, column] = 1 - changed[0, 0, row, column]
            moved_logits = network(padded(changed, patch), maps).flatten(2) != before
            assert not (moved_logits & ~possible).any()
            seen = moved_logits.any(1)[0]
            own = row // patch * columns + column // patch
            assert not seen[: own + 1].any(), (row, column)
            if kind == "diagonal":
                unseen = max(0, columns - 1 - network.first.reach) if (own + 1) % columns == 0 else 0
                assert seen[own + 1 + unseen :].all(), (row, column)
                assert not seen[own + 1 : own + 1 + unseen].any(), (row, column)
            assert seen[own + 1 : own + 2].all() or (own + 1) % columns == 0, (row, column)


def test_a_row_lstm_sees_a_triangle():
    block, x = moved(RowLSTM(4)), torch.randn(1, 4, 5, 9).double().requires_grad_()
    row, column = 3, 4
    (gradient,) = torch.autograd.grad(block(x, None)[0, :, row, column].sum(), [x])
    expected = torch.zeros(5, 9, dtype=torch.bool)
    for above in range(row + 1):
        expected[row - above, column - above - 1 : column + above + 1] = True
    assert torch.equal(gradient.abs().sum(1)[0] > 0, expected)


# Densities and draws.


@pytest.mark.parametrize("sides", [(2, 2), (2, 3), (3, 3)])
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one(kind, patch, sides):
    images = every_image(*sides)
    model = density(kind, sides, patch, orders=2)
    log_prob = model.log_prob(images)
    torch.testing.assert_close(log_prob.exp().sum().item(), 1.0, atol=1e-6, rtol=0)
    assert log_prob.std() > 0.3
    given = density(kind, sides, patch, labels=True)
    for label in range(2):
        labels = torch.full((len(images),), label)
        torch.testing.assert_close(given.log_prob(images, labels=labels).exp().sum().item(), 1.0)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_draws_follow_the_conditional_distributions_of_the_full_pass(kind, patch):
    """With kept states, a symbol is the inverse distribution function of the full pass at the same noise."""
    model, number = density(kind, (5, 7), patch), 20
    noise = torch.rand(number, *model.place.shape[2:]).double()
    images = model.network.sample(noise, model.place)
    assert set(images.unique().tolist()) == {0.0, 1.0}
    probabilities = model.network(padded(images, patch), model.place).softmax(1)
    symbols = to_symbols(padded(images, patch), patch).unsqueeze(1)
    upper = probabilities.cumsum(1)
    lower = (upper - probabilities).gather(1, symbols)[:, 0]
    assert (lower <= noise + 1e-9).all()
    assert (noise <= upper.gather(1, symbols)[:, 0] + 1e-9).all()


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_draws_have_the_probabilities_of_the_density(kind, patch):
    model, number = density(kind, (2, 3), patch, orders=2), 50_000
    drawn = model.sample(number, torch.Generator().manual_seed(0)).flatten(1)
    of_image = drawn.long() @ (2 ** torch.arange(6)).flip(0)
    observed = torch.bincount(of_image, minlength=64) / number
    expected = model.log_prob(every_image(2, 3)).exp()
    error = (expected * (1 - expected) / number).sqrt()
    assert ((observed - expected).abs() <= 5 * error + 1e-5).all()


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_starts_near_independent_pixels(kind, patch):
    torch.manual_seed(0)
    means = 0.02 + 0.6 * torch.rand(1, 1, 12, 12) ** 3
    images = (torch.rand(200, 1, 12, 12) < means).float()
    options = PixelRNNOptions(KINDS[kind], layers=4, channels=32, orders=2, patch=patch)  # type: ignore[arg-type]
    model = build_model(options, DataSpec((1, 12, 12), 2)).eval()
    assert isinstance(model, CausalDensity)
    model.initialize(images)
    found = -model.log_prob(images).mean()
    of_pixels = F.binary_cross_entropy(images.mean(0).expand_as(images), images) * 144
    assert abs(found / of_pixels - 1) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_trained_scored_and_sampled(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images.npz")
    small = ["--layers", 1, "--channels", 6, "--batch-size", 16, "--steps", 3, "--track", "none"]
    preset = f"pixelrnn-{kind}"
    succeeds("train", preset, *small, "--patch", 1, "--data", "images.npz", "--out", "run")
    assert "-log p(x)" in succeeds("evaluate", "run", "--images", 10)
    succeeds("sample", "run", "--images", 4)
    succeeds("score", "run", "images.npz", "--out", "scores.csv")
    assert "nll" in (tmp_path / "scores.csv").read_text().splitlines()[0]
