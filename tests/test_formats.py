"""Runs of earlier versions: they load, score and go on as they did.

``golden`` has a run for each set of fields that config.json has had, named after the newest of them. The
version of its time trained it for two steps on the images below, scored it, went on to four steps, and scored
it again; scores.json has both scores.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import CONFIG, SHAPE, message

from flowvae.config import Config, from_dict
from flowvae.data import as_float, load_dataset
from flowvae.errors import UserError
from flowvae.evaluation import bounds
from flowvae.formats import FORMAT, numbered, upgraded
from flowvae.runs import load, read_config, read_json, write_json
from flowvae.training import train

GOLDEN = Path(__file__).parent / "golden"
# Networks have changed since, and with them the weights.
OLDER_NETWORKS = ["first", "blocks", "optimizer"]
LOADED = ["family", "start_from", "code", "flow_of", "covariance", "path_derivative", "causal_orders"]
WITH_PATH_DERIVATIVE = ["path_derivative", "causal_orders"]


@pytest.fixture
def golden(era, tmp_path, monkeypatch) -> Path:
    """The golden run of an era, and as the working directory a folder with its images."""
    levels = 256 if era == "family" else 2
    random = np.random.default_rng(0)
    train, valid, test = (random.integers(0, levels, (n, 8, 8)).astype(np.uint8) for n in (32, 8, 8))
    np.savez(tmp_path / "images.npz", train=train, valid=valid, test=test)
    monkeypatch.chdir(tmp_path)
    return GOLDEN / era


def scores(run: Path) -> dict[str, float]:
    config, _ = read_config(run)
    data = load_dataset(config.data.data, config.data.binarization)
    model = load(run)
    torch.manual_seed(0)
    scored = bounds(model, as_float(data.test.images, data.levels), num_samples=3)
    return {
        "negative_elbo": scored.negative_elbo.mean().item(),
        "nll": scored.negative_log_marginal.mean().item(),
    }


@pytest.mark.parametrize("era", OLDER_NETWORKS + LOADED)
def test_a_missing_field_has_the_value_of_its_time(era):
    values = json.loads((GOLDEN / era / "config.json").read_text())
    config, shape = read_config(GOLDEN / era)
    assert list(shape) == values.pop("shape") == [1, 8, 8]
    for section, fields in values.items():
        for name, value in fields.items():
            assert getattr(getattr(config, section), name) == value
    assert config.training.path_derivative == (era in WITH_PATH_DERIVATIVE)
    assert config.training.optimizer == ("adamw" if era in ("first", "blocks") else "muon")


@pytest.mark.parametrize("era", LOADED)
def test_an_old_run_scores_as_it_did(golden):
    assert scores(golden) == pytest.approx(read_json(golden / "scores.json")["trained"], rel=0, abs=1e-5)


@pytest.mark.parametrize("era", ["blocks", "optimizer"])
def test_weights_of_older_networks_are_refused(era):
    with pytest.raises(UserError) as error:
        load(GOLDEN / era)
    message(error, GOLDEN / era / "model.safetensors", "another model or version")


@pytest.mark.parametrize("era", LOADED)
def test_an_old_run_is_trained_and_goes_on_with_its_own_gradient(era, golden):
    """Training is a function of the configuration: the steps of their time are taken again, and two more."""
    config, _ = read_config(golden)
    run = Path("run")
    train(run, config)
    assert scores(run) == pytest.approx(read_json(golden / "scores.json")["trained"], rel=0, abs=1e-3)
    shutil.copyfile(golden / "config.json", run / "config.json")
    config, _ = read_config(run)
    train(run, replace(config, training=config.training.with_budget(steps=4)), resume=True)
    assert scores(run) == pytest.approx(read_json(golden / "scores.json")["resumed"], rel=0, abs=1e-3)
    # What is written says it all.
    written = read_json(run / "config.json")
    assert written["format"] == FORMAT
    assert written["training"]["path_derivative"] == (era in WITH_PATH_DERIVATIVE)


def test_a_configuration_of_today_says_everything(run):
    written = read_json(run / "config.json")
    assert written == {**numbered(CONFIG), "shape": list(SHAPE)}
    assert written["format"] == FORMAT
    assert from_dict(Config, upgraded(numbered(CONFIG))) == CONFIG
    del written["training"]["path_derivative"]
    write_json(run / "config.json", written)
    with pytest.raises(UserError) as error:
        read_config(run)
    message(error, run / "config.json", "training has no path_derivative")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (FORMAT + 1, f"format is {FORMAT + 1}, and this flowvae reads up to {FORMAT}; install a newer one"),
        *((number, "expected a number") for number in (-1, True, 1.0, "1", None, [])),
    ],
)
def test_a_format_that_is_not_known_is_one_line(number: Any, said: str, run):
    write_json(run / "config.json", {**numbered(CONFIG), "shape": list(SHAPE), "format": number})
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "config.json", said)
