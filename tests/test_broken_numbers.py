"""Numbers that are not finite: every system stops, names them, and keeps the last good state."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import contents, flowvae
from made_runs import message
from system_table import TABLE, Row
from tiny_runs import assert_equal, state_of
from torch import Tensor

import flowvae.training.loop as loop
from flowvae.batch import Batch
from flowvae.commands.evaluating import evaluate_run
from flowvae.config import TrainingConfig
from flowvae.data import load_configured, training_batch
from flowvae.errors import UserError
from flowvae.evaluation import bounds, evaluate, score
from flowvae.flows import ActNorm
from flowvae.models import VAE, Update
from flowvae.networks.normalization import ActivationNorm, BatchNorm
from flowvae.runs import load, read_metrics
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


# Images with nothing to learn.


@pytest.fixture(scope="session")
def degenerate(tmp_path_factory) -> dict[str, Path]:
    """Data sets of fewer images than a batch has, with labels, and of grey pixels."""
    folder, random = tmp_path_factory.mktemp("degenerate"), np.random.default_rng(0)
    drawn = random.integers(2, 256, (20, 8, 8)).astype(np.uint8)
    paths = {}
    for name, images in {
        "white": np.full_like(drawn, 255),
        "grey": np.full_like(drawn, 128),
        "two": drawn[:2],
        "one": drawn[:1],
    }.items():
        labels = np.arange(len(images)) % 2
        splits: dict[str, Any] = {}
        for split in ("train", "valid", "test"):
            splits |= {split: images, f"{split}_labels": labels}
        paths[name] = folder / f"{name}.npz"
        np.savez(paths[name], **splits)
    return paths


REFUSALS = ("a single class", "labels_used is 10", "batch norm cannot be trained with one image per step")


@pytest.mark.parametrize("data", ["white", "one"])
def test_images_that_do_not_vary_are_trained_on_and_scored_or_refused(name, data, degenerate, tmp_path):
    row = TABLE[name]
    options = {"precision": "bfloat16"} if data == "white" else {}
    try:
        train(tmp_path / "run", row.config(degenerate[data], steps=6, **options))
    except UserError as error:
        if not any(part in str(error) for part in REFUSALS):
            raise
        return
    scores = evaluate_run(tmp_path / "run", num_samples=1, num_images=None)
    assert all(math.isfinite(value) for value in scores.values() if isinstance(value, float))


@pytest.mark.parametrize("data", ["grey", "two"])
@pytest.mark.parametrize("name", ["vae-realnvp-of-noise", "vae-mixture-of-maps", "realnvp"], indirect=True)
def test_act_norm_starts_from_images_that_do_not_vary(name, data, degenerate, tmp_path):
    """Scaled to a variance of 1, they would be a thousand times as far apart as they are."""
    row = TABLE[name]
    train(tmp_path / "run", row.config(degenerate[data], steps=6))
    assert evaluate_run(tmp_path / "run", num_samples=1, num_images=None)


@pytest.mark.parametrize("make", [ActNorm, ActivationNorm])
def test_act_norm_only_shifts_what_does_not_vary(make):
    norm = make(3)
    norm.starting = True
    values = torch.tensor([0.5, -2.0, 7.0]) + torch.tensor([1.0, 0.0, 0.0]) * torch.randn(50, 1)
    out = norm(values[None] if make is ActNorm else values)
    varying, *constant = (out[0][0] if make is ActNorm else out).T
    torch.testing.assert_close(varying.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    assert all(values.abs().max() < 1e-5 for values in constant)
    gain = norm.log_gain.exp() if make is ActNorm else norm.gain
    torch.testing.assert_close(gain[1:], torch.ones(2), atol=1e-5, rtol=0)


def test_batch_norm_needs_two_values_to_train_and_none_to_evaluate():
    norm = BatchNorm(3)
    with pytest.raises(UserError, match="batch norm cannot be trained with one image per step; choose"):
        norm(torch.zeros(1, 3))
    assert norm(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 2, 2), "several places are several values"
    assert norm.eval()(torch.zeros(1, 3)).isfinite().all()


# Extremes of options.


EXTREME: dict[str, dict[str, Any]] = {
    "no code to speak of": {"latent": 1},
    "a full covariance of one number": {
        "latent": 1,
        "posterior": "planar",
        "flow_of": "noise",
        "covariance": "full",
    },
    "iaf of one number": {"latent": 1, "posterior": "iaf", "hidden": 8},
    "planar, K = 64": {"posterior": "planar", "transformations": 64, "precision": "bfloat16"},
    "iaf, K = 64": {"posterior": "iaf", "transformations": 64, "hidden": 8},
    "realnvp, K = 64": {"posterior": "realnvp", "transformations": 64, "hidden": 8},
    "prior, K = 64": {"prior": "realnvp", "prior_transformations": 64, "prior_hidden": 8},
    "one sample": {"objective": "importance-weighted", "samples": 1},
    "free bits": {"free_bits": 1e18},
    "a small gradient": {"gradient_clipping": 1e-18},
    "a large gradient": {"gradient_clipping": 1e18, "learning_rate": 1.0},
    "one image per step": {"batch_size": 1},
    "no time": {"steps": None, "minutes": 1e-12},
}


@pytest.mark.parametrize("case", EXTREME)
def test_extremes_of_options_are_trained_and_scored(case, halves, tmp_path):
    config = TABLE["vae"].config(halves).revised(**{"steps": 3, **EXTREME[case]})
    train(tmp_path / "run", config)
    scores = evaluate_run(tmp_path / "run", num_samples=1, num_images=None)
    assert all(math.isfinite(value) for value in scores.values() if isinstance(value, float))
    model = load(tmp_path / "run")
    assert isinstance(model, VAE)
    for temperature in (0.0, 1e18):
        assert model.sample(2, torch.Generator(), temperature=temperature).isfinite().all()


def test_a_very_large_learning_rate_ends_in_the_same_line(name, halves, tmp_path):
    """Or in numbers, where steps have a bounded effect."""
    row = TABLE[name]
    rate = "step_size" if row.system == "bayesian-gan" else "learning_rate"
    config = row.config(halves).revised(**{rate: 1e15})
    try:
        train(tmp_path / "run", config)
    except UserError as error:
        if "stopped being finite at step" not in str(error):
            raise
        assert not (tmp_path / "run" / "model.safetensors").exists() or load(tmp_path / "run")
    else:
        lines = read_metrics(tmp_path / "run")
        assert lines
        assert all(math.isfinite(line[row.best]) for line in lines if line["split"] == "valid")


@pytest.mark.parametrize("rate", [0, -1.0, 1e30, math.nan, math.inf])
def test_a_learning_rate_that_is_none_is_refused(rate):
    with pytest.raises(UserError, match="learning_rate is "):
        TrainingConfig(learning_rate=rate)


@pytest.mark.parametrize("code", ["vector", "map"])
def test_couplings_of_one_number_are_refused(code, halves, tmp_path):
    config = TABLE["vae"].config(halves).revised(code=code, posterior="realnvp", hidden=8, latent=1)
    with pytest.raises(UserError, match="latent is 1; it must be at least 2 for coupling layers"):
        train(tmp_path / "run", config)


# Scores.


@pytest.mark.parametrize("measure", [evaluate, score])
def test_a_bound_that_is_infinite_is_no_score_even_if_the_estimate_is_finite(measure, halves, monkeypatch):
    """One of the samples has the likelihood 0."""
    row = TABLE["vae"]
    model, data = started(row, halves).model, load_configured(row.config(halves).data)
    drawing = VAE.draws_for

    def draws_for(self: VAE, images: Tensor, *arguments: Any, **given: Any) -> Any:
        draw = drawing(self, images, *arguments, **given)

        def impossible(count: int) -> Any:
            densities = draw(count)
            densities.likelihood[0] = -math.inf
            return densities

        return impossible

    monkeypatch.setattr(VAE, "draws_for", draws_for)
    images = data.batch("test", torch.arange(4)).images
    assert isinstance(model, VAE)
    assert bounds(model, images, 5).negative_log_marginal.isfinite().all()
    with pytest.raises(UserError, match=r"is not finite; train again with a lower --learning-rate$"):
        measure(model, data if measure is evaluate else images, num_samples=5)
