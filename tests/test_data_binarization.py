"""Static, dynamic, thresholded and 8-bit images: what each is, and that they are not mixed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import random_images, user_error

from flowvae.data import load_dataset, training_batch
from flowvae.errors import UserError

SPLITS = ("train", "valid", "test")


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    arrays = {split: random_images(30, 8, 8, seed=i) for i, split in enumerate(SPLITS)}
    np.savez(tmp_path / "grey.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return tmp_path / "grey.npz"


def test_static_is_one_draw_for_one_seed(grey: Path) -> None:
    one, same, other = (load_dataset(str(grey), "static", seed) for seed in (0, 0, 1))
    assert (one.binarization, one.levels, one.shape) == ("static", 2, (1, 8, 8))
    for split in SPLITS:
        images = getattr(one, split).images
        assert images.dtype == torch.uint8
        assert set(images.unique().tolist()) == {0, 1}
        assert torch.equal(images, getattr(same, split).images)
        assert not torch.equal(images, getattr(other, split).images)


def test_static_frequencies_are_the_intensities(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 4096).reshape(256, 64, 64)
    np.savez(tmp_path / "ramp.npz", train=ramp, valid=ramp, test=ramp)
    dataset = load_dataset(str(tmp_path / "ramp.npz"))
    expected = torch.arange(256) / 255
    standard_error = (expected * (1 - expected) / 4096).sqrt()
    for split in SPLITS:
        frequency = getattr(dataset, split).images.float().mean(dim=(1, 2, 3))
        assert torch.all((frequency - expected).abs() <= 5 * standard_error)
    # The splits hold equal intensities, and their draws have nothing to do with each other.
    assert not torch.equal(dataset.valid.images, dataset.test.images)
    assert not torch.equal(dataset.valid.images, dataset.train.images)


def test_dynamic_resamples_train_and_freezes_the_rest_as_static_does(grey: Path) -> None:
    dynamic, static = load_dataset(str(grey), "dynamic", 5), load_dataset(str(grey), "static", 5)
    intensities = load_dataset(str(grey), "none")
    assert (dynamic.binarization, dynamic.levels, dynamic.training_levels) == ("dynamic", 2, 256)
    assert static.training_levels == 2
    assert torch.equal(dynamic.train.images, intensities.train.images)
    assert torch.equal(dynamic.valid.images, static.valid.images)
    assert torch.equal(dynamic.test.images, static.test.images)
    epochs = [training_batch(dynamic, 30, 0, step).images.sum() for step in range(4)]
    assert len({total.item() for total in epochs}) > 1


def test_threshold(grey: Path) -> None:
    thresholded, intensities = load_dataset(str(grey), "threshold"), load_dataset(str(grey), "none")
    assert (thresholded.binarization, thresholded.levels) == ("threshold", 2)
    for split in SPLITS:
        images = getattr(thresholded, split).images
        assert images.dtype == torch.uint8
        assert torch.equal(images == 1, getattr(intensities, split).images >= 128)


def test_none_keeps_the_8_bit_values(grey: Path) -> None:
    dataset = load_dataset(str(grey), "none")
    assert (dataset.binarization, dataset.levels) == ("none", 256)
    with np.load(grey) as arrays:
        for split in SPLITS:
            assert np.array_equal(getattr(dataset, split).images[:, 0].numpy(), arrays[split])


@pytest.mark.parametrize("binarization", ["dynamic", "threshold", "none"])
def test_binary_images_are_static_and_nothing_else(tmp_path: Path, binarization: str) -> None:
    images = random_images(30, 8, 8, high=2)
    np.savez(tmp_path / "bits.npz", train=images, valid=images, test=images)
    message = user_error(tmp_path / "bits.npz", binarization)
    assert "bits is binary already" in message
    assert "choose static" in message
    dataset = load_dataset(str(tmp_path / "bits.npz"), "static", seed=9)
    assert (dataset.binarization, dataset.levels) == ("static", 2)
    assert np.array_equal(dataset.test.images[:, 0].numpy(), images)
    assert training_batch(dataset, 10, 0, 0).images.unique().tolist() == [0.0, 1.0]


def test_unknown_binarization(grey: Path) -> None:
    assert "did you mean static?" in user_error(grey, "statc")


def test_negative_seed(grey: Path) -> None:
    with pytest.raises(UserError, match="seed -1; give 0 or more"):
        load_dataset(str(grey), seed=-1)
