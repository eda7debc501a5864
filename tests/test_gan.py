"""The adversarial network: its score meets exact values, its players move alone, and it learns both modes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_ended_as, assert_equal, state_of
from torch import Tensor, nn

import flowvae
from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.errors import UserError
from flowvae.models.adversarial import energy_score, squared_slopes
from flowvae.models.gan import GAN, PRESETS, GANOptions
from flowvae.models.registry import build_model
from flowvae.parts import from_dict, shaping
from flowvae.runs import Run
from flowvae.training import loop
from flowvae.training.players import make_players, updates

SHAPES = {"gan-mnist": (1, 28, 28), "gan-cifar10": (3, 32, 32)}
SHAPES |= dict.fromkeys(("wu-gan-50", "wu-gan-10"), (1, 28, 28))
TINY = {"latent": 2, "features": 16, "channels": 8, "blocks": 0}
REGULARIZATIONS = ["r1", "spectral"]
# What learns both modes in seconds, with seeds 0, 1 and 2. A spectral discriminator has to be wider.
LEARNING: dict[str, dict[str, Any]] = {
    "r1": {},
    "spectral": {"latent": 8, "features": 64, "channels": 32, "scale": 3.0},
}
RATES = {"r1": 3e-3, "spectral": 1e-3}
BATCH, STEPS, PER_EPOCH = 32, 300, 5


def options(**changes: Any) -> GANOptions:
    return from_dict(GANOptions, {**TINY, **changes})


def tiny(**changes: Any) -> GAN:
    """Of 8 x 8 grey images."""
    torch.manual_seed(0)
    return options(**changes).build(DataSpec((1, 8, 8)))


def batch(shape: tuple[int, int, int] = (1, 8, 8), number: int = 10) -> Batch:
    images = torch.rand(number, *shape, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(number))


# The energy score.


def exact_score(dimension: int, radius: float) -> float:
    """Of a point at ``radius`` = 0 for X ~ N(0, I), or, in one dimension, at any."""
    mean_norm = math.sqrt(2) * math.gamma((dimension + 1) / 2) / math.gamma(dimension / 2)
    to_point = mean_norm
    if radius:
        assert dimension == 1
        density = math.exp(-(radius**2) / 2) / math.sqrt(2 * math.pi)
        to_point = 2 * density + radius * math.erf(radius / math.sqrt(2))
    return to_point - math.sqrt(2) * mean_norm / 2  # X - X' ~ N(0, 2 I)


@pytest.mark.parametrize(("dimension", "number", "repeats"), [(1, 2, 6000), (1, 200, 300), (6, 3, 6000)])
def test_energy_score_is_unbiased_for_gaussians(dimension, number, repeats):
    generator = torch.Generator().manual_seed(0)
    radii = [0.0, 1.0, -2.5] if dimension == 1 else [0.0]
    points = torch.zeros(len(radii), dimension, dtype=torch.float64)
    points[:, 0] = torch.tensor(radii)
    scores = torch.stack(
        [
            energy_score(torch.randn(number, dimension, generator=generator, dtype=torch.float64), points)
            for _ in range(repeats)
        ]
    )
    exact = torch.tensor([exact_score(dimension, radius) for radius in radii], dtype=torch.float64)
    error = (scores.mean(0) - exact).abs()
    assert (error < 4 * scores.std(0) / math.sqrt(repeats)).all(), error
    assert (error < 0.05).all(), error


def test_energy_score_is_lowest_for_the_distribution_of_the_images():
    generator = torch.Generator().manual_seed(0)
    images, samples = torch.randn(2, 1500, 3, 2, 2, generator=generator)
    best = energy_score(samples, images).mean()
    for others in (
        samples + 0.5,
        samples * 0.6,
        samples * 1.6,
        samples.mean(0, keepdim=True).expand(9, 3, 2, 2),
    ):
        assert energy_score(others, images).mean() > best + 0.02


def test_energy_score_of_copies_of_an_image_is_the_distance():
    image = torch.rand(1, 1, 28, 28)
    score = energy_score(image.expand(5, 1, 28, 28), torch.cat([image, image + 0.01]))
    torch.testing.assert_close(score, torch.tensor([0.0, 0.28]), atol=1e-5, rtol=1e-5)


# The players.


class Quadratic(nn.Module):
    """``D(x) = w x + ||x||^2 / 2``, whose gradient is w + x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat @ self.weight + flat.square().sum(1) / 2


