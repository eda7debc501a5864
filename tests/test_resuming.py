"""Runs that are stopped in every way there is, and resumed."""

import dataclasses
import errno
import io
import itertools
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import PER_EPOCH, STEPS, assert_ended_as, configuration, files, start, state_of, wait_for

import flowvae.training.loop as loop
from flowvae.batch import Batch
from flowvae.data import training_batch
from flowvae.errors import UserError
from flowvae.runs import load, read_metrics
from flowvae.training import train
from flowvae.training.checkpoint import State


def test_a_killed_run_ends_as_an_unbroken_one(halves, unbroken, tmp_path):
    run, config = tmp_path / "run", configuration(halves)
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
def test_a_run_that_crashed_anywhere_ends_as_an_unbroken_one(place, halves, unbroken, tmp_path, monkeypatch):
    """At step 60 or after it, in the third epoch, whose state is or is not written yet."""
    run, config = tmp_path / "run", configuration(halves)
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


def test_a_run_may_be_broken_again_and_again(halves, unbroken, tmp_path, monkeypatch):
    run, config = tmp_path / "run", configuration(halves)
    for attempt, step in enumerate((31, 57, 93)):
        with monkeypatch.context() as patch:
            wrapped = once(lambda *given, step=step: given[3] == step, crash, loop.training_batch)
            patch.setattr(loop, "training_batch", wrapped)
            with pytest.raises(Crash):
                train(run, config, resume=attempt > 0)
    train(run, config, resume=True)
    assert_ended_as(run, unbroken)


def raising(*signals: signal.Signals) -> Callable[[], None]:
    def press() -> None:
        for kind in signals:
            signal.raise_signal(kind)

    return press


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals as in a terminal; in a shell's background Ctrl-C is ignored, and under nohup SIGHUP."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_first(terminal, halves, unbroken, tmp_path, monkeypatch, capsys, kind):
    """Also before the first validation, and the step that it met is finished."""
    run, config = tmp_path / "run", configuration(halves)
    before = signal.getsignal(kind)
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "training_batch", once(lambda *given: given[3] == 7, raising(kind), training_batch)
        )
        assert train(run, config) is False
    assert signal.getsignal(kind) is before
    assert state_of(run)["step"] == 8
    assert f"--resume {run}" in capsys.readouterr().err.replace("\n", "")
    assert load(run), "something to look at"
    assert train(run, config, resume=True) is True
    assert_ended_as(run, unbroken)


def test_a_second_ctrl_c_interrupts_at_once(terminal, halves, tmp_path, monkeypatch):
    run, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    patch = once(
        lambda *given: given[3] == PER_EPOCH + 3, raising(signal.SIGINT, signal.SIGINT), training_batch
    )
    monkeypatch.setattr(loop, "training_batch", patch)
    with pytest.raises(KeyboardInterrupt):
        train(run, configuration(halves))
    assert signal.getsignal(signal.SIGINT) is before
    assert state_of(run)["step"] == PER_EPOCH


def test_resuming_a_finished_run_changes_nothing(halves, tmp_path):
    run, config = tmp_path / "run", configuration(halves, steps=3)
    train(run, config)
    before = {name: (run / name).read_bytes() for name in files(run)}
    train(run, config, resume=True)
    assert {name: (run / name).read_bytes() for name in files(run)} == before


def test_a_finished_run_goes_on_with_a_larger_budget(halves, tmp_path):
    run, config = tmp_path / "run", configuration(halves, steps=3)
    train(run, config)
    longer = dataclasses.replace(config, training=config.training.with_budget(steps=5))
    train(run, longer, resume=True)
    assert state_of(run)["step"] == 5
    assert json.loads((run / "config.json").read_text())["training"]["steps"] == 5


def test_resuming_what_is_no_run_makes_no_folder(halves, tmp_path):
    with pytest.raises(UserError, match="is not a directory"):
        train(tmp_path / "run", configuration(halves), resume=True)
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_model_changes_nothing(halves, tmp_path):
    run, config = tmp_path / "run", configuration(halves, steps=3)
    train(run, config)
    before = {name: (run / name).read_bytes() for name in files(run)}
    for other in (
        config.revised(latent=4),
        config.revised(kl_warm_up=3),
        config.revised(posterior="planar"),
        dataclasses.replace(config, training=dataclasses.replace(config.training, seed=1)),
    ):
        with pytest.raises(UserError):
            train(run, other, resume=True)
        assert {name: (run / name).read_bytes() for name in files(run)} == before


