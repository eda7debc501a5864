"""The table of all systems from one command."""

import json

import numpy as np
import pytest
from command_line import flowvae, is_refusal, succeeds

from flowvae.models.registry import SYSTEMS, preset
from flowvae.systems import BINARY, GREY, ROWS


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Binary images of bright left or right halves."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    halves = random.integers(0, 2, (400, 1, 1)) == (np.arange(28) >= 14)
    images = (random.random((400, 28, 28)) < np.where(halves, 0.9, 0.1)).astype(np.uint8)
    np.savez("tiny.npz", train=images[:200], valid=images[200:300], test=images[300:])
    return "tiny.npz"


def test_there_is_a_row_for_every_system():
    assert {preset(row.preset).model.name for row in (BINARY | GREY).values()} == set(SYSTEMS)
    assert len(ROWS) == len(BINARY) + len(GREY)


def test_rows_without_a_meaning_and_data_that_cannot_be_compared_are_refused(data):
    np.savez("small.npz", images=np.zeros((20, 8, 8), np.uint8))
    is_refusal(flowvae("reproduce", "systems", "--data", "small.npz"), "28 x 28")
    is_refusal(flowvae("reproduce", "systems", "--rows", "vea"), "systems has no row 'vea'", "vae")
    is_refusal(flowvae("reproduce", "systems", "--seeds", 2), "one seed")


def test_systems_are_trained_on_data_that_they_accept(data, tmp_path):
    words = ["--data", data, "--epochs", 1, "--samples", 2, "--images", 5, "--rows", "vae", "--out", "out"]
    succeeds("reproduce", "systems", *words)
    (row,) = json.loads((tmp_path / "out/training/table.json").read_text())
    assert (row["dataset"], row["binarization"]) == ("tiny", "static")
