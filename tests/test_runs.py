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
from made_runs import CONFIG, SHAPE, SPEC, contents, message, moved_model, record, trained_state

from flowvae.batch import DataSpec
from flowvae.data import as_float, load_dataset
from flowvae.errors import UserError
from flowvae.evaluation import bounds
from flowvae.models import VAE, Bounded, Coded, Inferring, Scored
from flowvae.models.registry import PRESETS
from flowvae.runs import (
    Run,
    create,
    cut_metrics,
    load,
    read_metrics,
    replacing,
    revise,
    write_json,
    write_weights,
)
from flowvae.runs.capability import needs
from flowvae.runs.formats import read_description, written
from flowvae.training.seeding import seed_everything

# Whole.


def test_a_run_gives_back_what_was_put_in(run):
    model = moved_model()
    write_weights(run, model)
    loaded = load(run)
    assert isinstance(loaded, VAE)
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    images = torch.bernoulli(torch.full((3, *SHAPE), 0.5))
    torch.manual_seed(1)
    expected = model.eval()(images, 2)
    torch.manual_seed(1)
    for ours, theirs in zip(loaded(images, 2), expected, strict=True):
        assert torch.equal(ours, theirs)
    opened = Run(str(run))
    assert (opened.config, opened.spec) == (CONFIG, SPEC)
    assert opened.model is opened.model, "a file is read once"
    assert [each["step"] for each in opened.records] == [1]
    assert load(str(run))


