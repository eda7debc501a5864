"""Runs of causal models of 8-bit images: trained, scored, drawn, filled in and compressed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from command_line import flowvae, is_refusal, succeeds, write_images

from flowvae.models.causal_density import CausalDensity
from flowvae.runs import Run

NETWORK = ["--causal-channels", 6, "--causal-blocks", 1, "--causal-components", 2]
MAPS = ["--latent", 2, "--channels", 4, "--blocks", 1, "--prior-hidden", 4, "--prior-transformations", 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("colour")
    random = np.random.default_rng(0)
    level = random.integers(0, 200, (72, 1, 1, 3))
    pixels = (level + random.integers(0, 40, (72, 8, 8, 3))).astype(np.uint8)
    np.savez(folder / "colour.npz", train=pixels[:48], valid=pixels[48:68], test=pixels[68:])
    np.savez(folder / "one.npz", train=pixels[:2], test=pixels[68:69])
    write_images(folder / "binary.npz")
    for name, sizes in (("pixelcnn-cifar10", NETWORK), ("cifar10-causal", [*NETWORK, *MAPS])):
        words = ["--data", folder / "colour.npz", "--steps", 4, "--batch-size", 16, "--track", "none"]
        succeeds("train", name, *sizes, *words, "--out", folder / name)
    return folder


@pytest.fixture
def place(trained, monkeypatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def test_the_density_is_exact_in_bits_per_dimension(place):
    model = Run("pixelcnn-cifar10").model
    assert isinstance(model, CausalDensity)
    assert model.levels == 256
    succeeds("evaluate", "pixelcnn-cifar10", "--images", 4)
    scores = json.loads((place / "pixelcnn-cifar10" / "evaluation.json").read_text())
    assert scores["bits_per_dim"] == pytest.approx(scores["nll"] / math.log(2) / 192)
    assert scores["bits_per_dim"] < 8
    assert "samples" not in scores


def test_the_autoencoder_is_scored_by_a_bound(place):
    succeeds("evaluate", "cifar10-causal", "--images", 4, "--samples", 3)
    scores = json.loads((place / "cifar10-causal" / "evaluation.json").read_text())
    assert scores["nll"] <= scores["negative_elbo"]
    assert scores["bits_per_dim"] < 8


@pytest.mark.parametrize("run", ["pixelcnn-cifar10", "cifar10-causal"])
def test_images_are_drawn_scored_filled_in_and_compressed(run, place):
    succeeds("sample", run, "--images", 4)
    succeeds(
        "score", run, "colour.npz", "--out", f"{run}.csv", *(["--samples", 2] if "causal" in run else [])
    )
    succeeds("compress", run, "colour.npz", "--out", f"{run}.compressed")
    succeeds("decompress", f"{run}.compressed", "--out", f"{run}-again.npz")
    again = np.load(f"{run}-again.npz")["images"]
    images = np.load("colour.npz")["test"].transpose(0, 3, 1, 2)
    assert np.array_equal((again * 255).round(), images)
    few = ["--hide", "3x4", "--samples", 2, "--candidates", 4, "--out", f"{run}-filled.npz"]
    succeeds("impute", run, "one.npz", *few)
    assert np.load(f"{run}-filled.npz")["images"].shape == (2, 1, 3, 8, 8)


def test_binary_images_of_a_run_of_8_bits_are_refused(place):
    is_refusal(flowvae("evaluate", "pixelcnn-cifar10", "--data", "binary.npz"), "binary is binary already")
