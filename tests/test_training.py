"""Training from its start to its end."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from tiny_runs import (
    IMAGES,
    PER_EPOCH,
    STEPS,
    TINY,
    assert_equal,
    configuration,
    files,
    state_of,
)
from torch import Tensor, nn

import flowvae.training.loop as loop
from flowvae.batch import Batch, DataSpec
from flowvae.config import DataConfig
from flowvae.data import load_dataset, training_batch
from flowvae.densities import BernoulliLikelihood, LogDensities
from flowvae.errors import UserError
from flowvae.evaluation import bounds
from flowvae.models import VAE
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.registry import build_model
from flowvae.models.vae import VAEOptions, VectorOptions
from flowvae.parts import revised
from flowvae.runs import load, read_metrics
from flowvae.training import train
from flowvae.training.averaging import averaged
from flowvae.training.checkpoint import State
from flowvae.training.players import Player
from flowvae.training.records import EVERY, Records

# Unbroken.


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_does_not_depend_on_the_callers_mode(mode, halves, unbroken, tmp_path):
    with mode():
        assert train(tmp_path / "run", configuration(halves))
    assert_equal(load(tmp_path / "run").state_dict(), load(unbroken).state_dict())


@pytest.mark.parametrize("name", ["cuda:99", "meta", "nothing", ""])
def test_a_device_that_is_not_there_is_refused_before_anything_is_made(name, halves, tmp_path):
    with pytest.raises(UserError, match="is not available; choose auto or cpu"):
        train(tmp_path / "run", configuration(halves), device=name)
    assert not (tmp_path / "run").exists()


def test_a_run_is_a_folder(unbroken, halves):
    assert files(unbroken) == {"config.json", "metrics.jsonl", "model.safetensors", "resume/state.pt"}
    assert json.loads((unbroken / "config.json").read_text())["training"]["steps"] == STEPS
    assert state_of(unbroken)["step"] == STEPS


def test_training_lowers_the_loss(unbroken, halves):
    torch.manual_seed(0)
    dataset = load_dataset(str(halves), "dynamic")
    untrained = build_model(TINY, dataset.spec).eval()
    assert isinstance(untrained, VAE)
    valid = dataset.valid.images.float()
    start = bounds(untrained, valid, num_samples=1).negative_elbo.mean().item()
    end = [line["negative_elbo"] for line in read_metrics(unbroken) if line["split"] == "valid"]
    # A code of one bit brings 64 ln 2 = 44 nats down to 1 bit and the noise of the pixels.
    assert end[-1] < start - 15
    assert end[-1] < 27


def test_metrics_say_what_happened(unbroken):
    lines = read_metrics(unbroken)
    training = [line for line in lines if line["split"] == "train"]
    valid = [line for line in lines if line["split"] == "valid"]
    assert [line["step"] for line in training] == list(range(EVERY, STEPS + 1, EVERY))
    assert [line["step"] for line in valid] == list(range(PER_EPOCH, STEPS + 1, PER_EPOCH))
    for line in lines:
        assert line["negative_elbo"] == pytest.approx(line["reconstruction"] + line["kl"])
        assert line["epoch"] == line["step"] / PER_EPOCH
        assert math.isfinite(line["negative_elbo"])
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    rates = [line["learning_rate"] for line in training]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * (EVERY - 1) / STEPS)))


def test_the_saved_model_is_the_average_that_validates_best(halves, tmp_path, monkeypatch):
    """At the second of three validations, whose scores are of our choice."""
    run, averages = tmp_path / "run", []

    def scored(state: State, *_: Any) -> dict[str, float]:
        averages.append({name: value.clone() for name, value in state.average.module.state_dict().items()})
        return {"negative_elbo": [30.0, 20.0, 25.0][len(averages) - 1]}

    monkeypatch.setattr(loop, "_validate", scored)
    train(run, configuration(halves, steps=None, epochs=3, batch_size=IMAGES // 2))
    assert state_of(run)["best"] == 20.0
    assert_equal(dict(load(run).state_dict()), averages[1])
    with pytest.raises(AssertionError):
        assert_equal(averages[1], averages[2])


def test_validation_scores_the_average_with_the_same_noise_every_time(halves, monkeypatch):
    config = configuration(halves)
    dataset = load_dataset(str(halves), "dynamic")
    state = loop._start(config, dataset, torch.device("cpu"))
    with torch.no_grad():
        for parameter in state.average.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    before = torch.get_rng_state()
    one, same = (loop._validate(state, dataset, config.training, torch.device("cpu")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == same
    assert list(one) == ["negative_elbo", "kl", "reconstruction"], "what chooses the weights comes first"
    torch.manual_seed(0)
    average = cast(VAE, state.average.module)
    expected = bounds(average, dataset.valid.images.float(), num_samples=100).negative_elbo.mean()
    assert one["negative_elbo"] == pytest.approx(expected.item(), abs=2.0)
    fewer = dataclasses.replace(config.training, validation_images=7)
    seen: list[Batch] = []
    validate = VAE.validate
    monkeypatch.setattr(VAE, "validate", lambda self, batch: (seen.append(batch), validate(self, batch))[1])
    few = loop._validate(state, dataset, fewer, torch.device("cpu"))
    assert [len(batch.images) for batch in seen] == [7]
    of_another_seed = dataclasses.replace(fewer, seed=config.training.seed + 1)
    assert loop._validate(state, dataset, of_another_seed, torch.device("cpu")) == few
    assert few != one


def test_runs_of_one_seed_are_the_same_and_of_another_are_not(halves, tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        train(tmp_path / name, configuration(halves, steps=3, seed=seed))
    assert_equal(state_of(tmp_path / "one")["model"], state_of(tmp_path / "same")["model"])
    one, other = (state_of(tmp_path / name)["model"] for name in ("one", "other"))
    assert not torch.equal(one["encoder.last.weight"], other["encoder.last.weight"])


@pytest.mark.parametrize("binarization", ["static", "dynamic", "threshold"])
def test_pixels_start_at_the_mean_of_what_training_sees(binarization, halves):
    config = configuration(halves)
    dataset = load_dataset(str(halves), binarization)
    model = loop._start(config, dataset, torch.device("cpu")).model
    epochs = 20 if binarization == "dynamic" else 1
    seen = torch.cat([training_batch(dataset, IMAGES, 0, epoch).images for epoch in range(epochs)])
    expected = seen.mean(0).clamp(0.01, 0.99)
    assert isinstance(model, VAE)
    assert isinstance(model.likelihood, BernoulliLikelihood)
    torch.testing.assert_close(model.likelihood.offset.sigmoid(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 7}, 7), ({"epochs": 1}, PER_EPOCH), ({"steps": 30, "epochs": 1}, PER_EPOCH)],
)
def test_the_first_budget_that_is_used_up_ends_training(halves, tmp_path, budget, steps):
    train(tmp_path / "run", configuration(halves, **{"steps": None, **budget}))
    assert state_of(tmp_path / "run")["step"] == steps
    assert load(tmp_path / "run")  # validated at the end, wherever that is


def test_a_budget_in_minutes_ends_training(halves, tmp_path):
    assert train(tmp_path / "run", configuration(halves, steps=None, minutes=0.01))
    state = state_of(tmp_path / "run")
    assert state["step"] > 0
    assert state["seconds"] >= 0.3, "half of the budget is for steps, however long a validation takes"


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "importance-weighted", "samples": 3},
        {"free_bits": 2.0},
        {"kl_warm_up": 2},
        {"samples": 2, "weight_decay": 0.1, "gradient_clipping": 0.5},
    ],
)
def test_every_objective_trains(halves, tmp_path, options):
    train(tmp_path / "run", configuration(halves, steps=3, **options))
    assert state_of(tmp_path / "run")["step"] == 3


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, True),
        ({"path_derivative": False}, False),
        ({"objective": "importance-weighted", "samples": 3}, True),
        ({"objective": "importance-weighted", "samples": 3, "path_derivative": False}, False),
    ],
)
def test_the_path_derivative_is_an_option_of_the_objective(halves, options, taken):
    without_batch_norm = VAEOptions(
        code=VectorOptions(features=16), networks=ConvolutionalOptions(channels=8), latent=3
    )
    config = dataclasses.replace(configuration(halves), model=revised(without_batch_norm, options))
    model = loop._start(config, load_dataset(config.data.data), torch.device("cpu")).model
    assert isinstance(model, VAE)
    assert model.posterior.path_derivative == taken


def test_objective_is_the_one_that_the_options_name(monkeypatch):
    torch.manual_seed(0)
    densities = LogDensities(*torch.randn(3, 4, 5))
    likelihood, prior, posterior = densities
    divergence = posterior - prior
    weights = likelihood - divergence
    asked: list[int] = []
    monkeypatch.setattr(
        VAE, "forward", lambda self, images, samples, beta: (asked.append(samples), densities)[1]
    )
    spec, batch = DataSpec((1, 8, 8)), Batch(torch.zeros(5, 1, 8, 8), torch.arange(5))

    def objective(step: int, **options: Any) -> Tensor:
        model = build_model(revised(TINY, options), spec)
        (update,) = model.updates(batch, step)
        assert update.player == "model"
        assert list(update.shown) == ["negative_elbo", "kl", "reconstruction"]
        torch.testing.assert_close(update.shown["negative_elbo"], -weights.mean())
        torch.testing.assert_close(update.shown["kl"], divergence.mean())
        return -update.loss

    torch.testing.assert_close(objective(0), weights.mean())
    torch.testing.assert_close(objective(5, kl_warm_up=10), (likelihood - 0.5 * divergence).mean())
    torch.testing.assert_close(objective(0, free_bits=50.0), likelihood.mean() - 50.0)
    assert asked == [1, 1, 1]
    weighted = {"objective": "importance-weighted", "samples": 4}
    torch.testing.assert_close(objective(0, **weighted), (weights.exp().mean(0).log()).mean())
    half = (likelihood - 0.5 * divergence).exp().mean(0).log()
    torch.testing.assert_close(objective(5, kl_warm_up=10, **weighted), half.mean())
    assert asked[3:] == [4, 4]


def test_tensorboard_gets_the_metrics_too(halves, tmp_path):
    train(tmp_path / "run", configuration(halves, steps=2, track="tensorboard"))
    assert any("tfevents" in name for name in files(tmp_path / "run"))


# What goes wrong.


def test_a_run_that_exists_is_left_alone(halves, tmp_path):
    run, config = tmp_path / "run", configuration(halves, steps=3)
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"run already exists; .*--resume"):
        train(run, config)
    assert files(run) == {"notes.txt"}


def test_data_that_cannot_be_read_leaves_no_folder(halves, tmp_path):
    with pytest.raises(UserError):
        train(tmp_path / "run", configuration(tmp_path / "missing.npz"))
    assert not (tmp_path / "run").exists()


def test_grey_images_have_no_bernoulli_likelihood(halves, tmp_path):
    config = dataclasses.replace(configuration(halves), data=DataConfig(str(halves), "none"))
    with pytest.raises(UserError, match="binar"):
        train(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [1, 2, PER_EPOCH])
def test_an_absurd_learning_rate_is_an_error_wherever_it_shows(steps, halves, tmp_path):
    """Also where the last step of a run spoils the weights and only validation sees it."""
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"finite.*--learning-rate"):
        train(run, configuration(halves, steps=steps, learning_rate=1e18))
    assert not (run / "model.safetensors").exists()
    assert not (run / "resume" / "state.pt").exists()
    assert not run.exists(), "a folder in which nothing was saved is in the way of the next attempt"


# Parts.


def test_average_of_weights_follows_its_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = averaged(model, decay=0.7)

    def values(module: nn.Module) -> list[Tensor]:
        return [value.detach() for value in module.state_dict().values() if value.is_floating_point()]

    expected = [value.clone() for value in values(model)]
    assert len(expected) == 6, "running statistics are averaged as well"
    for n in range(25):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
            model(torch.randn(5, 2))
        average.update_parameters(model)
        decay = min(0.7, (1 + n) / (10 + n)) if n else 0.0  # the first update takes the weights as they are
        for value, now in zip(expected, values(model), strict=True):
            value.mul_(decay).add_((1 - decay) * now)
        for value, ours in zip(expected, values(average.module), strict=True):
            torch.testing.assert_close(ours, value)
    assert average.module.get_buffer("1.num_batches_tracked") == 25


def test_images_per_second_leave_validation_out(tmp_path):
    """Steps of 0.1 s, and a validation of 100 s between them."""
    player = Player([], torch.optim.SGD([torch.zeros(1)], 0.1), [0.1])
    state = State(nn.Linear(1, 1), None, {"model": player})  # type: ignore[arg-type]

    class Nothing:
        device, is_main_process = "cpu", True

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *arguments, **options: None

    with (tmp_path / "metrics.jsonl").open("ab") as file:
        records = Records(file, Nothing(), Nothing(), state, 20)  # type: ignore[arg-type]
        for step in range(1, 2 * EVERY + 1):
            state.step, state.seconds = step, state.seconds + 0.1
            records.training({"loss": torch.tensor(float(step))}, 0.0, 8)
            if step == EVERY + 5:
                state.seconds += 100
                records.validation({"loss": 1.0}, 0.5)
    training = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert [line["images_per_second"] for line in training] == pytest.approx([80.0, 80.0])
    means = [(EVERY + 1) / 2, EVERY + (EVERY + 1) / 2]
    assert [line["loss"] for line in training] == pytest.approx(means), "of the steps since the last line"


def test_a_clock_that_stands_still_gives_no_rate(halves, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.time, "monotonic", lambda: 1.0)
    train(tmp_path / "run", configuration(halves, steps=EVERY))
    line = read_metrics(tmp_path / "run")[-2]
    assert line["split"] == "train"
    assert "images_per_second" not in line
    assert state_of(tmp_path / "run")["seconds"] == 0


def test_the_display_shows_the_first_step_and_few_validations(tmp_path):
    player = Player([], torch.optim.SGD([torch.zeros(1)], 0.1), [0.1])
    state = State(nn.Linear(1, 1), None, {"model": player})  # type: ignore[arg-type]
    shown: list[float] = []
    listed: list[int] = []

    class Shown:
        device, is_main_process = "cpu", False

        def update(self, fraction: float, *_: Any) -> None:
            shown.append(fraction)

        def validation(self, step: int, *_: Any) -> None:
            listed.append(step)

        def log(self, *_: Any, **__: Any) -> None: ...

    with (tmp_path / "metrics.jsonl").open("ab") as file:
        records = Records(file, Shown(), Shown(), state, 20)  # type: ignore[arg-type]
        state.step, state.seconds = 1, 0.1
        records.training({"loss": torch.tensor(1.0)}, 0.01, 8)
        for state.step, fraction in ((1, 0.01), (2, 0.02), (3, 1.0)):
            records.validation({"loss": 1.0}, fraction)
    assert shown == [0.01]
    assert listed == [1, 3]


def test_a_budget_in_minutes_holds_the_last_validation(halves, tmp_path, monkeypatch):
    """By a clock that a step moves by 0.01 s, and a validation by 1 s."""
    clock, validate, moved = [0.0], loop._validate, VAE.after_step

    def slow(*arguments: Any) -> dict[str, float]:
        clock[0] += 1.0
        return validate(*arguments)

    def step(self: VAE) -> None:
        clock[0] += 0.01
        moved(self)

    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(loop, "_validate", slow)
    monkeypatch.setattr(VAE, "after_step", step)
    train(tmp_path / "run", configuration(halves, steps=None, minutes=5 / 60, validation_images=100))
    last_step, last_validation = read_metrics(tmp_path / "run")[-2:]
    assert (last_step["split"], last_validation["split"]) == ("train", "valid")
    assert 5.0 <= last_validation["seconds"] < 5.1
