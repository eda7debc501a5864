"""Runs that are trained, stopped in every way there is, and resumed."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flowvae.training.loop as loop
from flowvae.build import build_model
from flowvae.config import Config, DataConfig, ModelConfig, TrainingConfig, to_dict
from flowvae.data import load_dataset, training_batch
from flowvae.densities import BernoulliLikelihood, LogDensities
from flowvae.errors import UserError
from flowvae.evaluation import Bounds, bounds
from flowvae.models import VAE
from flowvae.runs import load, read_metrics
from flowvae.training import train
from flowvae.training.averaging import averaged
from flowvae.training.checkpoint import State
from flowvae.training.records import EVERY, Records

IMAGES, BATCH, STEPS = 160, 8, 100
PER_EPOCH = IMAGES // BATCH


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Grey images of bright left or bright right halves, so that there is something to learn."""
    random = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        pixels = random.integers(0, 40, (count, 8, 8))
        for image, right in zip(pixels, random.integers(0, 2, count), strict=True):
            image[:, 4 * right : 4 * right + 4] += 200
        return pixels.astype(np.uint8)

    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, train=draw(IMAGES), valid=draw(40), test=draw(40))
    return path


def configuration(images: Path, **training: Any) -> Config:
    """Small, with buffers in the model and noise in the batches, so that there is much to get wrong."""
    model = ModelConfig(
        posterior="realnvp",
        transformations=1,
        latent=3,
        features=16,
        hidden=8,
        channels=8,
        normalization="batch",
        flow_batch_norm=True,
    )
    given: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "learning_rate": 0.01, "track": "none"}
    given |= {"learning_rate_warm_up": 5, "kl_warm_up": 0}
    return Config(DataConfig(str(images), "dynamic"), model, TrainingConfig(**{**given, **training}))