def test_loading_leaves_torchs_generator_as_it_was(run):
    before = torch.get_rng_state()
    load(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_does_not_depend_on_torchs_generator(run):
    model = load(run)
    torch.manual_seed(123)
    again = load(run)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_state_gives_back_what_was_put_in(run):
    saved, fresh = trained_state(moved_model()), trained_state(moved_model())
    saved.step, saved.seconds, saved.best = 12, 3.5, 80.25
    saved.sums, saved.summed_steps, saved.summed_seconds = {"kl": torch.tensor(7.5)}, 2, 0.5
    with (run / "metrics.jsonl").open("ab") as metrics:
        saved.save(run, metrics)
    fresh.restore(run)
    assert (fresh.step, fresh.seconds, fresh.best) == (12, 3.5, 80.25)
    assert (fresh.sums, fresh.summed_steps, fresh.summed_seconds) == ({"kl": torch.tensor(7.5)}, 2, 0.5)
    for ours, theirs in ((fresh.model, saved.model), (fresh.average, saved.average)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    ours, theirs = (str(state.players["model"].optimizer.state_dict()) for state in (fresh, saved))
    assert ours == theirs


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
        create(folder, CONFIG, SPEC, "vae")
    message(error, folder, "already exists")
    assert contents(tmp_path) == before


def test_a_new_run_makes_the_folders_above_it(tmp_path):
    create(tmp_path / "a" / "b" / "run", CONFIG, SPEC, "vae")
    made = Run(tmp_path / "a" / "b" / "run")
    assert (made.config, made.spec) == (CONFIG, SPEC)


def test_what_may_change_in_a_run_changes_and_what_may_not_does_not(run):
    may = dataclasses.replace(
        CONFIG.training, steps=None, minutes=3.0, compile=True, track="none", gradient_checkpointing=True
    )
    revise(Run(run), dataclasses.replace(CONFIG, training=may))
    assert Run(run).config.training == may
    before = contents(run)
    for name, value in (
        ("binarization", "dynamic"),
        ("latent", 4),
        ("hidden", 16),
        ("samples", 2),
        ("posterior", "iaf"),
        ("learning_rate", 1e-5),
        ("beta1", 0.5),
        ("seed", 7),
    ):
        with pytest.raises(UserError) as error:
            revise(Run(run), CONFIG.revised(**{name: value}))
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_metrics_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    metrics = (tmp_path / "metrics.jsonl").open("ab")
    metrics.write(b"{}")
    with pytest.raises(OSError, match="No space") as caught:
        trained_state(moved_model()).save(tmp_path, metrics)
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="No space"):
        metrics.close()


WRITERS: dict[str, Callable[[Path], None]] = {
    "config.json": lambda run: revise(Run(run), CONFIG),
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
    """Or the next attempt would find that it already exists."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_space)
        with pytest.raises(OSError, match=r"run"):
            create(tmp_path / "run", CONFIG, SPEC, "vae")
    assert not (tmp_path / "run").exists()
    create(tmp_path / "run", CONFIG, SPEC, "vae")


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


@pytest.mark.parametrize("config", [CONFIG, *PRESETS.values()], ids=["made", *PRESETS])
def test_configurations_survive_their_file(config, tmp_path):
    spec = DataSpec((3, 8, 12), levels=256, training_images=7, classes=10)
    path = tmp_path / "config.json"
    write_json(path, written(config, spec, config.model.name))
    described = read_description(path)
    assert (described.config, described.spec, described.system) == (config, spec, config.model.name)
    assert described.options == json.loads(path.read_text())["model"]


# Of the time before a file named its system: all options of all models in one list.
LATEST = json.loads((Path(__file__).parent / "golden" / "causal_orders" / "config.json").read_text())
EARLIER = {
    "data": LATEST["data"],
    "model": {
        **LATEST["model"],
        "family": "vae",
        "posterior": "planar",
        "transformations": 2,
        "flow_of": "noise",
        "covariance": "full",
        "prior": "realnvp",
        "prior_transformations": 3,
        "likelihood": "bernoulli",
        "components": 5,
        "code": "vector",
        "latent": 3,
        "features": 16,
        "hidden": 8,
        "channels": 8,
        "blocks": 1,
        "context": True,
        "normalization": "batch",
        "bounded": False,
        "flow_batch_norm": False,
        "pseudo_inputs": 100,
        "causal_channels": 64,
        "causal_dropout": 0.0,
    },
    "training": {
        **LATEST["training"],
        "steps": 9,
        "objective": "elbo",
        "samples": 2,
        "path_derivative": False,
        "kl_warm_up": 4,
        "free_bits": 1.5,
        "batch_size": 8,
    },
    "shape": [1, 8, 8],
}


def test_a_configuration_of_format_1_means_what_it_meant(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, EARLIER)
    described = read_description(path)
    (system, spec) = (described.system, described.spec)
    assert (system, spec) == ("vae", DataSpec((1, 8, 8), levels=2))
    expected = PRESETS["vae"].revised(
        posterior="planar",
        transformations=2,
        flow_of="noise",
        covariance="full",
        prior="realnvp",
        prior_transformations=3,
        prior_hidden=8,
        prior_normalization="none",  # a prior never had batch norm
        prior_bounded=False,
        latent=3,
        features=16,
        channels=8,
        samples=2,
        path_derivative=False,
        kl_warm_up=4,
        free_bits=1.5,
    )
    assert described.config.model == expected.model
    assert (described.config.data.data, described.config.training.steps) == ("images.npz", 9)
    assert described.config.training.batch_size == 8


def test_a_density_of_format_1_has_the_options_that_it_had(tmp_path):
    path = tmp_path / "config.json"
    model = {**EARLIER["model"], "family": "realnvp", "transformations": 3, "normalization": "weight"}
    training = {**EARLIER["training"], "objective": "importance-weighted"}
    write_json(
        path,
        {**EARLIER, "model": model, "training": training, "data": {**LATEST["data"], "binarization": "none"}},
    )
    described = read_description(path)
    assert (described.system, described.spec.levels) == ("realnvp", 256)
    expected = PRESETS["realnvp-density-mnist"].revised(
        transformations=3, hidden=8, bounded=False, objective="importance-weighted", samples=2
    )
    assert described.config.model == expected.model


# What a model can do.


def test_a_capability_that_a_model_has_is_the_model_and_one_it_lacks_is_one_line(run):
    opened = Run(run)
    for capability in (Inferring, Coded, Bounded):
        assert needs(capability, opened) is opened.model
    with pytest.raises(UserError) as error:
        needs(Scored, opened)
    message(error, run, "(vae) has no exact log p(x)", "choose another run")


def test_the_model_that_comes_with_the_package_knows_its_digits():
    data = load_dataset("mnist", "static")
    images = as_float(data.test.images[:64], data.levels)
    torch.manual_seed(0)
    scores = bounds(needs(Bounded, Run("density-mnist")), images, num_samples=1)
    # Between what would be a leak and what the plain autoencoder reaches.
    assert 74 < scores.negative_elbo.mean() < 90


def test_a_folder_goes_before_a_model_that_comes_with_the_package(tmp_path, monkeypatch):
    (tmp_path / "density-mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load("density-mnist")


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        write_json(tmp_path / "pipe", {})
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert not (tmp_path / "pipe").is_file()
