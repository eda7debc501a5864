"""Numbers that are not finite: every system stops, names them, and keeps the last good state."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import contents, flowvae
from made_runs import message
from system_table import TABLE, Row
from tiny_runs import assert_equal, state_of
from torch import Tensor

import flowvae.training.loop as loop
from flowvae.batch import Batch
from flowvae.data import load_configured, training_batch
from flowvae.errors import UserError
from flowvae.models import VAE, Update
from flowvae.runs import read_metrics
from flowvae.shares import ALL
from flowvae.training import Callback, TrainingProgress, train
from flowvae.training.checkpoint import State
from flowvae.training.players import take_step

SAVED, SPOILT = 5, 6  # steps: at the end of the first epoch, and one later


@pytest.fixture(params=TABLE)
def name(request) -> str:
    return request.param


def started(row: Row, halves: Path) -> State:
    return loop._start(row.config(halves), load_configured(row.config(halves).data), torch.device("cpu"))


def a_step(state: State, row: Row, halves: Path) -> None:
    config = row.config(halves)
    batch = training_batch(load_configured(config.data), config.training.batch_size, 0, state.step)
    take_step(state.model, state.players, batch, state.step, 1.0, config.training, [ALL])
    state.average.update_parameters(state.model)
    state.step += 1


@torch.no_grad()
def spoil(values: Tensor, number: float = math.nan) -> None:
    values[(-1,) * values.ndim] = number


# Where a state can be broken: the name in the error, and the values; None if a system has no such place.
Place = Callable[[State], tuple[str, Tensor] | None]


def weight(state: State) -> tuple[str, Tensor]:
    player, module = list(state.model.players().items())[-1]
    name, value = list(module.named_parameters(prefix="" if module is state.model else player))[-1]
    return f"{name} of {player}", value


def statistic(state: State) -> tuple[str, Tensor] | None:
    saved = state.model.state_dict()
    buffers = [(name, value) for name, value in state.model.named_buffers() if name in saved]
    return next(((name, value) for name, value in buffers if value.is_floating_point()), None)


def average(state: State) -> tuple[str, Tensor]:
    name, value = next(iter(state.average.module.named_parameters()))
    return f"the average of {name} of ", value


def moment(state: State) -> tuple[str, Tensor] | None:
    names = {id(value): name for name, value in state.model.named_parameters()}
    for player, part in state.players.items():
        for value, kept in part.optimizer.state.items():
            for kind in kept:
                if kind != "step" and isinstance(kept[kind], Tensor):
                    return f"{kind} of {names[id(value)]} of {player}", kept[kind]
    return None


PLACES: dict[str, Place] = {
    "weight": weight,
    "statistic": statistic,
    "average": average,
    "moment": moment,
}


def test_every_place_of_a_state_is_checked_and_named_with_its_player(name, halves):
    row = TABLE[name]
    state = started(row, halves)
    a_step(state, row, halves)
    state.check()
    for number, place in zip((math.nan, math.inf, -math.inf, math.nan), PLACES.values(), strict=True):
        found = place(state)
        if found is None:
            continue
        title, values = found
        before = values.clone()
        spoil(values, number)
        with pytest.raises(UserError) as error:
            state.check()
        message(error, title, "stopped being finite at step 1; lower --learning-rate")
        with torch.no_grad():
            values.copy_(before)
        state.check()


def test_a_gradient_that_is_not_finite_changes_no_weight_of_its_player(name, halves):
    row = TABLE[name]
    state = started(row, halves)
    for player, module in state.model.players().items():
        value = next(module.parameters())
        title = next(title for title, other in state.model.named_parameters() if other is value)
        before = {name: value.detach().clone() for name, value in module.named_parameters()}
        hook = value.register_hook(lambda gradient: gradient * math.inf)
        with pytest.raises(UserError) as error:
            a_step(state, row, halves)
        hook.remove()
        message(error, f"the gradient of {title} of {player} stopped being finite at step 0; lower ")
        assert_equal({name: value.detach() for name, value in module.named_parameters()}, before)
        state.players[player].optimizer.zero_grad()


def test_a_loss_that_is_not_finite_changes_no_weight_of_its_player(name, halves, monkeypatch):
    row = TABLE[name]
    state = started(row, halves)
    updates = state.model.updates
    for player, module in state.model.players().items():
        before = {name: value.detach().clone() for name, value in module.named_parameters()}

        def broken(batch: Batch, step: int, player: str = player) -> Iterator[Update]:
            for update in updates(batch, step):
                yield update._replace(loss=update.loss * (math.inf if update.player == player else 1))

        monkeypatch.setattr(state.model, "updates", broken)
        with pytest.raises(UserError) as error:
            a_step(state, row, halves)
        message(
            error, f"the loss of {player} stopped being finite at step 0 (its largest weight is ", ", in "
        )
        assert_equal({name: value.detach() for name, value in module.named_parameters()}, before)
        state.players[player].optimizer.zero_grad()


# The whole run.


@pytest.fixture
def states(monkeypatch) -> list[State]:
    """The states of the trainings of a test, as they are made."""
    made: list[State] = []
    start = loop._start

    def starting(*given: Any) -> State:
        made.append(start(*given))
        return made[-1]

    monkeypatch.setattr(loop, "_start", starting)
    return made


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["vae-realnvp-batch-norm", "gan"], indirect=True)
def test_a_run_keeps_its_last_good_state_and_resumes_from_it(name, place, halves, tmp_path, states):
    """A value that the next step does not read, such as an average, is found before anything is saved."""
    run, config = tmp_path / "run", TABLE[name].config(halves)
    kept: dict[str, bytes | None] = {}

    class Spoiling(Callback):
        def on_step(self, progress: TrainingProgress) -> None:
            found = PLACES[place](states[-1])
            if progress.step == SPOILT and found is not None:
                kept.update(contents(run))
                spoil(found[1])

    if name == "gan" and place == "statistic":
        pytest.skip("it has none")
    with pytest.raises(UserError, match=r"stopped being finite at step [678];"):
        train(run, config, callbacks=[Spoiling()])
    left = contents(run)
    for file in ("model.safetensors", "resume/state.pt"):
        assert left[file] == kept[file]
    assert state_of(run)["step"] == SAVED
    assert train(run, config, resume=True)
    assert [record["step"] for record in read_metrics(run) if record["split"] == "valid"] == [5, 8]


def test_nothing_is_saved_when_a_broken_run_is_told_to_stop(halves, tmp_path, states):
    run, row = tmp_path / "run", TABLE["gan"]

    class Spoiling(Callback):
        def on_step(self, progress: TrainingProgress) -> bool:
            spoil(weight(states[-1])[1])
            return True

    with pytest.raises(UserError, match="of discriminator stopped being finite at step 1;"):
        train(run, row.config(halves), callbacks=[Spoiling()])
    assert not run.exists()


def test_the_command_ends_with_one_line_and_code_2(halves, tmp_path):
    words = ["gan-mnist", "--data", halves, "--channels", 4, "--features", 8, "--steps", 4, "--track", "none"]
    result = flowvae("train", *words, "--learning-rate", 1e18, "--out", tmp_path / "run")
    assert result.code == 2
    *_, line = result.err.splitlines()
    assert re.search(r"^flowvae: .* of \w+ stopped being finite at step \d.*; lower --learning-rate", line), (
        line
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shown", ["kl", "reconstruction"])
def test_a_number_beside_the_loss_stops_the_run_as_well(shown, halves, tmp_path, monkeypatch):
    """In training and in validation; it could not be written to metrics.jsonl."""
    config = TABLE["vae"].config(halves)
    with monkeypatch.context() as patch:
        updates = VAE.updates

        def broken(self: VAE, batch: Batch, step: int) -> Iterator[Update]:
            for update in updates(self, batch, step):
                yield update._replace(shown={**update.shown, shown: torch.tensor(math.nan)})

        patch.setattr(VAE, "updates", broken)
        with pytest.raises(UserError, match=f"^{shown} of model stopped being finite at step 0 "):
            train(tmp_path / "run", config)
    validate = VAE.validate
    monkeypatch.setattr(
        VAE, "validate", lambda self, batch: {**validate(self, batch), shown: batch.images.sum(1).log()}
    )
    with pytest.raises(UserError, match=f"^{shown} of validation images stopped being finite at step 5;"):
        train(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
