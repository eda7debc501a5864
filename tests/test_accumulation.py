"""Batches that pass in portions: the same training, with less memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from system_table import TABLE
from tiny_runs import configuration

from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.runs import read_metrics
from flowvae.training import train

SYSTEMS = (
    "vae-iaf-importance-weighted",
    "vae-causal",
    "pixelrnn",
    "realnvp",
    "gan",
    "bayesian-gan",
    "glo-realnvp",
)
"""rows of the table whose losses are means over a batch"""


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", SYSTEMS)
def test_portions_train_as_a_whole_batch(name, halves, tmp_path):
    """Three portions of 31 images, of several players in turn."""
    assert_portions_train_as_a_whole_batch(TABLE[name].config(halves, batch_size=31, steps=5), tmp_path)


@pytest.mark.usefixtures("float64")
def test_portions_may_have_none_of_the_images_that_are_made(halves, tmp_path):
    """Each of 9 generators makes one of the 9 images of a step, which the first portion has."""
    row = TABLE["bayesian-gan"]
    row = row._replace(options={**row.options, "generators": 9})
    assert_portions_train_as_a_whole_batch(row.config(halves, batch_size=9, steps=4), tmp_path)


def assert_portions_train_as_a_whole_batch(config: Config, tmp_path: Path) -> None:
    train(tmp_path / "one", config)
    train(tmp_path / "three", config.revised(gradient_accumulation=3))
    ours, theirs = read_metrics(tmp_path / "three"), read_metrics(tmp_path / "one")
    for mine, other in zip(ours, theirs, strict=True):
        for key in other.keys() - {"split", "seconds", "images_per_second"}:
            assert mine[key] == pytest.approx(other[key], rel=1e-9, abs=1e-9), (key, mine, other)


def test_more_portions_than_images_are_refused(halves, tmp_path):
    with pytest.raises(UserError, match="gradient_accumulation is 9, and a process has 8 images per step"):
        train(tmp_path / "run", configuration(halves, gradient_accumulation=9))
    assert not (tmp_path / "run").exists()


def test_statistics_of_a_whole_batch_are_refused(halves, tmp_path):
    """The model of the configuration has batch norm."""
    with pytest.raises(UserError, match="depends on all images of a batch at once"):
        train(tmp_path / "run", configuration(halves, gradient_accumulation=2))
    assert not (tmp_path / "run").exists()