@pytest.fixture(scope="session")
def unbroken(images, tmp_path_factory) -> Path:
    """The run that every broken one has to end as."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    train(run, configuration(images))
    return run


def state_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "resume" / "state.pt", weights_only=True)


def assert_equal(one: Any, other: Any, where: str = "state") -> None:
    """Nested values are equal, tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_ended_as(run: Path, unbroken: Path) -> None:
    ours, theirs = state_of(run), state_of(unbroken)
    for name in ("step", "model", "average", "optimizer", "best"):
        assert_equal(ours[name], theirs[name], name)
    assert (run / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    ours, theirs = read_metrics(run), read_metrics(unbroken)
    assert [(line["split"], line["step"]) for line in ours] == [
        (line["split"], line["step"]) for line in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        if mine["split"] == "valid":
            assert_equal({**mine, "seconds": 0}, {**other, "seconds": 0})


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


# Unbroken.


def test_a_run_is_a_folder(unbroken, images):
    assert files(unbroken) == {"config.json", "metrics.jsonl", "model.safetensors", "resume/state.pt"}
    assert json.loads((unbroken / "config.json").read_text())["training"]["steps"] == STEPS
    assert state_of(unbroken)["step"] == STEPS


def test_training_lowers_the_loss(unbroken, images):
    torch.manual_seed(0)
    dataset = load_dataset(str(images), "dynamic")
    untrained = build_model(configuration(images).model, dataset.shape).eval()
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


def test_the_saved_model_is_the_average_that_validates_best(images, tmp_path, monkeypatch):
    """At the second of three validations, whose scores are of our choice."""
    run, averages = tmp_path / "run", []

    def scored(state: State, *_: Any) -> Bounds:
        averages.append({name: value.clone() for name, value in state.average.module.state_dict().items()})
        return Bounds(torch.tensor([[30.0, 20.0, 25.0][len(averages) - 1]]), torch.zeros(1), torch.zeros(1))

    monkeypatch.setattr(loop, "_validate", scored)
    train(run, configuration(images, steps=None, epochs=3, batch_size=IMAGES // 2))
    assert state_of(run)["best"] == 20.0
    assert_equal(dict(load(run).state_dict()), averages[1])
    with pytest.raises(AssertionError):
        assert_equal(averages[1], averages[2])


def test_validation_scores_the_average_with_the_same_noise_every_time(images):
    config = configuration(images)
    dataset = load_dataset(str(images), "dynamic")
    state = loop._start(config, dataset, torch.device("cpu"))
    with torch.no_grad():
        for parameter in state.average.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    before = torch.get_rng_state()
    one, same = (loop._validate(state, dataset, config.training, torch.device("cpu")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.negative_elbo, same.negative_elbo)
    torch.manual_seed(0)
    average = cast(VAE, state.average.module)
    expected = bounds(average, dataset.valid.images.float(), num_samples=100).negative_elbo.mean()
    torch.testing.assert_close(one.negative_elbo.mean(), expected, atol=2.0, rtol=0, check_dtype=False)
    fewer = dataclasses.replace(config.training, validation_images=7)
    assert len(loop._validate(state, dataset, fewer, torch.device("cpu")).kl) == 7


def test_runs_of_one_seed_are_the_same_and_of_another_are_not(images, tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        train(tmp_path / name, configuration(images, steps=3, seed=seed))
    assert_equal(state_of(tmp_path / "one")["model"], state_of(tmp_path / "same")["model"])
    one, other = (state_of(tmp_path / name)["model"] for name in ("one", "other"))
    assert not torch.equal(one["encoder.first.weight"], other["encoder.first.weight"])


@pytest.mark.parametrize("binarization", ["static", "dynamic", "threshold"])
def test_pixels_start_at_the_mean_of_what_training_sees(binarization, images):
    config = configuration(images)
    dataset = load_dataset(str(images), binarization)
    model = loop._start(config, dataset, torch.device("cpu")).model
    epochs = 20 if binarization == "dynamic" else 1
    seen = torch.cat([training_batch(dataset, IMAGES, 0, epoch) for epoch in range(epochs)])
    expected = seen.mean(0).clamp(0.01, 0.99)
    assert isinstance(model.likelihood, BernoulliLikelihood)
    torch.testing.assert_close(model.likelihood.offset.sigmoid(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 7}, 7), ({"epochs": 1}, PER_EPOCH), ({"steps": 30, "epochs": 1}, PER_EPOCH)],
)
def test_the_first_budget_that_is_used_up_ends_training(images, tmp_path, budget, steps):
    train(tmp_path / "run", configuration(images, **{"steps": None, **budget}))
    assert state_of(tmp_path / "run")["step"] == steps
    assert load(tmp_path / "run")  # validated at the end, wherever that is


def test_a_budget_in_minutes_ends_training(images, tmp_path):
    train(tmp_path / "run", configuration(images, steps=None, minutes=0.01))
    state = state_of(tmp_path / "run")
    assert state["step"] > 0
    assert 0.6 <= state["seconds"] < 30


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "importance-weighted", "samples": 3},
        {"free_bits": 2.0},
        {"kl_warm_up": 2},
        {"samples": 2, "weight_decay": 0.1, "gradient_clipping": 0.5},
    ],
)
def test_every_objective_trains(images, tmp_path, options):
    train(tmp_path / "run", configuration(images, steps=3, **options))
    assert state_of(tmp_path / "run")["step"] == 3


def test_objective_is_the_one_that_the_settings_name():
    torch.manual_seed(0)
    densities = LogDensities(*torch.randn(3, 4, 5))
    likelihood, prior, posterior = densities
    divergence = posterior - prior
    weights = likelihood - divergence
    values = {
        "elbo": loop._objective(TrainingConfig(kl_warm_up=0), densities, 0),
        "half": loop._objective(TrainingConfig(kl_warm_up=10), densities, 5),
        "bits": loop._objective(TrainingConfig(kl_warm_up=0, free_bits=50.0), densities, 0),
        "weighted": loop._objective(TrainingConfig(objective="importance-weighted", samples=4), densities, 0),
    }
    torch.testing.assert_close(values["elbo"], weights.mean())
    torch.testing.assert_close(values["half"], (likelihood - 0.5 * divergence).mean())
    torch.testing.assert_close(values["bits"], likelihood.mean() - 50.0)
    torch.testing.assert_close(values["weighted"], (weights.exp().mean(0).log()).mean())


def test_tensorboard_gets_the_metrics_too(images, tmp_path):
    train(tmp_path / "run", configuration(images, steps=2, track="tensorboard"))
    assert any("tfevents" in name for name in files(tmp_path / "run"))


# Broken, and resumed.

DRIVER = """
import sys
from pathlib import Path
import flowvae.runs, flowvae.training, json
from flowvae.config import Config, from_dict
flowvae.training.train(Path(sys.argv[1]), from_dict(Config, json.loads(sys.argv[2])))
"""


def start(run: Path, config: Config) -> subprocess.Popen:
    """Train in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(run), json.dumps(to_dict(config))],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(120_000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.002)
    raise AssertionError(f"{path} did not appear")


def test_a_killed_run_ends_as_an_unbroken_one(images, unbroken, tmp_path):
    run, config = tmp_path / "run", configuration(images)
    process = start(run, config)
    wait_for(run / "resume" / "state.pt", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert 0 < state_of(run)["step"] < STEPS
    train(run, config, resume=True)
    assert_ended_as(run, unbroken)


class Crash(BaseException):
    """As sudden as SIGKILL, at a place of our choice."""


def once(condition: Callable[..., bool], action: Callable[[], None], function: Callable[..., Any]) -> Any:
    """``function`` that acts before its first call for which ``condition`` of its arguments holds."""
    done = False

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        if not done and condition(*arguments):
            done = True
            action()
        return function(*arguments, **options)

    return wrapped


def crash() -> None:
    raise Crash


@pytest.mark.parametrize("place", ["in-a-step", "before-the-weights", "before-the-state", "inside-the-state"])
def test_a_run_that_crashed_anywhere_ends_as_an_unbroken_one(place, images, unbroken, tmp_path, monkeypatch):
    """At step 60 or after it, in the third epoch, whose state is or is not written yet."""
    run, config = tmp_path / "run", configuration(images)
    with monkeypatch.context() as patch:
        if place == "in-a-step":
            wrapped = once(lambda *given: given[3] == 3 * PER_EPOCH + 3, crash, loop.training_batch)
            patch.setattr(loop, "training_batch", wrapped)
        elif place == "before-the-weights":
            wrapped = once(lambda state, *_: state.step == 3 * PER_EPOCH, crash, loop._validate)
            patch.setattr(loop, "_validate", wrapped)
        elif place == "before-the-state":
            wrapped = once(lambda state, *_: state.step == 3 * PER_EPOCH, crash, State.save)
            patch.setattr(State, "save", wrapped)
        else:
            wrapped = once(lambda values, _: values["step"] == 3 * PER_EPOCH, crash, torch.save)
            patch.setattr(torch, "save", wrapped)
        with pytest.raises(Crash):
            train(run, config)
    assert state_of(run)["step"] == (3 if place == "in-a-step" else 2) * PER_EPOCH
    train(run, config, resume=True)
    assert_ended_as(run, unbroken)


def test_a_run_may_be_broken_again_and_again(images, unbroken, tmp_path, monkeypatch):
    run, config = tmp_path / "run", configuration(images)
    for attempt, step in enumerate((31, 57, 93)):
        with monkeypatch.context() as patch:
            wrapped = once(lambda *given, step=step: given[3] == step, crash, loop.training_batch)
            patch.setattr(loop, "training_batch", wrapped)
            with pytest.raises(Crash):
                train(run, config, resume=attempt > 0)
    train(run, config, resume=True)
    assert_ended_as(run, unbroken)


def ctrl_c(times: int) -> Callable[[], None]:
    def press() -> None:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)

    return press


@pytest.fixture
def terminal() -> Iterator[None]:
    """Ctrl-C as in a terminal; what runs in a shell's background is born with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_first(terminal, images, unbroken, tmp_path, monkeypatch, capsys):
    """Also before the first validation, and the step that it met is finished."""
    run, config = tmp_path / "run", configuration(images)
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_batch", once(lambda *given: given[3] == 7, ctrl_c(1), training_batch))
        assert train(run, config) is False
    assert signal.getsignal(signal.SIGINT) is before
    assert state_of(run)["step"] == 8
    assert f"--resume {run}" in capsys.readouterr().err.replace("\n", "")
    assert load(run), "something to look at"
    assert train(run, config, resume=True) is True
    assert_ended_as(run, unbroken)


def test_a_second_ctrl_c_interrupts_at_once(terminal, images, tmp_path, monkeypatch):
    run, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    patch = once(lambda *given: given[3] == PER_EPOCH + 3, ctrl_c(2), training_batch)
    monkeypatch.setattr(loop, "training_batch", patch)
    with pytest.raises(KeyboardInterrupt):
        train(run, configuration(images))
    assert signal.getsignal(signal.SIGINT) is before
    assert state_of(run)["step"] == PER_EPOCH


def test_resuming_a_finished_run_changes_nothing(images, tmp_path):
    run, config = tmp_path / "run", configuration(images, steps=3)
    train(run, config)
    before = {name: (run / name).read_bytes() for name in files(run)}
    train(run, config, resume=True)
    assert {name: (run / name).read_bytes() for name in files(run)} == before


def test_a_finished_run_goes_on_with_a_larger_budget(images, tmp_path):
    run, config = tmp_path / "run", configuration(images, steps=3)
    train(run, config)
    longer = dataclasses.replace(config, training=config.training.with_budget(steps=5))
    train(run, longer, resume=True)
    assert state_of(run)["step"] == 5
    assert json.loads((run / "config.json").read_text())["training"]["steps"] == 5


# What goes wrong.


def test_a_run_that_exists_is_left_alone(images, tmp_path):
    run, config = tmp_path / "run", configuration(images, steps=3)
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"run exists already; .*--resume"):
        train(run, config)
    assert files(run) == {"notes.txt"}