def test_penalty_is_the_squared_norm_of_the_gradient_and_differentiable():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).double()
    images = torch.randn(7, 3, 2, 2, dtype=torch.float64)
    weight = linear.get_parameter("1.weight")
    torch.testing.assert_close(squared_slopes(linear, images), weight.square().sum().expand(7))

    quadratic = Quadratic()
    penalty = squared_slopes(quadratic, images).mean()
    slopes = quadratic.weight + images.flatten(1)
    torch.testing.assert_close(penalty, slopes.square().sum(1).mean())
    (gradient,) = torch.autograd.grad(penalty, quadratic.weight)
    torch.testing.assert_close(gradient, 2 * slopes.mean(0))


def test_losses_are_those_of_the_definition():
    model, data = tiny(gamma=3.0), batch(number=8)
    torch.manual_seed(5)
    discriminator, generator = model.updates(data, 0)
    torch.manual_seed(5)
    made = model.generator(torch.randn(8, 2))
    real, fake = (torch.sigmoid(model.discriminator(images)).log() for images in (data.images, made))
    not_fake = torch.log1p(-fake.exp())
    penalty = squared_slopes(model.discriminator, data.images[:2]).mean()  # a quarter
    torch.testing.assert_close(discriminator.loss, -real.mean() - not_fake.mean() + 1.5 * penalty)
    torch.testing.assert_close(generator.loss, -fake.mean())
    assert list(discriminator.shown) == ["discriminator_loss", "penalty"]
    assert list(generator.shown) == ["generator_loss"]
    torch.testing.assert_close(discriminator.shown["discriminator_loss"], -real.mean() - not_fake.mean())
    spectral = next(tiny(regularization="spectral").updates(data, 0))
    assert list(spectral.shown) == ["discriminator_loss"]


def copied(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: copied(value) for name, value in values.items()}
    return values.clone() if isinstance(values, Tensor) else values


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("regularization", REGULARIZATIONS)
def test_each_player_moves_alone(regularization, optimizer):
    model = tiny(regularization=regularization)
    players = make_players(model, TrainingConfig(optimizer=optimizer, beta1=0.0))

    def states() -> dict[str, Any]:
        return {
            name: {
                "parameters": copied(dict(module.named_parameters())),
                "optimizer": copied(players[name].optimizer.state_dict()),
            }
            for name, module in model.players().items()
        }

    order = []
    for step in range(2):
        for update in updates(model, players, batch(), step, half=False):
            before = states()
            player = players[update.player]
            player.add(update)
            _, norm = player.total()
            player.step(1.0, norm, 200.0)
            after = states()
            (other,) = before.keys() - {update.player}
            assert_equal(before[other], after[other], other)
            moved = zip(
                *(each[update.player]["parameters"].values() for each in (before, after)), strict=True
            )
            assert all(not torch.equal(*pair) for pair in moved)
            assert all(parameter.grad is None for parameter in model.parameters())
            order.append(update.player)
    assert order == ["discriminator", "generator"] * 2


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_take_a_step(name):
    config, shape = PRESETS[name], SHAPES[name]
    assert config.model is not None
    model = build_model(config.model, DataSpec(shape))
    players = make_players(model, config.training)
    for update in updates(model, players, batch(shape, 4), 0, half=False):
        player = players[update.player]
        player.add(update)
        _, norm = player.total()
        player.step(1.0, norm, 200.0)
    model.eval()
    assert model.validate(batch(shape, 3))["energy_score"].shape == (3,)


def test_losses_in_bfloat16():
    losses = []
    for half in (False, True):
        torch.manual_seed(0)
        model = tiny()
        players = make_players(model, TrainingConfig())
        losses.append([update.loss.item() for update in updates(model, players, batch(), 0, half)])
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_compiled_discriminator_has_its_penalty():
    """It is differentiated twice, which graphs of torch.compile cannot be."""
    model = tiny()
    torch.manual_seed(0)
    whole = next(model.updates(batch(), 0)).loss
    model.discriminator.compile(backend="aot_eager")
    torch.manual_seed(0)
    compiled = next(model.updates(batch(), 0)).loss
    compiled.backward()
    torch.testing.assert_close(compiled, whole)


# Options.


def test_options_without_an_effect_are_refused():
    with pytest.raises(UserError, match=r"gamma has no effect with regularization spectral; .* choose r1"):
        options(regularization="spectral", gamma=2.0)
    with pytest.raises(UserError, match="gamma is -1"):
        options(gamma=-1.0)


