"""The table of missing pixels from one command: a model, every baseline, and what is kept."""

import json

import numpy as np
import pytest
from command_line import flowvae, is_refusal, succeeds

from flowvae.missing import BASELINES, _reported


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images of bright left or right halves: what is hidden follows from what is known."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    bright = random.integers(0, 2, (300, 1, 1)) == (np.arange(16) >= 8)
    digits = (np.broadcast_to(bright, (300, 16, 16))).astype(np.uint8)
    np.savez("tiny.npz", train=digits[:200], valid=digits[200:250], test=digits[250:])
    return "tiny.npz"


@pytest.mark.usefixtures("rows_in_this_process")
def test_models_and_baselines_fill_in(data, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    words = ["reproduce", "missing", "--data", data, "--epochs", 2, "--samples", 20, "--images", 20]
    quick = [name for name in BASELINES if name != "iterative-imputer"]
    words += ["--out", "table", "--rows", "vae-0.5", *quick]
    printed = succeeds(*words)
    rows = json.loads((tmp_path / "table/table.json").read_text())
    assert [(row["system"], row["mask"]) for row in rows[:2]] == [("vae", "0.5"), ("mean", "0.25")]
    model, errors = rows[0], {(row["system"], row["mask"]): row["error"] for row in rows}
    assert model["trained_on"] == "0.5"
    assert 1 <= model["effective_sample_size"] <= 20
    assert model["best_of_20"] <= model["best_of_5"] <= model["best_of_1"]
    assert model["complete_nll_standard_error"] > 0
    assert errors["nearest-neighbours", "0.5"] < 0.02
    assert 0.3 < errors["mean", "0.5"] < 0.7
    assert "denoising-network" in printed
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").glob("*-filling-*.json")}
    assert succeeds(*words) == printed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_probability_from_few_effective_samples_is_left_out():
    kept = {"asked": {}, "error": 0.1, "missing_nll": 9.0, "missing_nll_standard_error": 0.1}
    assert _reported(kept) == {"error": 0.1, "missing_nll": 9.0, "missing_nll_standard_error": 0.1}
    assert _reported({**kept, "effective_sample_size": 5.0})["missing_nll"] == 9.0
    assert _reported({**kept, "effective_sample_size": 4.9}) == {"error": 0.1, "effective_sample_size": 4.9}


@pytest.mark.slow
def test_regressions_of_pixels_on_each_other_fill_in(data, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    words = ["--data", data, "--images", 20, "--rows", "iterative-imputer", "--out", "table"]
    succeeds("reproduce", "missing", *words)
    errors = {row["mask"]: row["error"] for row in json.loads((tmp_path / "table/table.json").read_text())}
    assert errors["0.25"] < 0.02
    assert errors["0.5"] < 0.02


def test_options_and_rows_without_a_meaning_are_refused(data):
    np.savez("small.npz", images=np.zeros((20, 8, 8), np.uint8))
    is_refusal(flowvae("reproduce", "missing", "--data", "small.npz"), "choose a smaller rectangle")
    is_refusal(flowvae("reproduce", "missing", "--rows", "vae-0.75"), "missing has no row 'vae-0.75'")
    is_refusal(flowvae("reproduce", "missing", "--seeds", 2), "remove --seeds")
    is_refusal(flowvae("reproduce", "missing", "--draws", 2), "remove --draws")