def test_data_that_cannot_be_read_leaves_no_folder(images, tmp_path):
    with pytest.raises(UserError):
        train(tmp_path / "run", configuration(tmp_path / "missing.npz"))
    assert not (tmp_path / "run").exists()


def test_resuming_what_is_no_run_makes_no_folder(images, tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        train(tmp_path / "run", configuration(images), resume=True)
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_model_changes_nothing(images, tmp_path):
    run, config = tmp_path / "run", configuration(images, steps=3)
    train(run, config)
    before = {name: (run / name).read_bytes() for name in files(run)}
    for other in (
        dataclasses.replace(config, model=dataclasses.replace(config.model, latent=4)),
        dataclasses.replace(config, training=dataclasses.replace(config.training, seed=1)),
    ):
        with pytest.raises(UserError):
            train(run, other, resume=True)
        assert {name: (run / name).read_bytes() for name in files(run)} == before


def test_grey_images_have_no_bernoulli_likelihood(images, tmp_path):
    config = dataclasses.replace(configuration(images), data=DataConfig(str(images), "none"))
    with pytest.raises(UserError, match="binar"):
        train(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [PER_EPOCH + 3, 2 * PER_EPOCH])
def test_a_loss_that_is_not_finite_keeps_the_last_good_state(step, images, unbroken, tmp_path, monkeypatch):
    run, config = tmp_path / "run", configuration(images)

    def poisoned(*arguments: Any) -> Tensor:
        batch = training_batch(*arguments)
        return batch * math.nan if arguments[3] == step else batch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_batch", poisoned)
        with pytest.raises(UserError, match=f"stopped being finite at step {step}"):
            train(run, config)
    assert state_of(run)["step"] == step // PER_EPOCH * PER_EPOCH
    assert all(value.isfinite().all() for value in load(run).state_dict().values())
    train(run, config, resume=True)
    assert_ended_as(run, unbroken)


@pytest.mark.parametrize("steps", [1, 2, PER_EPOCH])
def test_an_absurd_learning_rate_is_an_error_wherever_it_shows(steps, images, tmp_path):
    """Also where the last step of a run spoils the weights and only validation sees it."""
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"finite.*--learning-rate"):
        train(run, configuration(images, steps=steps, learning_rate=1e30))
    assert not (run / "model.safetensors").exists()
    assert not (run / "resume" / "state.pt").exists()


