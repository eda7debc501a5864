"""The table of few labels: the same labelled images for all rows, kept results, and its mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import flowvae, is_refusal, succeeds

import flowvae as package
from flowvae import few_labels, load_dataset
from flowvae.few_labels import Few
from flowvae.models import registry
from flowvae.models.class_and_code import SemiSupervised
from flowvae.models.registry import build_model, preset
from flowvae.runs import read_json
from flowvae.training.loop import all_images
from flowvae.training.seeding import seed_everything

ROWS = ("supervised", "logistic-regression", "nearest-neighbour", "label-spreading")


def test_rows_learn_from_the_same_images_as_a_run(halves):
    dataset = load_dataset(str(halves), "none")
    options = preset("semi-supervised").revised(labels_used=6, likelihood="logistic").model
    assert options is not None
    for draw in (0, 3):
        with torch.random.fork_rng():
            seed_everything(draw)
            model = build_model(options, dataset.spec)
            model.initialize_each(all_images(dataset))
        assert isinstance(model, SemiSupervised)
        known = model.known
        assert known is not None
        assert torch.equal(few_labels._drawn(dataset, 6, draw).index, known.index)


@pytest.mark.parametrize("name", ROWS)
def test_baselines_separate_what_is_easy_to_separate(name):
    """Classes 0 and 2 of three are known; the third has no probability."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    places = torch.arange(80) % 2
    images = 0.1 * torch.rand(80, 1, 8, 8)
    images[places == 1, :, :, :4] += 0.8
    few = Few(images[:4], 2 * places[:4], images[4:40], 3)
    found = few_labels.BASELINES[name](few, images[40:])
    assert found.shape == (40, 3)
    assert torch.equal(found.argmax(1), 2 * places[40:])
    torch.testing.assert_close(found.exp().sum(1), torch.ones(40))


def test_the_table_is_made_row_by_row_and_kept(halves, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    out = tmp_path / "table"
    small = ["--labels", 4, "--draws", 2, "--epochs", 1, "--data", halves, "--out", out]
    rows = ["--rows", "semi-supervised-stacked", "logistic-regression", "nearest-neighbour"]
    printed = succeeds("reproduce", "few-labels", *small, *rows)
    assert printed == (out / "table.md").read_text()
    stacked, logistic, nearest = read_json(out / "table.json")
    for row in (stacked, logistic, nearest):
        assert (row["labels"], row["draws"]) == (4, 2)
        assert 0 <= row["error"] <= 1
        assert row["error_standard_deviation"] >= 0
        assert 0 <= row["calibration_error"] <= 1
        assert row["minutes"] >= 0
    assert stacked["system"] == "semi-supervised-stacked"
    assert stacked["steps"] >= 1
    assert logistic["error"] < 0.1
    assert "class_nll" in logistic
    assert ("class_nll" in nearest) == (nearest["error"] == 0), "a wrong class has the probability 0"
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*draw*.json")}
    assert len(kept) == 6
    succeeds("reproduce", "few-labels", *small, *rows)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*draw*.json")} == kept


def test_an_adversarial_row_sees_grey_images(halves, tmp_path, monkeypatch):
    small = {"features": 8, "channels": 4, "generators": 2, "burn_in": 2, "thinning": 2, "batch_size": 32}
    monkeypatch.setitem(registry.PRESETS, "bayesian-gan-few", preset("bayesian-gan-few").revised(**small))
    few = ["few-labels", "--data", halves, "--labels", 4, "--draws", 1, "--out", tmp_path / "table"]
    succeeds("reproduce", *few, "--rows", "bayesian-gan-few", "--epochs", 1)
    (row,) = read_json(tmp_path / "table" / "table.json")
    run = package.load(tmp_path / "table" / "runs" / "bayesian-gan-few-4-draw0")
    grey = load_dataset(str(halves), "none")
    scores = package.evaluate(run, grey)
    assert row["error"] == pytest.approx(scores["class_error"])
    assert row["class_nll"] == pytest.approx(scores["class_nll"], rel=1e-4)
    assert row["steps"] == 5


def test_mistakes_are_one_line(halves, tmp_path):
    def reproduce(*words: object):
        return flowvae("reproduce", *words, "--out", tmp_path / "table")

    few = ("few-labels", "--data", halves)
    is_refusal(reproduce("table1", "--labels", 100), "table1 would ignore", "remove --labels")
    is_refusal(reproduce(*few, "--rows", "supervize"), "no row", "supervised")
    is_refusal(reproduce(*few, "--labels", 1000), "500 of each class")
    is_refusal(reproduce(*few, "--labels", 0), "labels_used is 0")
    is_refusal(reproduce(*few, "--draws", 0), "draws is 0")
    is_refusal(reproduce(*few, "--labels", 4, "--epochs", 1, "--rows", "bayesian-gan-few"), "2500 steps")
    arrays = {name: value for name, value in np.load(halves).items() if name != "test_labels"}
    np.savez(tmp_path / "unlabelled.npz", **arrays)
    is_refusal(reproduce("few-labels", "--data", tmp_path / "unlabelled.npz"), "test images", "no labels")
    assert not Path(tmp_path / "table").exists()
