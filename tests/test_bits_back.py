"""The table of compressed images from one command."""

import json
import math
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import NUM_TEST, flowvae, is_refusal, succeeds

from flowvae import bits_back
from flowvae.tables import Variant

pytest.importorskip("constriction")
GENERAL = {"png", "webp", "xz", "bz2"}


@pytest.fixture(autouse=True)
def nothing_else_installed(monkeypatch):
    for name in ("oxipng", "pillow_jxl", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)


def test_models_stand_beside_their_bounds_and_other_compressors(workspace):
    words = ["reproduce", "bits-back", "--rows", "flow", "plain", "--samples", 2, "--out", "table"]
    printed = succeeds(*words)
    rows = json.loads((workspace / "table/table.json").read_text())
    times = {path: path.stat().st_mtime_ns for path in (workspace / "table").glob("*-images.json")}
    models = [row for row in rows if "weights_bytes" in row]
    of_models = {("flow", 1), ("flow", 2), ("plain", 1), ("plain", 2)}
    assert {(row["system"], row["samples"]) for row in models} == of_models
    others = [row for row in rows if row not in models]
    assert {row["system"] for row in others} == GENERAL
    assert (workspace / "table/table.md").read_text() == printed
    assert [row["bits_per_dim"] for row in rows] == sorted(row["bits_per_dim"] for row in rows)
    for row in rows:
        assert row["images"] == NUM_TEST
        assert row["images_per_second"] > 0
        assert row["images_per_second_back"] > 0
        assert row["bits_per_dim"] <= row["bits_per_dim_gross"]
    for row in models:
        assert row["bits_per_dim"] == pytest.approx(row["bound_bits_per_dim"], rel=0.1)
        pays = row.get("images_until_weights_pay", math.inf)
        best = min(other["bits_per_dim"] for other in others)
        assert (pays - 2) * 64 * (best - row["bits_per_dim"]) < 8 * row["weights_bytes"]
    assert succeeds(*words) == printed
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_rows_are_trained_and_stand_with_those_of_earlier_calls(workspace, monkeypatch):
    small = "--likelihood logistic-mixture --binarization none --features 8 --channels 4 --latent 3"
    monkeypatch.setitem(bits_back.TRAINED, "vae-grey", Variant("vae", small, data="mnist"))
    zstandard = SimpleNamespace(
        ZstdCompressor=lambda level: SimpleNamespace(
            compress=lambda content: zlib.compress(content, level // 2)
        ),
        ZstdDecompressor=lambda: zlib.decompressobj(),
    )
    monkeypatch.setitem(sys.modules, "zstandard", zstandard)
    succeeds("reproduce", "bits-back", "--rows", "plain", "--images", 3, "--out", "table")
    random = np.random.default_rng(0)
    train, valid, test = random.integers(0, 256, (3, 40, 8, 8), np.uint8)
    np.savez("grey.npz", train=train, valid=valid, test=test)
    words = ["--data", "grey.npz", "--epochs", 1, "--images", 3, "--out", "table"]
    succeeds("reproduce", "bits-back", "--rows", "vae-grey", *words)
    rows = json.loads((workspace / "table/table.json").read_text())
    assert [row["dataset"] for row in rows] == ["grey"] * 6 + ["images"] * 6
    assert {row["system"] for row in rows[:6]} == GENERAL | {"vae-grey", "zstd"}
    (trained,) = (row for row in rows if row["system"] == "vae-grey")
    assert trained["bits_per_dim"] == pytest.approx(trained["bound_bits_per_dim"], rel=0.02)
    assert (workspace / "table/training/runs/vae-grey-seed0/model.safetensors").exists()


def test_mistakes(workspace):
    is_refusal(flowvae("reproduce", "bits-back", "--rows", "flow", "--epochs", 3), "remove --minutes")
    is_refusal(flowvae("reproduce", "bits-back", "--rows", "flow", "--seeds", 3), "remove --seeds")
    is_refusal(flowvae("reproduce", "bits-back", "--rows", "no", "--out", "t"), "no is not a directory")


def test_the_results_page_has_the_sizes_that_were_measured():
    root = Path(__file__).parents[1]
    page = (root / "docs/results.md").read_text(encoding="utf-8")
    measured = json.loads((root / "results/bits-back/table1/table.json").read_text())
    rows = [row for row in measured if row.get("samples") == 1]
    assert len(rows) == 9
    for row in rows:
        name, seed = row["system"].split("-seed")
        begin = f"| `{name}` |" if seed == "0" else f"| `{name}`, seed {seed} |"
        (line,) = (line for line in page.splitlines() if line.startswith(begin) and line.count("|") > 10)
        nats = row["bits_per_dim"] * row["values"] * math.log(2)
        assert f"** | {nats:.2f} |" in line
