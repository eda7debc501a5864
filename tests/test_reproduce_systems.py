"""The table of all systems from one command: every row on one ruler, kept, and a picture."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import flowvae, is_refusal, succeeds
from PIL import Image

from flowvae import systems
from flowvae.models.registry import SYSTEMS, preset
from flowvae.systems import BINARY, GREY, _in_bits


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Grey images of bright left or right halves."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    halves = random.integers(0, 2, (330, 1, 1)) == (np.arange(28) >= 14)
    images = np.where(halves, 200, 20) + random.integers(0, 50, (330, 28, 28))
    images = images.astype(np.uint8)
    np.savez("tiny.npz", train=images[:128], valid=images[128:228], test=images[228:])
    return "tiny.npz"


def test_there_is_a_row_of_every_system():
    models = [preset(row.preset).model for row in (BINARY | GREY).values()]
    assert {model.name for model in models if model is not None} == set(SYSTEMS)
    assert not BINARY.keys() & GREY.keys()


@pytest.mark.slow
def test_rows_are_measured_kept_and_drawn(data, monkeypatch):
    for name, few in {"CHAINS": 2, "SIMULATED": 2, "CHAINS_TO_CHOOSE": 2, "CHOSEN_ON": 2}.items():
        monkeypatch.setattr(systems, name, few)
    words = ["--data", data, "--epochs", 1, "--samples", 2, "--images", 6, "--out", "out"]
    words += ["--annealed", 2, "--distributions", 20, "--drawn", 100]
    printed = succeeds("reproduce", "systems", *words, "--rows", "vae", "pixelcnn", "gan-mnist")
    vae, pixelcnn, gan = json.loads(Path("out/table.json").read_text())
    assert [row["system"] for row in (vae, pixelcnn, gan)] == ["vae", "pixelcnn", "gan-mnist"]
    assert [row.get("likelihood") for row in (vae, pixelcnn, gan)] == ["bound", "exact", None]
    assert [row["pixels"] for row in (vae, pixelcnn, gan)] == ["binary", "binary", "8-bit"]
    for row in (vae, pixelcnn, gan):
        assert row["frechet_distance"] > row["frechet_distance_of_real"] > 0
        assert (row["compared"], row["dataset"]) == (100, "tiny")
        assert 0 < row["seconds_per_sample"] < 1
        assert row["minutes"] > 0
    assert vae["nll"] <= vae["negative_elbo"]
    assert (vae["images"], vae["annealed_images"], vae["distributions"]) == (6, 2, 20)
    assert {"annealed_nll", "annealed_difference", "gap"} <= vae.keys()
    assert pixelcnn.keys().isdisjoint({"negative_elbo", "annealed_nll", "gap"})
    assert gan.keys().isdisjoint({"negative_elbo", "nll", "annealed_difference"})
    assert "Binary pixels, tiny; nats per image:" in printed
    assert "8-bit pixels, tiny; bits per dimension:" in printed
    with Image.open("out/samples.png") as picture:
        assert picture.width > 12 * 28
    files = [path for name in ("quality.json", "evaluation-ais.json") for path in Path("out").rglob(name)]
    assert len(files) >= 4
    kept = {path: path.stat().st_mtime_ns for path in files}
    assert succeeds("reproduce", "systems", *words, "--rows", "pixelcnn", "vae").startswith("Binary pixels")
    assert {path: path.stat().st_mtime_ns for path in files} == kept


def test_a_density_of_pixels_becomes_the_probability_of_a_level():
    """A Gaussian of variance 0.02 around 0.5: the sum over levels that its density stands for is 1."""
    density = [math.exp(-((k / 255 - 0.5) ** 2) / 0.04) / math.sqrt(0.04 * math.pi) for k in range(256)]
    found = [_in_bits({"annealed_nll": -math.log(p), "variance": 0.02}, 1) for p in density]
    assert sum(2 ** -each["annealed_nll_bits_per_dim"] for each in found) == pytest.approx(1, abs=1e-3)
    assert _in_bits({"nll": 8 * math.log(2)}, 4)["nll_bits_per_dim"] == pytest.approx(2)


def test_what_cannot_be_measured_is_refused_before_training(data):
    np.savez("small.npz", images=np.zeros((20, 8, 8), np.uint8))
    is_refusal(flowvae("reproduce", "systems", "--data", "small.npz"), "28 x 28")
    is_refusal(flowvae("reproduce", "systems", "--rows", "vea"), "systems has no row 'vea'", "vae")
    is_refusal(flowvae("reproduce", "systems", "--seeds", 2), "remove --seeds")
    is_refusal(flowvae("reproduce", "systems", "--annealed", 501), "annealed is 501")
    is_refusal(flowvae("reproduce", "systems", "--drawn", 99), "drawn is 99")
    is_refusal(flowvae("reproduce", "table1", "--drawn", 100), "table1 would ignore --drawn")