def test_gamma_does_not_shape_the_model():
    assert shaping(options(gamma=2.0)) == shaping(options(gamma=3.0))
    assert shaping(options()) != shaping(options(regularization="spectral"))


# Runs.


def configuration(data: Path, regularization: str, **training: Any) -> Config:
    given: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": BATCH,
        "track": "none",
        "learning_rate": RATES[regularization],
    }
    given |= {"optimizer": "adamw", "beta1": 0.0, "weight_decay": 0.0, "learning_rate_warm_up": 5}
    return Config(
        DataConfig(str(data), "none"),
        options(regularization=regularization, **LEARNING[regularization]),
        TrainingConfig(**{**given, **training}),
    )


@pytest.fixture(scope="module")
def trained(halves, tmp_path_factory) -> dict[str, Path]:
    made = {}
    for regularization in REGULARIZATIONS:
        made[regularization] = tmp_path_factory.mktemp("runs") / regularization
        flowvae.train(made[regularization], configuration(halves, regularization))
    return made


@pytest.mark.parametrize("regularization", REGULARIZATIONS)
def test_both_modes_of_a_mixture_are_learned(regularization, trained):
    """Images with a bright left, or a bright right half."""
    model = flowvae.load(trained[regularization])
    assert isinstance(model, GAN)
    images = model.sample(400, torch.Generator().manual_seed(0))
    assert images.shape == (400, 1, 8, 8)
    assert (images >= 0).all()
    assert (images <= 1).all()
    halves = images.unflatten(3, (2, 4)).mean((1, 2, 4))  # [400, 2]
    bright, dark = halves > 0.7, halves < 0.3
    left, right = (bright & dark.flip(1)).float().mean(0).tolist()
    assert left > 0.2, (left, right)
    assert right > 0.2, (left, right)
    assert left + right > 0.7


@pytest.mark.parametrize("regularization", REGULARIZATIONS)
def test_a_crashed_run_resumes_bit_for_bit(regularization, halves, tmp_path, monkeypatch):
    run, config = tmp_path / "run", configuration(halves, regularization, steps=5 * PER_EPOCH)
    draw = loop.training_batch
    assert flowvae.train(tmp_path / "unbroken", config)

    def crash(dataset, batch_size, seed, step, *processes):
        if step == 3 * PER_EPOCH + 4:
            raise KeyboardInterrupt
        return draw(dataset, batch_size, seed, step, *processes)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "training_batch", crash)
        with pytest.raises(KeyboardInterrupt):
            flowvae.train(run, config)
    state = state_of(run)
    assert state["step"] == 3 * PER_EPOCH
    assert set(state["optimizers"]) == {"generator", "discriminator"}
    assert flowvae.train(run, config, resume=True)
    assert_ended_as(run, tmp_path / "unbroken")


def test_singular_values_of_the_averaged_discriminator_are_one(trained):
    """The vectors of the power iteration are averaged, too, and need no longer have the length one."""
    model = flowvae.load(trained["spectral"])
    assert isinstance(model, GAN)
    layers = [each for each in model.discriminator.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        assert abs(torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() - 1) < 0.05


def test_metrics_and_evaluation_hold_what_the_model_has(halves, trained):
    for regularization, run in trained.items():
        records = Run(run).records
        valid = [record for record in records if record["split"] == "valid"]
        train = next(record for record in records if record["split"] == "train")
        assert len(valid) == STEPS // PER_EPOCH
        assert {"energy_score", "split", "step", "epoch", "seconds"} == valid[0].keys()
        assert {"generator_loss", "discriminator_loss"} <= train.keys()
        assert ("penalty" in train) == (regularization == "r1")
    model, dataset = flowvae.load(trained["r1"]), flowvae.load_dataset(str(halves), "none")
    scores = flowvae.evaluate(model, dataset)
    assert scores["energy_score"] == pytest.approx(min(record["energy_score"] for record in valid), abs=0.5)
    assert scores["energy_score_standard_error"] > 0
    assert not {"nll", "bits_per_dim", "samples", "active_units", "kl"} & scores.keys()
    assert scores == flowvae.evaluate(model, dataset)


def test_samples_follow_their_noise_and_temperature(trained):
    model = flowvae.load(trained["r1"])
    assert isinstance(model, GAN)
    codes = torch.randn(5, 2)
    torch.testing.assert_close(model.sample(5, codes), model.generator(codes))
    torch.testing.assert_close(model.sample(5, codes, temperature=0.5), model.generator(codes / 2))
    drawn = [model.sample(3, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*drawn)