# Parts.


def test_average_of_weights_follows_its_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = averaged(model, decay=0.7)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    for n in range(25):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
            model(torch.randn(5, 2))
        average.update_parameters(model)
        decay = min(0.7, (1 + n) / (10 + n)) if n else 0.0  # the first update takes the weights as they are
        for value, parameter in zip(expected, model.parameters(), strict=True):
            value.mul_(decay).add_((1 - decay) * parameter.detach())
        for value, ours in zip(expected, average.module.parameters(), strict=True):
            torch.testing.assert_close(ours.detach(), value)
    for ours, buffer in zip(average.module.buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, buffer)


def test_images_per_second_leave_validation_out(tmp_path):
    """Steps of 0.1 s, and a validation of 100 s between them."""
    state = State(nn.Linear(1, 1), None, torch.optim.SGD([torch.zeros(1)], 0.1))  # type: ignore[arg-type]

    class Nothing:
        device, is_main_process = "cpu", True

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *arguments, **options: None

    densities = LogDensities(*torch.zeros(3, 1, 8))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        records = Records(file, Nothing(), Nothing(), state, 20)  # type: ignore[arg-type]
        for step in range(1, 2 * EVERY + 1):
            state.step, state.seconds = step, state.seconds + 0.1
            records.training(densities, 0.0, 8)
            if step == EVERY + 5:
                state.seconds += 100
                records.validation(bounds_of_zeros())
    rates = [line["images_per_second"] for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert rates == pytest.approx([80.0, 80.0])


def bounds_of_zeros() -> Bounds:
    return Bounds(*torch.zeros(3, 4))


@pytest.mark.slow
def test_two_processes_train_one_run(images, unbroken, tmp_path):
    """The same batches, divided; noise differs, so what can be compared is where it ends."""
    run, config = tmp_path / "run", configuration(images)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, str(driver), str(run), json.dumps(to_dict(config))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert files(run) == files(unbroken)
    ours, theirs = read_metrics(run), read_metrics(unbroken)
    assert [(line["split"], line["step"]) for line in ours] == [
        (line["split"], line["step"]) for line in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["negative_elbo"] == pytest.approx(other["negative_elbo"], abs=3.0)
