"""Models of few images: dropout that rises as validation turns, and the end of training before its budget."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_resuming import Crash, crash, once
from tiny_runs import BATCH, TINY, assert_ended_as, configuration, state_of

import flowvae.training.loop as loop
from flowvae.batch import DataSpec
from flowvae.config import Config
from flowvae.data import load_configured
from flowvae.errors import UserError
from flowvae.evaluation import score
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.registry import build_model, preset
from flowvae.networks.dropout import LEVELS, Dropout, raise_dropout
from flowvae.runs import load, read_metrics
from flowvae.shares import Share, sharing
from flowvae.training import Callback, TrainingProgress, overfitting, train
from flowvae.training.averaging import averaged
from flowvae.training.checkpoint import State
from flowvae.training.overfitting import overfits, regularize
from flowvae.training.schedule import DROPOUT

PER_EPOCH = 2


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Images of which nothing can be learned but their density; 16 to train on."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    random = np.random.default_rng(0)
    counts = {"train": BATCH * PER_EPOCH, "valid": 20, "test": 10}
    splits: dict[str, Any] = {
        name: random.integers(0, 2, (count, 8, 8), np.uint8) for name, count in counts.items()
    }
    np.savez(path, **splits)
    return path


def few(noise: Path, **options: Any) -> Config:
    config = configuration(noise, learning_rate=0.1, averaging=0.9, steps=3000, patience=0.3, **options)
    return config.revised(binarization="static")


@pytest.fixture
def soon(monkeypatch):
    """Waits of few steps."""
    monkeypatch.setattr(overfitting, "STEPS", 10)


def fresh() -> State:
    model = build_model(TINY, DataSpec((1, 8, 8), 2, 16))
    return State(model, averaged(model, 0.9), {})


def dropouts(state: State) -> set[float]:
    return {part.probability for part in state.model.modules() if isinstance(part, Dropout)}


def test_training_waits_in_proportion_to_what_it_took():
    state = fresh()
    state.level_best, state.level_best_step = 80.0, 4000
    state.step = 5999
    assert not overfits(state, 0.5, 100)
    state.step = 6000
    assert overfits(state, 0.5, 100)
    assert not overfits(state, 0.6, 100)
    assert not overfits(state, 0.5, 700), "three validations"
    assert not overfits(state, 0.0, 1), "never"
    state.level_best_step, state.step = 100, 599
    assert not overfits(state, 0.5, 1), "at least 500 steps"


def test_dropout_rises_while_it_helps():
    state = fresh()
    assert dropouts(state) == {0.0}
    for level, probability in enumerate(DROPOUT[1:], 1):
        state.best = state.level_best = 100.0 - level
        state.step += 2000
        assert regularize(state).endswith(f"dropout is now {probability}")
        assert (state.level, dropouts(state), state.ended) == (level, {probability}, False)
        assert not overfits(state, 0.1, 1), "a new level has its own time"
    state.best = state.level_best = 90.0
    assert regularize(state).endswith("training ends")
    assert state.ended


def test_training_ends_after_a_level_that_did_not_help():
    state = fresh()
    state.best, state.level_best, state.level, state.level_best_step = 90.0, 90.1, 1, 1500
    assert "no better validation since step 1,500; training ends" in regularize(state)
    assert (state.level, state.ended) == (1, True)


@pytest.mark.parametrize(("own", "said"), [(0.1, "is now 0.2"), (0.2, "is now 0.4"), (0.6, "training ends")])
def test_levels_that_change_nothing_are_left_out(own, said):
    options = PixelCNNOptions(causal_channels=4, causal_blocks=1, causal_dropout=own)
    model = build_model(options, DataSpec((1, 8, 8), 2, 16))
    state = State(model, averaged(model, 0.9), {}, step=2000, best=90.0, level_best=90.0)
    assert regularize(state).endswith(said)


def test_a_model_without_dropout_ends_at_once():
    options = preset("realnvp-density-mnist").model
    assert options is not None
    model = build_model(options, DataSpec((1, 8, 8), 256, 16))
    state = State(model, averaged(model, 0.9), {}, step=2000, best=90.0, level_best=90.0)
    assert regularize(state).endswith("training ends")


def test_few_images_end_before_the_budget_with_the_best_weights(noise, soon, tmp_path, capsys):
    config, weights = few(noise, seed=3), tmp_path / "run" / "model.safetensors"
    saved: dict[float, bytes] = {}

    class Reading(Callback):
        def on_validation(self, progress: TrainingProgress) -> None:
            saved[progress.numbers["negative_elbo"]] = weights.read_bytes()

    assert train(tmp_path / "run", config, callbacks=[Reading()])
    state = state_of(tmp_path / "run")
    assert state["ended"]
    assert state["step"] < 2000
    assert "dropout is now 0.2" in capsys.readouterr().err
    validations = [line for line in read_metrics(tmp_path / "run") if line["split"] == "valid"]
    best = min(validations, key=lambda line: line["negative_elbo"])
    assert state["best"] == best["negative_elbo"]
    assert best["step"] < state["step"]
    assert weights.read_bytes() == saved[best["negative_elbo"]]
    first = validations[0]["negative_elbo"]
    assert best["negative_elbo"] < first
    assert weights.read_bytes() != saved[first]
    images = load_configured(config.data).valid.images.float()
    found = score(load(tmp_path / "run"), images, 200, torch.Generator().manual_seed(0))["negative_elbo"]
    assert float(found.mean()) == pytest.approx(best["negative_elbo"], abs=1)

    # More budget is no use, and changes nothing.
    assert train(tmp_path / "run", config.revised(steps=9000), resume=True)
    assert state_of(tmp_path / "run")["step"] == state["step"]
    assert "training ended at step" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_crashed_at_any_level_ends_as_an_unbroken_one(noise, soon, tmp_path, monkeypatch):
    config = few(noise)
    train(tmp_path / "unbroken", config)
    steps = state_of(tmp_path / "unbroken")["step"]
    for attempt, step in enumerate((steps // 3, steps // 2, steps - 1)):
        with monkeypatch.context() as patch:
            wrapped = once(lambda *given, step=step: given[3] == step, crash, loop.training_batch)
            patch.setattr(loop, "training_batch", wrapped)
            with pytest.raises(Crash):
                train(tmp_path / "run", config, resume=attempt > 0)
    train(tmp_path / "run", config, resume=True)
    assert_ended_as(tmp_path / "run", tmp_path / "unbroken")


def test_patience_is_for_models_with_one_loss(noise, tmp_path):
    config = preset("gan-mnist").revised(data=str(noise), binarization="static", patience=0.7, steps=1)
    with pytest.raises(UserError, match="patience has no effect on this model"):
        train(tmp_path / "run", config)


def test_dropout_is_raised_and_not_lowered():
    parts = torch.nn.Sequential(Dropout(), Dropout(0.3))
    raise_dropout(parts, 0.2)
    assert [part.probability for part in parts if isinstance(part, Dropout)] == [0.2, 0.3]
    raise_dropout(parts, 0.0)
    assert [part.probability for part in parts if isinstance(part, Dropout)] == [0.0, 0.3]


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
    ones, part = torch.ones(50, 2000), Dropout(0.4)
    dropped = part(ones)
    assert dropped.unique().tolist() == pytest.approx([0, LEVELS / (LEVELS - round(0.4 * LEVELS))])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.4, abs=0.01)
    assert part.eval()(ones) is ones


@pytest.mark.parametrize("probability", [0.0001, 0.25, 0.9])
def test_entries_are_dropped_independently(probability):
    number = 400_003  # not a multiple of those that share random bits
    dropped = (Dropout(probability)(torch.ones(number)) == 0).double()
    variance = probability * (1 - probability)
    assert float(dropped.mean()) == pytest.approx(probability, abs=5 * (variance / number) ** 0.5)
    for lag in range(1, 6):
        both = ((dropped[lag:] - probability) * (dropped[:-lag] - probability)).mean()
        assert abs(float(both)) < 5 * variance / number**0.5


@pytest.mark.slow
def test_dropout_is_compiled_as_a_whole():
    part = torch.compile(Dropout(0.4), fullgraph=True, backend="aot_eager")
    dropped = part(torch.ones(50, 2000))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.4, abs=0.01)
    assert not torch.equal(part(torch.ones(50, 2000)), dropped)


def test_two_processes_drop_what_one_does():
    part, values = Dropout(0.5), torch.ones(6, 3, 4, 4)
    torch.manual_seed(1)
    with sharing(Share(0, 1, 6)):
        whole = part(values)
    for rank in range(2):
        torch.manual_seed(1)
        with sharing(Share(rank, 2, 6)):
            assert torch.equal(part(values[rank::2]), whole[rank::2])
