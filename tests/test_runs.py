"""The folder of a run: whole or not there, and every kind of damage is one line that names the file."""

import dataclasses
import errno
import json
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from flowvae.build import build_model
from flowvae.config import Config, ModelConfig, TrainingConfig, from_dict, to_dict
from flowvae.errors import UserError
from flowvae.models import VAE
from flowvae.runs import (
    create,
    cut_metrics,
    load,
    read_config,
    read_metrics,
    replacing,
    revise,
    seed_everything,
    write_json,
    write_weights,
)
from flowvae.training.averaging import averaged
from flowvae.training.checkpoint import State

SHAPE = (1, 8, 8)
CONFIG = Config(
    model=ModelConfig(
        posterior="realnvp",
        transformations=1,
        latent=3,
        features=8,
        hidden=8,
        channels=4,
        normalization="batch",
        flow_batch_norm=True,
    ),
    training=TrainingConfig(steps=10),
)


def moved_model(config: Config = CONFIG) -> VAE:
    model = build_model(config.model, SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def state_of(model: VAE) -> State:
    """After one step of training, so that the optimizer has something to save."""
    optimizer = torch.optim.AdamW(model.parameters())
    (-model(torch.zeros(2, *SHAPE)).likelihood.mean()).backward()
    optimizer.step()
    state = State(model, averaged(model, 0.9), optimizer, step=1)
    state.average.update_parameters(model)
    return state


@pytest.fixture
def run(tmp_path) -> Path:
    """A complete run."""
    folder = tmp_path / "run"
    create(folder, CONFIG, SHAPE)
    state = state_of(moved_model())
    write_weights(folder, state.model)
    with (folder / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b'{"step": 1}\n')
        state.save(folder, metrics)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def message(error: pytest.ExceptionInfo[UserError], *parts: str | Path) -> str:
    """One line, and it has what it needs to have."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    for part in parts:
        assert str(part) in text
    return text


# Whole.


def test_a_run_gives_back_what_was_put_in(run):
    model = moved_model()
    write_weights(run, model)
    loaded = load(run)
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    images = torch.bernoulli(torch.full((3, *SHAPE), 0.5))
    torch.manual_seed(1)
    expected = model.eval()(images, 2)
    torch.manual_seed(1)
    for ours, theirs in zip(loaded(images, 2), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert read_config(run) == (CONFIG, SHAPE)
    assert load(str(run))


def test_loading_does_not_depend_on_torchs_generator(run):
    model = load(run)
    torch.manual_seed(123)
    again = load(run)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_state_gives_back_what_was_put_in(run):
    saved, fresh = state_of(moved_model()), state_of(moved_model())
    saved.step, saved.seconds, saved.best = 12, 3.5, 80.25
    with (run / "metrics.jsonl").open("ab") as metrics:
        saved.save(run, metrics)
    fresh.restore(run)
    assert (fresh.step, fresh.seconds, fresh.best) == (12, 3.5, 80.25)
    for ours, theirs in ((fresh.model, saved.model), (fresh.average, saved.average)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert str(fresh.optimizer.state_dict()) == str(saved.optimizer.state_dict())


def test_resuming_cuts_the_metrics_back_to_the_saved_moment(run):
    with (run / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b'{"step": 2}\n\xff\xfe\n7\n{"step": 3}\n{"ste')
    assert read_metrics(run) == [{"step": 1}, {"step": 2}, {"step": 3}]  # lines that are damaged are left out
    state = state_of(moved_model())
    state.restore(run)
    cut_metrics(run, state.metrics_bytes)
    assert read_metrics(run) == [{"step": 1}]


def test_resuming_where_the_metrics_are_gone_begins_them_anew(run):
    (run / "metrics.jsonl").unlink()
    cut_metrics(run, 12)
    assert read_metrics(run) == []


@pytest.mark.parametrize("there", ["empty folder", "full folder", "file"])
def test_a_new_run_overwrites_nothing(there, tmp_path):
    folder = tmp_path / "run"
    if there == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
    if there == "full folder":
        (folder / "config.json").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        create(folder, CONFIG, SHAPE)
    message(error, folder, "exists already")
    assert contents(tmp_path) == before


def test_a_new_run_makes_the_folders_above_it(tmp_path):
    create(tmp_path / "a" / "b" / "run", CONFIG, SHAPE)
    assert read_config(tmp_path / "a" / "b" / "run") == (CONFIG, SHAPE)


def test_what_may_change_in_a_run_changes_and_what_may_not_does_not(run):
    may = dataclasses.replace(CONFIG.training, steps=None, minutes=3.0, compile=True, track="none")
    revise(run, dataclasses.replace(CONFIG, training=may))
    assert read_config(run)[0].training == may
    before = contents(run)
    for part, name, value in (
        ("data", "binarization", "dynamic"),
        ("model", "latent", 4),
        ("training", "learning_rate", 1e-5),
        ("training", "seed", 7),
    ):
        changed = dataclasses.replace(getattr(CONFIG, part), **{name: value})
        with pytest.raises(UserError) as error:
            revise(run, dataclasses.replace(CONFIG, **{part: changed}))
        message(error, run, name, str(value))
    assert contents(run) == before


def test_noise_of_different_steps_processes_and_weights_is_different():
    seen = set()
    for entropy in [
        (0,),
        (1,),
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
        (2**32, 0, 0),
        (0, 2**32, 0),
        (7, 0),
    ]:
        seed_everything(*entropy)
        seen.add(torch.rand(1).item())
    assert len(seen) == 9
    draws = []
    for _ in range(2):
        seed_everything(3, 5, 1)
        draws.append(torch.rand(4))
    assert torch.equal(*draws)


# Damage.


def whole() -> dict[str, Any]:
    return {**to_dict(CONFIG), "shape": list(SHAPE)}


def edited(section: str | None, **changes: Any) -> str:
    values = whole()
    (values if section is None else values[section]).update(changes)
    return json.dumps(values)


BAD_CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "JSON"),
    "truncated": (json.dumps(whole())[:100], "JSON"),
    "not text": (b"\xff\xfe\x00\x80", "JSON"),
    "nested too deep": ("[" * 100_000, "JSON"),
    "a list": ("[1, 2]", "shape"),
    "a word": ('"vae"', "shape"),
    "no shape": (edited(None, shape=None), "shape"),
    "shape of two": (edited(None, shape=[8, 8]), "shape"),
    "shape of words": (edited(None, shape=["1", "8", "8"]), "shape"),
    "negative shape": (edited(None, shape=[1, -8, 8]), "shape"),
    "unknown section": (edited(None, modle={}), "model"),
    "section that is a number": (edited(None, model=3), "3"),
    "unknown option": (edited("model", laten=3), "latent"),
    "word for a number": (edited("model", latent="three"), "latent"),
    "fraction for a count": (edited("model", latent=3.5), "latent"),
    "truth for a count": (edited("model", latent=True), "latent"),
    "null for a count": (edited("model", latent=None), "latent"),
    "list for a word": (edited("model", posterior=["realnvp"]), "posterior"),
    "unknown word": (edited("model", posterior="relnvp"), "realnvp"),
    "out of range": (edited("model", latent=0), "latent"),
    "contradiction": (edited("model", posterior="gaussian"), "gaussian"),
    "learning rate that is no number": (edited("training", learning_rate=float("nan")), "learning_rate"),
    "budget that is no number": (edited("training", minutes=float("nan")), "minutes"),
    "decay that is no number": (edited("training", weight_decay=float("nan")), "weight_decay"),
    "negative budget": (edited("training", steps=-1), "steps"),
}


@pytest.mark.parametrize("damage", BAD_CONFIGS)
def test_a_damaged_configuration_is_one_line(damage, run):
    text, hint = BAD_CONFIGS[damage]
    (run / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = contents(run)
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "config.json", hint)
    assert contents(run) == before


def test_any_value_anywhere_is_read_or_refused(run):
    """Every option with values of every kind: no other exception, and what is read has the right type."""
    for section in ("data", "model", "training"):
        for option, value in whole()[section].items():
            for other in (
                None,
                True,
                "",
                "x",
                -1,
                0,
                1,
                1.5,
                -0.5,
                float("nan"),
                10**18,
                [],
                {},
                [[1]],
                {"a": 1},
            ):
                (run / "config.json").write_text(edited(section, **{option: other}))
                try:
                    config, _ = read_config(run)
                except UserError:
                    continue
                read = getattr(getattr(config, section), option)
                assert read == other
                assert type(read) is type(value) or option in ("epochs", "steps", "minutes")  # True is no 1


@pytest.mark.parametrize("folder", ["missing", "file", "empty"])
def test_what_is_no_run_is_said_to_be_none(folder, tmp_path):
    path = tmp_path / folder
    if folder == "file":
        path.write_text("")
    elif folder == "empty":
        path.mkdir()
    with pytest.raises(UserError) as error:
        load(path)
    message(error, path, "run")


def test_missing_weights_are_said_to_be_missing(run):
    (run / "model.safetensors").unlink()
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "model.safetensors", "missing")


def weights_with(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[bytes], bytes]:
    def rewritten(before: bytes) -> bytes:
        weights = safetensors.torch.load(before)
        change(weights)
        return safetensors.torch.save(weights)

    return rewritten


NAME = "posterior.base.mean_and_log_scale.bias"

BAD_WEIGHTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda before: b"", ""),
    "cut in the header": (lambda before: before[:50], ""),
    "cut in the numbers": (lambda before: before[:-4], ""),
    "longer": (lambda before: before + b"0", ""),
    "text": (lambda before: b"no weights at all, just a few words", ""),
    "header longer than the file": (lambda before: (2**60).to_bytes(8, "little") + before[8:], ""),
    "a pickle": (lambda before: pickle.dumps({"a": 1}), ""),
    "one missing": (weights_with(lambda weights: weights.pop(NAME)), NAME),
    "one too many": (weights_with(lambda weights: weights.update(surplus=torch.zeros(1))), "surplus"),
    "another shape": (weights_with(lambda weights: weights.update({NAME: torch.zeros(4)})), NAME),
}


@pytest.mark.parametrize("damage", BAD_WEIGHTS)
def test_damaged_weights_are_one_line(damage, run):
    change, hint = BAD_WEIGHTS[damage]
    path = run / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    before = contents(run)
    with pytest.raises(UserError) as error:
        load(run)
    message(error, path, "damaged", hint)
    assert contents(run) == before


def test_a_folder_in_place_of_the_weights_is_one_line(run):
    (run / "model.safetensors").unlink()
    (run / "model.safetensors").mkdir()
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "model.safetensors")


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def state_with(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        values = torch.load(path, weights_only=True)
        change(values)
        torch.save(values, path)

    return rewrite


BAD_STATES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut at the start": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "text": lambda path: path.write_text("no state"),
    "a list": lambda path: torch.save([1, 2], path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "code": lambda path: torch.save({"model": Malicious(path.parent / "made")}, path),
    "no model": state_with(lambda values: values.pop("model")),
    "no step": state_with(lambda values: values.pop("step")),
    "a word for the step": state_with(lambda values: values.update(step="nine")),
    "a word for the length": state_with(lambda values: values.update(metrics_bytes="nine")),
    "a number for the model": state_with(lambda values: values.update(model=3)),
    "a number for the optimizer": state_with(lambda values: values.update(optimizer=3)),
    "an empty model": state_with(lambda values: values.update(model={})),
    "an empty optimizer": state_with(lambda values: values.update(optimizer={})),
}


@pytest.mark.parametrize("damage", BAD_STATES)
def test_a_damaged_state_is_one_line(damage, run):
    path = run / "resume" / "state.pt"
    BAD_STATES[damage](path)
    before = contents(run)
    with pytest.raises(UserError) as error:
        state_of(moved_model()).restore(run)
    message(error, path, "damaged")
    assert contents(run) == before
    assert not (path.parent / "made").exists(), "code in the file was run"


def test_the_state_of_another_model_is_refused(run):
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, latent=4))
    with pytest.raises(UserError) as error:
        state_of(moved_model(other)).restore(run)
    message(error, run / "resume" / "state.pt")


def test_a_run_without_a_state_cannot_be_resumed(run):
    (run / "resume" / "state.pt").unlink()
    with pytest.raises(UserError) as error:
        state_of(moved_model()).restore(run)
    message(error, run / "resume" / "state.pt", "missing")


# A full disk.


def no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(write: Callable[..., Any]) -> Callable[..., None]:
    """Writes half of what it is given before the disk is full."""

    def wrapped(path: Path, data: Any, *arguments: Any, **options: Any) -> None:
        write(path, data[: len(data) // 2], *arguments, **options)
        no_space()

    return wrapped


def write_state(run: Path) -> None:
    with (run / "metrics.jsonl").open("ab") as metrics:
        state_of(moved_model()).save(run, metrics)


WRITERS: dict[str, Callable[[Path], None]] = {
    "config.json": lambda run: revise(run, CONFIG),
    "evaluation.json": lambda run: write_json(run / "evaluation.json", {"nll": 80.0}),
    "model.safetensors": lambda run: write_weights(run, moved_model()),
    "resume/state.pt": write_state,
    "metrics.jsonl": lambda run: cut_metrics(run, 5),
}


def assert_full_disk_is_survived(run: Path, name: str) -> None:
    """The file is as it was, or still not there; nothing is left lying about; the error names the file."""
    before = contents(run)
    with pytest.raises(OSError, match=Path(name).name):
        WRITERS[name](run)
    assert contents(run) == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_keeps_the_old_file(name, run, monkeypatch):
    for method in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, method, half(getattr(Path, method)))
    assert_full_disk_is_survived(run, name)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_take_its_place_keeps_the_old_one(name, run, monkeypatch):
    monkeypatch.setattr(os, "replace", no_space)
    assert_full_disk_is_survived(run, name)


@pytest.mark.parametrize("name", ["model.safetensors", "resume/state.pt"])
def test_a_file_that_the_system_cuts_short_keeps_the_old_one(name, run):
    """As on a full disk, by a limit on the size of files that the kernel itself enforces."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        assert_full_disk_is_survived(run, name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_run_that_could_not_begin_leaves_no_folder(tmp_path, monkeypatch):
    """Or the next attempt would find that it exists already."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        with pytest.raises(OSError, match=r"config\.json"):
            create(tmp_path / "run", CONFIG, SHAPE)
    assert not (tmp_path / "run").exists()
    create(tmp_path / "run", CONFIG, SHAPE)


def test_replacing_writes_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path) == {"file": b"old"}
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"file": b"new"}


# Configurations.


@pytest.mark.parametrize("config", [Config(), CONFIG])
def test_configurations_survive_json(config):
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
