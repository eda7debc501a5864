"""The table of decoders from one command: rows that are trained, annealed and kept."""

import json
from functools import partial
from typing import Any, NoReturn

import pytest
from command_line import contents, flowvae, is_refusal, succeeds, write_images

from flowvae import wu_table1


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images, and a gap that is measured on two simulated images instead of sixteen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wu_table1, "anneal_run", partial(wu_table1.anneal_run, num_simulated=2))
    write_images(tmp_path / "grey.npz", levels=256)
    return "grey.npz"


def test_rows_are_trained_annealed_and_kept(data, tmp_path):
    words = ("reproduce", "wu-table1", "--data", data, "--epochs", 1, "--distributions", 5, "--images", 2)
    rows = ("--rows", "vae-10", "gan-10", "--out", "table")
    printed = succeeds(*words, *rows)
    assert printed == (tmp_path / "table/table.md").read_text()
    autoencoder, adversarial = json.loads((tmp_path / "table/table.json").read_text())
    for row, name, published in ((autoencoder, "vae-10", 705.4), (adversarial, "gan-10", 328.8)):
        assert (row["system"], row["published"], row["images"]) == (name, published, 2)
        assert row["standard_error"] > 0
        assert row["gap_standard_error"] > 0
        assert (row["chains"], row["distributions"], row["dequantize"]) == (16, 5, True)
        assert f"| {name} | {row['log_likelihood']:.1f} ±" in printed
    found = json.loads((tmp_path / "table/runs/vae-10/evaluation-ais.json").read_text())
    assert autoencoder["log_likelihood"] == -found["nll"]
    assert "variance" not in autoencoder, "it is an option of the model"
    assert adversarial["variance"] == 0.025
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("*-10*/*")}
    assert succeeds(*words, *rows) == printed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_stopped_row_is_resumed_and_a_row_of_another_budget_is_refused(data, tmp_path, monkeypatch):
    words = ("reproduce", "wu-table1", "--data", data, "--distributions", 5, "--images", 2)
    words = (*words, "--rows", "gan-10", "--out", tmp_path / "table")
    with monkeypatch.context() as patch:
        patch.setattr(wu_table1, "anneal_run", stopped)
        result = flowvae(*words, "--epochs", 2)
    assert (result.code, result.out) == (130, "")
    assert not (tmp_path / "table" / "gan-10.json").exists()
    before = contents(tmp_path / "table")
    is_refusal(flowvae(*words, "--epochs", 1), "gan-10 has taken 2 steps", "another --out")
    assert contents(tmp_path / "table") == before
    succeeds(*words, "--epochs", 2)
    (row,) = json.loads((tmp_path / "table/table.json").read_text())
    after = contents(tmp_path / "table")
    assert row["training_steps"] == 2
    assert all(after[name] == before[name] for name in before)
    path = tmp_path / "table" / "gan-10.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "gap": None}))
    is_refusal(flowvae(*words, "--epochs", 2), "gan-10.json has no number gap", "remove it")
    path.write_text(json.dumps({**result, "variance": 0.5}))
    succeeds(*words, "--epochs", 2)
    assert json.loads(path.read_text()) == result, "it was measured with another variance"


def stopped(*given: Any) -> NoReturn:
    raise KeyboardInterrupt


def test_options_and_rows_without_a_meaning_are_refused(data, tmp_path):
    for words, said in (
        (("--rows", "vae-5"), ("no row 'vae-5'", "vae-50")),
        (("--seeds", 2, "--samples", 5), ("remove --seeds, --samples",)),
        (("--data", data, "--images", 31), ("--images 1 to 30",)),
        (("--data", data, "--distributions", 1), ("distributions is 1",)),
    ):
        is_refusal(flowvae("reproduce", "wu-table1", *words), *said)
    assert not (tmp_path / "runs").exists()