@pytest.mark.parametrize("step", [PER_EPOCH + 3, 2 * PER_EPOCH])
def test_a_loss_that_is_not_finite_keeps_the_last_good_state(step, halves, unbroken, tmp_path, monkeypatch):
    run, config = tmp_path / "run", configuration(halves)

    def poisoned(*arguments: Any) -> Batch:
        batch = training_batch(*arguments)
        return batch._replace(images=batch.images * math.nan) if arguments[3] == step else batch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_batch", poisoned)
        with pytest.raises(UserError, match=f"the loss of model stopped being finite at step {step}"):
            train(run, config)
    assert state_of(run)["step"] == step // PER_EPOCH * PER_EPOCH
    assert all(value.isfinite().all() for value in load(run).state_dict().values())
    train(run, config, resume=True)
    assert_ended_as(run, unbroken)


def test_an_ignored_signal_stays_ignored(halves, unbroken, tmp_path, monkeypatch):
    """As SIGHUP does under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        wrapped = once(lambda *given: given[3] == 7, raising(signal.SIGHUP), training_batch)
        monkeypatch.setattr(loop, "training_batch", wrapped)
        assert train(tmp_path / "run", configuration(halves)) is True
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert_ended_as(tmp_path / "run", unbroken)


@pytest.mark.parametrize("renamed", [True, False])
def test_a_directory_that_goes_is_said_to_be_gone(renamed, halves, unbroken, tmp_path, monkeypatch):
    run, config = tmp_path / "run", configuration(halves)

    def go() -> None:
        run.rename(tmp_path / "elsewhere") if renamed else shutil.rmtree(run)

    with monkeypatch.context() as patch:
        wrapped = once(lambda *given: given[3] == PER_EPOCH + 3, go, training_batch)
        patch.setattr(loop, "training_batch", wrapped)
        with pytest.raises(UserError, match=f"{run} was removed or renamed in training; resume it where"):
            train(run, config)
    assert not run.exists()
    if renamed:
        train(tmp_path / "elsewhere", config, resume=True)
        assert_ended_as(tmp_path / "elsewhere", unbroken)


class ClosedTerminal(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_display_that_is_gone_does_not_end_training(halves, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    assert train(tmp_path / "run", configuration(halves, steps=3))
    assert state_of(tmp_path / "run")["step"] == 3


def test_resuming_a_run_whose_minutes_are_over_changes_nothing(halves, tmp_path, monkeypatch):
    """Half a minute is kept for the last validation, which then takes a second."""
    run, config = tmp_path / "run", configuration(halves, minutes=1.0)
    clock = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
        patch.setattr(loop, "_validation_seconds", lambda *_: 30.0)
        train(run, config)
    before = {name: (run / name).read_bytes() for name in files(run)}
    train(run, config, resume=True)
    assert {name: (run / name).read_bytes() for name in files(run)} == before


def test_times_after_a_validation_are_those_that_processes_agree_on(halves, tmp_path, monkeypatch):
    def agreed(accelerator: object, seconds: float, ending: float, stop: bool) -> tuple[float, float, bool]:
        return math.ceil(seconds) + 0.25, ending, stop

    monkeypatch.setattr(loop, "agreed", agreed)
    train(tmp_path / "run", configuration(halves, steps=3))
    recorded = [record["seconds"] % 1 for record in read_metrics(tmp_path / "run")]
    assert recorded == [0.25] * len(recorded)


def test_a_run_whose_data_have_changed_is_not_resumed(halves, tmp_path):
    data, run = tmp_path / "data.npz", tmp_path / "run"
    shutil.copy(halves, data)
    train(run, configuration(data, steps=2))
    before = {name: (run / name).read_bytes() for name in files(run)}
    with np.load(halves) as arrays:
        wider: dict[str, Any] = {
            name: np.repeat(array, 2, -1) if array.ndim == 3 else array for name, array in arrays.items()
        }
    np.savez(data, **wider)
    with pytest.raises(
        UserError, match=r"the data of .* have changed: shape was \(1, 8, 8\) and is \(1, 8, 16\)"
    ):
        train(run, configuration(data, steps=4), resume=True)
    assert {name: (run / name).read_bytes() for name in files(run)} == before
