"""The table of compressed images from one command."""

import json
import math

import pytest
from command_line import NUM_TEST, flowvae, is_refusal, succeeds

pytest.importorskip("constriction")


def test_models_stand_beside_their_bounds_and_other_compressors(workspace):
    words = ["reproduce", "bits-back", "--rows", "flow", "plain", "--samples", 2, "--out", "table"]
    printed = succeeds(*words)
    rows = json.loads((workspace / "table/table.json").read_text())
    times = {path: path.stat().st_mtime_ns for path in (workspace / "table").glob("*-images.json")}
    models = [(row["system"], row["samples"]) for row in rows[:4]]
    assert models == [("flow", 1), ("flow", 2), ("plain", 1), ("plain", 2)]
    assert [row["system"] for row in rows[4:]] == ["png", "webp", "xz", "bz2"]
    assert (workspace / "table/table.md").read_text() == printed
    for row in rows:
        assert row["images"] == NUM_TEST
        assert row["images_per_second"] > 0
        assert row["images_per_second_back"] > 0
        assert row["bits_per_dim"] <= row["bits_per_dim_gross"]
    for row in rows[:4]:
        assert row["bits_per_dim"] == pytest.approx(row["bound_bits_per_dim"], rel=0.1)
        pays = row.get("images_until_weights_pay", math.inf)
        best = min(other["bits_per_dim"] for other in rows[4:])
        assert (pays - 2) * 64 * (best - row["bits_per_dim"]) < 8 * row["weights_bytes"]
    assert succeeds(*words) == printed
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_mistakes(workspace):
    is_refusal(flowvae("reproduce", "bits-back", "--rows", "flow", "--epochs", 3), "remove --epochs")
    is_refusal(flowvae("reproduce", "bits-back", "--rows", "no", "--out", "t"), "no is not a directory")
