"""The folder of a run: every file of it is whole or not there."""

import dataclasses
import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import CONFIG, SHAPE, contents, message, moved_model, record, trained_state

from flowvae.config import Config, from_dict, to_dict
from flowvae.data import as_float, load_dataset
from flowvae.errors import UserError
from flowvae.evaluation import bounds
from flowvae.runs import (
    create,
    cut_metrics,
    find,
    is_bundled,
    load,
    output,
    read_config,
    read_metrics,
    replacing,
    revise,
    seed_everything,
    write_json,
    write_weights,
)

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
    saved, fresh = trained_state(moved_model()), trained_state(moved_model())
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
        metrics.write(record(2) + b'\xff\xfe\n7\n{"step": 5}\n' + record(3) + record(4)[:-9])
    # Lines that are damaged are left out.
    assert [each["step"] for each in read_metrics(run)] == [1, 2, 3]
    state = trained_state(moved_model())
    state.restore(run)
    cut_metrics(run, state.metrics_bytes)
    assert [each["step"] for each in read_metrics(run)] == [1]


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
        trained_state(moved_model()).save(run, metrics)


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


def test_the_model_that_comes_with_the_package_knows_its_digits():
    data = load_dataset("mnist", "static")
    images = as_float(data.test.images[:64], data.levels)
    torch.manual_seed(0)
    scores = bounds(load("density-mnist"), images, num_samples=1)
    # Between what would be a leak and what the plain autoencoder reaches.
    assert 74 < scores.negative_elbo.mean() < 90


def test_a_run_is_found_by_its_path_and_a_model_of_the_package_by_its_name(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    bundled = find("density-mnist")
    assert (bundled / "model.safetensors").is_file()
    assert find("run") == Path("run")
    assert [is_bundled(Path(name)) for name in ("run", "density-mnist", str(bundled))] == [False, True, True]
    assert output(Path("run"), "samples.png") == Path("run/samples.png")
    assert output(Path("density-mnist"), "samples.png") == Path("density-mnist-samples.png")
    for name in ("missing", "run/config.json", "pretrained/density-mnist", "../density-mnist"):
        with pytest.raises(UserError) as error:
            find(name)
        message(error, name, "is no folder")


def test_a_folder_goes_before_a_model_that_comes_with_the_package(tmp_path, monkeypatch):
    (tmp_path / "density-mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load("density-mnist")
