"""Laws of training batches: pure functions of (seed, step), whole epochs, one batch for all processes."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import numbered_dataset, random_images

from flowvae.batch import Batch, DataSpec
from flowvae.data import Dataset, Split, as_float, load_dataset, steps_per_epoch, training_batch
from flowvae.data.batches import _epoch_order
from flowvae.errors import UserError

BINARIZATIONS = ("none", "dynamic")


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_batches_do_not_depend_on_what_was_asked_before(binarization: str) -> None:
    dataset = numbered_dataset(20, binarization)
    forward = [training_batch(dataset, 6, 3, step) for step in range(12)]
    _epoch_order.cache_clear()
    backward = [training_batch(dataset, 6, 3, step) for step in reversed(range(12))]
    for one, other in zip(forward, reversed(backward), strict=True):
        assert one.images.dtype == torch.float32
        assert one.images.shape == (6, 1, 2, 2)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.index, other.index)


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_another_seed_gives_other_batches(binarization: str) -> None:
    dataset = numbered_dataset(200, binarization)
    batches = [training_batch(dataset, 100, seed, 0).images for seed in range(4)]
    assert not any(torch.equal(batches[i], batches[j]) for i in range(4) for j in range(i))


def test_order_is_numpys_permutation_for_seed_and_epoch() -> None:
    """The recipe, written out: it must not change from version to version, nor between machines."""
    dataset = numbered_dataset(20)
    for epoch in range(3):
        order = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(0, epoch))).permutation(20)
        batch = training_batch(dataset, 5, 7, 4 * epoch + 2)
        assert np.array_equal(np.rint(batch.images[:, 0, 0, 0].numpy() * 255), order[10:15])
        assert np.array_equal(batch.index.numpy(), order[10:15])


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_every_epoch_sees_every_image_once(batch_size: int) -> None:
    count = 50
    dataset = numbered_dataset(count)
    steps = steps_per_epoch(count, batch_size)
    orders = []
    for epoch in range(3):
        batches = [
            training_batch(dataset, batch_size, 0, epoch * steps + step).images for step in range(steps)
        ]
        seen = (torch.cat(batches)[:, 0, 0, 0] * 255).round().int().tolist()
        assert len(seen) == len(set(seen)) == count - count % batch_size
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("world_size", [2, 3, 5, 12])
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_processes_share_one_global_batch(binarization: str, world_size: int) -> None:
    dataset = numbered_dataset(40, binarization)
    for step in range(5):
        whole = training_batch(dataset, 12, 1, step)
        shares = [training_batch(dataset, 12, 1, step, rank, world_size) for rank in range(world_size)]
        assert max(len(share.images) for share in shares) == -(-12 // world_size)
        for rank, share in enumerate(shares):
            assert torch.equal(share.images, whole.images[rank::world_size])
            assert torch.equal(share.index, whole.index[rank::world_size])


def labelled(dataset: Dataset) -> Dataset:
    """With labels of seven classes, in turns."""
    splits = {
        name: Split(split.images, torch.arange(len(split.images)) % 7)
        for name in ("train", "valid", "test")
        for split in (getattr(dataset, name),)
    }
    return replace(dataset, **splits)


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_labels_and_places_go_with_their_images(binarization: str) -> None:
    dataset = labelled(numbered_dataset(40, binarization))
    for step in range(4):
        batch = training_batch(dataset, 12, 1, step, rank=1, world_size=2)
        assert batch.labels is not None
        assert torch.equal(batch.labels, batch.index % 7)
        assert batch.observed is None
        if binarization == "none":
            assert torch.equal((batch.images[:, 0, 0, 0] * 255).round().long(), batch.index)
    assert training_batch(numbered_dataset(40, binarization), 12, 1, 0).labels is None


def test_batches_of_a_split_are_the_images_at_their_places() -> None:
    dataset = labelled(numbered_dataset(40))
    places = torch.tensor([7, 3, 3, 39])
    batch = dataset.batch("train", places)
    assert torch.equal(batch.images, places.view(-1, 1, 1, 1).expand(-1, 1, 2, 2) / 255)
    assert torch.equal(batch.index, places)
    assert batch.labels is not None
    assert torch.equal(batch.labels, places % 7)
    assert dataset.batch("valid", places[:0]).images.shape == (0, 1, 2, 2)
    with pytest.raises(ValueError, match="there are 2 levels"):
        numbered_dataset(40, "dynamic").batch("train", places)


def test_parts_of_a_batch_are_all_of_it_in_order() -> None:
    images = torch.rand(5, 1, 2, 2)
    batch = Batch(images, torch.arange(5), torch.arange(5) % 2, images > 0.5)
    parts = list(batch.split(2))
    assert [len(part.images) for part in parts] == [2, 2, 1]
    for name, value in batch._asdict().items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), value)
    unlabelled = Batch(images, torch.arange(5))
    assert all(part.labels is part.observed is None for part in unlabelled.split(2))


def test_what_a_model_is_told_of_its_data() -> None:
    assert numbered_dataset(40).spec == DataSpec((1, 2, 2), 256, training_images=40, classes=0)
    assert labelled(numbered_dataset(40, "dynamic")).spec == DataSpec((1, 2, 2), 2, 40, classes=7)


def test_a_batch_of_fewer_images_than_processes() -> None:
    with pytest.raises(UserError, match="3 processes cannot share a batch of 2 images; start fewer"):
        training_batch(numbered_dataset(40), 2, 0, 0, rank=0, world_size=3)


def test_fewer_images_than_a_batch() -> None:
    dataset = numbered_dataset(5)
    for step in range(3):
        batch = training_batch(dataset, 128, 0, step).images
        assert sorted((batch[:, 0, 0, 0] * 255).round().int().tolist()) == list(range(5))


@pytest.mark.parametrize(
    ("count", "batch_size", "steps"), [(50_000, 128, 390), (128, 128, 1), (255, 128, 1), (3, 9, 1)]
)
def test_steps_per_epoch(count: int, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(count, batch_size) == steps


def test_batch_size_zero() -> None:
    with pytest.raises(UserError, match="batch size 0; give at least 1"):
        training_batch(numbered_dataset(5), 0, 0, 0)


def test_global_random_state_is_left_alone(tmp_path) -> None:
    np.savez(tmp_path / "set.npz", images=random_images(20, 4, 4))
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    dataset = load_dataset(str(tmp_path / "set.npz"), "dynamic")
    training_batch(dataset, 4, 0, 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))  # noqa: NPY002
    assert random.getstate() == python_state


def test_dynamic_noise_has_the_intensity_as_its_mean() -> None:
    """Each intensity 0 .. 255 within 5 standard errors of v / 255, with 0 and 255 exact."""
    images = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    dataset = Dataset("ramp", "dynamic", Split(images), Split(images), Split(images))
    steps = 40
    total = torch.zeros(256)
    for step in range(steps):
        batch = training_batch(dataset, 256, 0, step).images
        assert set(batch.unique().tolist()) == {0.0, 1.0}
        order = _epoch_order(256, 0, step)
        total[order] += batch.sum(dim=(1, 2, 3))
    draws = steps * 16 * 16
    expected = torch.arange(256) / 255
    standard_error = (expected * (1 - expected) / draws).sqrt()
    assert torch.all((total / draws - expected).abs() <= 5 * standard_error)


def test_dynamic_noise_is_independent_between_steps_and_pixels() -> None:
    images = torch.full((64, 1, 32, 32), 51, dtype=torch.uint8)  # p = 0.2
    dataset = Dataset("flat", "dynamic", Split(images), Split(images), Split(images))
    first, second = (training_batch(dataset, 32, 0, step).images for step in (0, 1))  # of one epoch
    standard_error = (0.04 * 0.96 / first.numel()) ** 0.5
    for one, other in ((first, second), (first[:, :, 1:], first[:, :, :-1]), (first[1:], first[:-1])):
        assert abs((one * other).mean().item() - 0.04) <= 5 * standard_error * 1.1  # shifted pairs are fewer


def test_as_float() -> None:
    assert as_float(torch.tensor([0, 1], dtype=torch.uint8), 2).tolist() == [0.0, 1.0]
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_float(values, 256), torch.arange(256.0) / 255)
    with pytest.raises(ValueError, match="pixel value 255 where there are 2 levels"):
        as_float(values, 2)
