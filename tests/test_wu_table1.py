"""The table of decoders from one command: rows that are trained, annealed and kept."""

import json

import pytest
from command_line import flowvae, is_refusal, succeeds, write_images


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "grey.npz", levels=256)
    return "grey.npz"


def test_rows_are_trained_annealed_and_kept(data, tmp_path):
    words = ("reproduce", "wu-table1", "--data", data, "--epochs", 1, "--distributions", 20, "--images", 2)
    rows = ("--rows", "vae-10", "gan-10", "--out", "table")
    printed = succeeds(*words, *rows)
    assert printed == (tmp_path / "table/table.md").read_text()
    autoencoder, adversarial = json.loads((tmp_path / "table/table.json").read_text())
    for row, name, published in ((autoencoder, "vae-10", 705.4), (adversarial, "gan-10", 328.8)):
        assert (row["system"], row["published"], row["images"]) == (name, published, 2)
        assert row["standard_error"] > 0
        assert row["gap_standard_error"] > 0
        assert (row["chains"], row["distributions"], row["dequantize"]) == (16, 20, True)
        assert f"| {name} | {row['log_likelihood']:.1f} ±" in printed
    found = json.loads((tmp_path / "table/runs/vae-10/evaluation-ais.json").read_text())
    assert autoencoder["log_likelihood"] == -found["nll"]
    assert "variance" not in autoencoder, "it is an option of the model"
    assert adversarial["variance"] == 0.025
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "table").rglob("*-10*/*")}
    assert succeeds(*words, *rows) == printed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_options_and_rows_without_a_meaning_are_refused(data, tmp_path):
    for words, said in (
        (("--rows", "vae-5"), ("no row 'vae-5'", "vae-50")),
        (("--seeds", 2, "--samples", 5), ("remove --seeds, --samples",)),
        (("--draws", 2), ("only few-labels",)),
        (("--data", data, "--images", 31), ("--images 1 to 30",)),
        (("--data", data, "--distributions", 1), ("distributions is 1",)),
    ):
        is_refusal(flowvae("reproduce", "wu-table1", *words), *said)
    is_refusal(
        flowvae("reproduce", "table1", "--distributions", 9),
        "wu-table1 are measured by annealing",
        "--distributions",
    )
    assert not (tmp_path / "runs").exists()
