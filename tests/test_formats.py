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
from made_runs import CONFIG, SPEC, message

from flowvae.errors import UserError
from flowvae.evaluation import bounds
from flowvae.models import Bounded, Scored
from flowvae.models.registry import preset
from flowvae.parts import to_dict
from flowvae.runs import Run, load, read_json, write_json
from flowvae.runs.formats import FORMAT, _described, upgraded, written
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
    opened = Run(run)
    images = opened.dataset.batch("test", torch.arange(8)).images
    if isinstance(opened.model, Scored):  # of which earlier versions said that a code costs nothing
        with torch.no_grad():
            nll = -opened.model.log_prob(images).mean().item()
        return {"negative_elbo": nll, "nll": nll}
    assert isinstance(opened.model, Bounded)
    torch.manual_seed(0)
    scored = bounds(opened.model, images, num_samples=3)
    return {
        "negative_elbo": scored.negative_elbo.mean().item(),
        "nll": scored.negative_log_marginal.mean().item(),
    }


@pytest.mark.parametrize("era", OLDER_NETWORKS + LOADED)
def test_a_missing_field_has_the_value_of_its_time(era):
    values = json.loads((GOLDEN / era / "config.json").read_text())
    run = Run(GOLDEN / era)
    config = run.config
    assert config.model is not None
    assert list(run.spec.shape) == values.pop("shape") == [1, 8, 8]
    read = {**to_dict(config.data), **to_dict(config.model), **to_dict(config.training)}
    recorded = {name: value for fields in values.values() for name, value in fields.items()}
    assert config.model.name == recorded.pop("family", "vae")
    for name, value in recorded.items():
        assert read.get(name, value) == value  # what had no effect is gone
    assert {"learning_rate", "data"} < recorded.keys() & read.keys()
    assert len(recorded.keys() & read.keys()) > len(recorded) / 2
    if config.model.name == "vae":
        assert read["path_derivative"] == (era in WITH_PATH_DERIVATIVE)
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
    config = Run(golden).config
    run = Path("run")
    train(run, config)
    assert scores(run) == pytest.approx(read_json(golden / "scores.json")["trained"], rel=0, abs=1e-3)
    shutil.copyfile(golden / "config.json", run / "config.json")
    config = Run(run).config
    train(run, replace(config, training=config.training.with_budget(steps=4)), resume=True)
    assert scores(run) == pytest.approx(read_json(golden / "scores.json")["resumed"], rel=0, abs=1e-3)
    # What is written says it all.
    values = read_json(run / "config.json")
    assert values["format"] == FORMAT
    if values["system"] == "vae":
        assert values["model"]["path_derivative"] == (era in WITH_PATH_DERIVATIVE)


def test_a_configuration_of_today_says_everything(run):
    values = read_json(run / "config.json")
    assert values == {**written(CONFIG, SPEC, "vae"), "shape": list(SPEC.shape)}
    assert values["format"] == FORMAT
    assert Run(run).config == CONFIG
    del values["model"]["path_derivative"]
    write_json(run / "config.json", values)
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "config.json", "model has no path_derivative")


@pytest.mark.parametrize("name", ["vae", "gan-mnist", "glo-mnist", "bayesian-gan-mnist", "semi-supervised"])
def test_networks_of_format_4_are_convolutional(name):
    config = preset(name)
    assert config.model is not None
    values = {**written(config, SPEC, config.model.name), "format": 4}
    values["model"].pop("networks", None)
    assert _described(upgraded(values)).config == config


def test_a_batch_of_format_5_is_not_divided():
    values = {**written(CONFIG, SPEC, "vae"), "format": 5}
    del values["training"]["gradient_accumulation"]
    assert _described(upgraded(values)).config == CONFIG


def test_runs_of_format_6_wait_for_validation_for_ever_and_use_all_images():
    config = CONFIG.revised(patience=0)
    values = {**written(config, SPEC, "vae"), "format": 6}
    del values["training"]["patience"], values["data"]["training_images"]
    assert _described(upgraded(values)).config == config


def test_runs_of_format_10_were_not_trained_on_validation_images():
    values = {**written(CONFIG, SPEC, "vae"), "format": 10}
    del values["data"]["train_on_validation"]
    assert _described(upgraded(values)).config == CONFIG


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("density-small", "causal_components"),
        ("pixelcnn", "causal_components"),
        ("pixelrnn-row", "components"),
        ("vae", None),
    ],
)
def test_causal_networks_of_format_6_had_binary_pixels(name, option):
    config = preset(name)
    assert config.model is not None
    values = {**written(config, SPEC, config.model.name), "format": 6}
    if option:
        del values["model"][option]
    assert _described(upgraded(values)).config == config


def test_bayesian_gans_of_format_7_ignored_the_information_of_classes():
    config = preset("bayesian-gan-few")
    assert config.model is not None
    values = {**written(config, SPEC, config.model.name), "format": 7}
    del values["model"]["information_weight"]
    assert _described(upgraded(values)).config.model.supervision.information_weight == 0  # type: ignore[union-attr]


def test_generators_of_format_8_share_a_batch():
    config = preset("bayesian-gan-mnist").revised(share_batch=False)
    assert config.model is not None
    values = {**written(config, SPEC, config.model.name), "format": 8}
    del values["model"]["share_batch"]
    assert _described(upgraded(values)).config.model.share_batch is True  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [1, 9])
def test_the_importance_weighted_bound_of_format_9_has_the_whole_gradient(number):
    config = CONFIG.revised(objective="importance-weighted", samples=3)
    values = {**written(config, SPEC, "vae"), "format": number}
    if number > 1:  # the options of format 1 may be there without effect
        del values["model"]["path_derivative"]
    assert _described(upgraded(values)).config == config.revised(path_derivative=False)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (FORMAT + 1, f"format is {FORMAT + 1}, and this flowvae reads up to {FORMAT}; install a newer one"),
        *((number, "expected a number") for number in (-1, True, 1.0, "1", None, [])),
    ],
)
def test_a_format_that_is_not_known_is_one_line(number: Any, said: str, run):
    write_json(run / "config.json", {**written(CONFIG, SPEC, "vae"), "format": number})
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "config.json", said)
