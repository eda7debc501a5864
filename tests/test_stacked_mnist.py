"""Stacked MNIST: which digits are on which image."""

import pytest
import torch
from command_line import flowvae, is_refusal

from flowvae import load_dataset
from flowvae.data import Dataset, stacked_mnist


def hashes(images: torch.Tensor) -> list[int]:
    return [hash(image.tobytes()) for image in images.numpy()]


@pytest.fixture(scope="module")
def stacked() -> Dataset:
    return load_dataset("stacked-mnist", "none")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_channels_are_the_digits_of_the_split_in_other_orders(stacked, split):
    """Digits are told apart by a hash of their pixels; some of MNIST's are there twice."""
    digits, found = getattr(load_dataset("mnist", "none"), split), getattr(stacked, split)
    assert found.images.shape == (len(digits.images), 3, 28, 28)
    keys = hashes(digits.images[:, 0])
    spelled = [found.labels // 100, found.labels // 10 % 10, found.labels % 10]
    for channel in range(3):
        pairs = zip(hashes(found.images[:, channel]), spelled[channel].tolist(), strict=True)
        assert sorted(pairs) == sorted(zip(keys, digits.labels.tolist(), strict=True))
    assert hashes(found.images[:, 0]) != hashes(found.images[:, 1]) != keys


def test_digits_of_an_image_are_independent(stacked):
    labels = stacked.train.labels
    for one, other in ((100, 10), (100, 1), (10, 1)):
        equal = (labels // one % 10 == labels // other % 10).double().mean()
        assert equal == pytest.approx(0.1, abs=0.01)


def test_it_is_the_same_every_time(stacked):
    again = load_dataset("stacked-mnist", "none", seed=3)
    assert torch.equal(stacked.test.images, again.test.images)
    assert stacked.spec.shape == (3, 28, 28)
    assert stacked.spec.classes == 1000
    assert stacked.name == stacked_mnist.NAME


def test_its_name_takes_no_options_of_files(tmp_path):
    out = ("--out", tmp_path / "run", "--steps", 1)
    is_refusal(
        flowvae("train", "gan-mnist", "--data", "stacked-mnist", "--value-range", 0, 16, *out), "value-range"
    )
    is_refusal(flowvae("train", "gan-mnist", "--data", "stacked-mnst", *out), "did you mean stacked-mnist")
