"""Which images a model is trained on: the first ones, or those for validation as well."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, flowvae, write_images

from flowvae.config import DataConfig
from flowvae.data import load_configured, load_dataset
from flowvae.errors import UserError
from flowvae.runs import Run


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Grey images of uniform noise: 16 to train on."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    random = np.random.default_rng(0)
    counts = {"train": 16, "valid": 5, "test": 4}
    splits: dict[str, Any] = {
        name: random.integers(0, 256, (count, 8, 8), np.uint8) for name, count in counts.items()
    }
    np.savez(path, **splits)
    return path


def test_the_first_training_images(noise):
    every = load_configured(DataConfig(str(noise)))  # of a static draw, which is of all images
    some = load_configured(DataConfig(str(noise), training_images=5))
    assert torch.equal(some.train.images, every.train.images[:5])
    assert torch.equal(some.valid.images, every.valid.images)
    assert some.spec.training_images == 5
    other = load_configured(DataConfig("mnist", training_images=5), str(noise))
    assert len(other.train.images) == len(every.train.images), "images of another data set are not left out"


def test_more_training_images_than_there_are(noise):
    with pytest.raises(UserError, match="training_images is 17, and noise has 16; give at most as many"):
        load_configured(DataConfig(str(noise), training_images=17))
    with pytest.raises(UserError, match="training_images is 0"):
        DataConfig(training_images=0)


@pytest.mark.parametrize("binarization", ["static", "dynamic", "none"])
def test_validation_images_are_trained_on(noise, binarization):
    apart = load_dataset(noise, binarization)
    both = load_dataset(noise, binarization, train_on_validation=True)
    first, more = both.train.images.split([len(apart.train.images), len(apart.valid.images)])
    assert torch.equal(first, apart.train.images)
    expected = load_dataset(noise, "none" if binarization == "dynamic" else binarization).valid.images
    assert torch.equal(more, expected), "of dynamic batches, intensities are needed"
    assert torch.equal(both.valid.images, apart.valid.images)
    assert torch.equal(both.test.images, apart.test.images)
    assert both.spec.training_images == len(apart.train.images) + len(apart.valid.images)
    assert any("validation images are training images" in note for note in both.notes)
    other = load_configured(DataConfig("mnist", train_on_validation=True), str(noise))
    assert torch.equal(other.train.images, load_dataset(noise).train.images), "only those of the run's own"


def test_labels_and_missing_pixels_of_validation_images_that_are_trained_on(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    known = np.ones_like(images, dtype=bool)
    known[0, 0, 0, 0] = False
    path = tmp_path / "some.npz"
    np.savez(path, train=images, train_labels=np.arange(6), valid=images, observed_valid=known, test=images)
    both = load_dataset(path, "none", train_on_validation=True).train
    assert both.labels is not None
    assert both.labels.tolist() == [*range(6), *[-1] * 6]
    assert both.observed is not None
    assert (~both.observed).nonzero().tolist() == [[6, 0, 0, 0]]


def test_what_is_measured_with_validation_images_that_were_trained_on_has_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images.npz")
    words = [
        "--data",
        "images.npz",
        "--steps",
        2,
        "--track",
        "none",
        "--train-on-validation",
        "--out",
        "both",
    ]
    trained = flowvae("train", "vae", *SMALL, *words)
    assert "images: validation images are training images as well" in trained.err
    assert Run(Path("both")).spec.training_images == 48 + 20
    scored = ("evaluate", "both", "--samples", 2, "--images", 5)
    assert "both: it was trained on its validation images" in flowvae(*scored, "--split", "valid").err
    assert "trained on" not in flowvae(*scored).err


def test_the_first_training_images_and_all_validation_images(noise):
    apart = load_dataset(noise, "none")
    both = load_dataset(noise, "none", training_images=3, train_on_validation=True)
    assert torch.equal(both.train.images, torch.cat([apart.train.images[:3], apart.valid.images]))


def test_a_run_reads_the_images_that_it_was_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images.npz")
    write_images(tmp_path / "others.npz")
    options = ["--data", "images.npz", "--track", "none", "--training-images", 9, "--train-on-validation"]
    flowvae("train", "vae", *SMALL, *options, "--steps", 1, "--hide", 0.3, "--out", "run")
    run = Run(Path("run"))
    trained = load_configured(run.config.data).train
    assert len(trained.images) == run.spec.training_images == 9 + 20
    for data in (None, "images.npz"):
        assert torch.equal(run.read_dataset(data).train.images, trained.images)
        complete = run.read_dataset(data, complete=True).train
        assert complete.observed is None
        assert len(complete.images) == 29
    assert len(run.read_dataset("others.npz").train.images) == 48
