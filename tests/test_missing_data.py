"""Data of which pixels are missing: how they say so, and that masks stay with their pixels."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import flowvae, is_refusal
from data_files import random_images, user_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvae.config import DataConfig
from flowvae.data import Dataset, Split, describe, load_dataset, training_batch
from flowvae.data.binarization import binarize
from flowvae.data.dataset import in_grey
from flowvae.data.hiding import hide_pixels
from flowvae.data.load import load_configured
from flowvae.data.splits import hold_out, shuffled, split_at_random
from flowvae.errors import UserError
from flowvae.training.loop import _all_images, _some_images

SPLITS = ("train", "valid", "test")
IMAGES = random_images(20, 6, 6) | 1
"""no pixel is 0, so that 0 is a missing one"""
KNOWN = random_images(20, 6, 6, high=2, seed=1).astype(bool)
KNOWN[:, 0, 0] = True


def aligned(split: Split) -> bool:
    """Whether images of IMAGES, in any order, are 0 exactly where their mask says that they are missing."""
    assert split.observed is not None
    return split.observed.shape == split.images.shape and torch.equal(split.images != 0, split.observed)


def masks(dataset: Dataset) -> list[Tensor]:
    return [part for split in SPLITS if (part := getattr(dataset, split).observed) is not None]


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def whole(observed: np.ndarray = KNOWN) -> Split:
    images = torch.from_numpy(IMAGES * observed)[:, None]
    return Split(images, torch.arange(len(IMAGES)), torch.from_numpy(observed)[:, None])


# Transformations keep masks with their pixels.


@pytest.mark.parametrize(
    "parts",
    [
        lambda split: [split.take(torch.tensor([3, 1, 1]))],
        lambda split: [split.take(slice(2, 5))],
        lambda split: hold_out(Path("set"), split),
        lambda split: [shuffled(split)],
        lambda split: split_at_random(Path("set"), split),
    ],
)
def test_masks_move_with_their_images(parts: Callable[[Split], list[Split]]) -> None:
    split = whole()
    for part in parts(split):
        assert aligned(part)
        assert part.labels is not None
        assert torch.equal(part.images, split.images[part.labels])


def test_a_grey_pixel_is_known_if_all_its_channels_are() -> None:
    known = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    images = torch.from_numpy(random_images(5, 3, 4, 4) | 1)
    split = Split(images * known, observed=known)
    grey = in_grey(Dataset("set", "none", split, split, split)).train
    alone = in_grey(Dataset("set", "none", Split(images), Split(images), Split(images))).train
    assert grey.observed is not None
    assert torch.equal(grey.observed, known.all(1, keepdim=True))
    assert torch.equal(grey.images, alone.images * known.all(1, keepdim=True))


@pytest.mark.parametrize("binarization", ["static", "dynamic", "threshold", "none"])
def test_missing_pixels_stay_0_and_change_no_other(binarization: str) -> None:
    complete = Split(torch.from_numpy(IMAGES)[:, None], torch.arange(len(IMAGES)))
    holed, full = (
        binarize(Dataset("set", "none", split, split, split), binarization, 0)
        for split in (whole(), complete)
    )
    batches = [
        (training_batch(data, 20, 0, 0), data.batch("test", torch.arange(20))) for data in (holed, full)
    ]
    for batch, other in zip(*batches, strict=True):
        assert batch.observed is not None
        assert other.observed is None
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.images, other.images * batch.observed)
        assert np.array_equal(batch.observed[:, 0], KNOWN[batch.index])


def test_initial_images_have_the_mean_of_known_values_where_pixels_are_missing() -> None:
    split = whole()
    dataset = Dataset("set", "none", split, split, split)
    values = np.ma.array(IMAGES / 255, mask=~KNOWN)
    expected = torch.from_numpy(values.filled(values.mean(0).filled(0)))[:, None].float()
    (batch,) = _all_images(dataset)
    torch.testing.assert_close(batch.images, expected)
    assert batch.observed is not None
    assert np.array_equal(batch.observed[:, 0], KNOWN)
    some = _some_images(dataset, 0)
    torch.testing.assert_close(some.sum(0), expected.sum(0))


# Arrays named observed.


def image_forms(mask: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "bool": mask,
        "bytes": mask.astype(np.uint8),
        "floats": mask.astype(np.float32),
        "channel first": mask[:, None],
        "channel last": mask[..., None],
        "flat": mask.reshape(len(mask), -1),
    }


@pytest.mark.parametrize("form", image_forms(KNOWN))
def test_an_array_says_which_pixels_are_known(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "set.npz", images=IMAGES, observed=image_forms(KNOWN)[form])
    dataset = load_dataset(str(path), "none")
    assert not dataset.notes
    for split in SPLITS:
        assert aligned(getattr(dataset, split))
    assert sum(int((~mask).sum()) for mask in masks(dataset)) == (~KNOWN).sum()
    assert f", {100 * (~KNOWN).mean():.2g}% of pixels missing" in describe(dataset)


def test_a_packed_mask(tmp_path: Path) -> None:
    images = np.repeat(np.repeat(IMAGES, 7, 1), 7, 2)
    known = np.repeat(np.repeat(KNOWN, 7, 1), 7, 2)
    packed = np.packbits(known.reshape(20, -1), axis=1)
    dataset = load_dataset(str(saved(tmp_path / "set.npz", images=images, observed=packed)), "none")
    assert all(aligned(getattr(dataset, split)) for split in SPLITS)


def test_one_mask_is_that_of_all_channels_or_each_has_its_own(tmp_path: Path) -> None:
    colour = random_images(20, 6, 6, 3) | 1
    each = random_images(20, 6, 6, 3, high=2, seed=2).astype(bool) | KNOWN[..., None]
    for mask in (KNOWN, each):
        dataset = load_dataset(str(saved(tmp_path / "set.npz", images=colour, observed=mask)), "none")
        assert all(aligned(getattr(dataset, split)) for split in SPLITS)
        assert dataset.shape == (3, 6, 6)


def test_splits_have_masks_of_their_own_or_none(tmp_path: Path) -> None:
    arrays = {"train": IMAGES, "test_images": IMAGES, "train_observed": KNOWN, "ObservedTest": ~KNOWN | KNOWN}
    dataset = load_dataset(str(saved(tmp_path / "set.npz", **arrays)), "none")
    assert aligned(dataset.train)
    assert aligned(dataset.valid)
    assert dataset.test.observed is None


@pytest.mark.parametrize("name", ["images", "arr_0", "train"])
def test_a_mask_of_the_only_images(tmp_path: Path, name: str) -> None:
    mask = "train_observed" if name == "train" else "observed"
    dataset = load_dataset(str(saved(tmp_path / "set.npz", **{name: IMAGES, mask: KNOWN})), "none")
    assert all(aligned(getattr(dataset, split)) for split in SPLITS)


def test_a_mask_of_indexed_images(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(20)
    places = {"train_idx": order[:10], "valid_idx": order[10:15], "test_idx": order[15:]}
    path = saved(tmp_path / "set.npz", images=IMAGES, observed=KNOWN, **places)
    dataset = load_dataset(str(path), "none")
    for split in SPLITS:
        assert aligned(getattr(dataset, split))
        assert np.array_equal(getattr(dataset, split).observed[:, 0], KNOWN[places[f"{split}_idx"]])


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (KNOWN[:19], r"array observed in .* has shape \(19, 6, 6\), which does not fit the 20 images"),
        (KNOWN[:, :3], "does not fit"),
        (np.repeat(KNOWN[..., None], 3, -1), "does not fit"),
        (KNOWN * 255, "array observed in .* has values other than 0 and 1; save True"),
        (np.where(KNOWN, 1, np.nan), "values other than 0 and 1"),
        (np.where(KNOWN, 1, 0.5), "values other than 0 and 1"),
        (
            np.where(np.arange(20)[:, None, None] == 7, False, KNOWN),
            "no known pixel in image 7, counted from 0",
        ),
        (KNOWN.astype("U1"), "does not contain plain numbers"),
    ],
)
def test_masks_that_are_none(tmp_path: Path, mask: np.ndarray, reason: str) -> None:
    message = user_error(saved(tmp_path / "set.npz", images=IMAGES, observed=mask), "none")
    assert re.search(reason, message), message


# Hidden pixels.


@given(
    hide=st.sampled_from([0.01, 0.5, "0.9", "1x4", "3x2", "4X1"]),
    seed=st.integers(0, 5),
    counts=st.tuples(*[st.integers(1, 6)] * 3),
    channels=st.sampled_from([1, 3]),
)
@settings(max_examples=30, deadline=None)
def test_what_is_hidden_depends_on_the_place_of_an_image_only(
    hide: float | str, seed: int, counts: tuple[int, int, int], channels: int
) -> None:
    def hidden(images: np.ndarray, counts: tuple[int, int, int]) -> Dataset:
        train, valid, test = (Split(torch.from_numpy(images[:count])) for count in counts)
        return hide_pixels(Dataset("set", "none", train, valid, test), hide, seed)

    images = np.repeat(IMAGES[:, None], channels, 1)
    few, more = hidden(images, counts), hidden(images[::-1].copy(), (20, 20, 20))
    for split, count in zip(SPLITS, counts, strict=True):
        part, other = getattr(few, split), getattr(more, split)
        assert aligned(part)
        assert torch.equal(part.observed, other.observed[:count])
        assert torch.equal(part.observed.all(1), part.observed.any(1))


def test_the_share_of_hidden_pixels() -> None:
    split = Split(torch.ones(3000, 1, 10, 10, dtype=torch.uint8))
    train, valid, _ = masks(hide_pixels(Dataset("set", "none", split, split, split), 0.25, 0))
    assert (~train).double().mean() == pytest.approx(0.25, abs=0.005)
    assert (~train).double().mean((0, 1)) == pytest.approx(0.25 * torch.ones(10, 10), abs=0.05)
    assert (~train & ~valid).double().mean() == pytest.approx(0.25**2, abs=0.003)


def test_a_hidden_rectangle_is_whole_and_has_any_place() -> None:
    split = Split(torch.ones(3000, 1, 5, 4, dtype=torch.uint8))
    train, *_ = masks(hide_pixels(Dataset("set", "none", split, split, split), "3x2", 0))
    found = set()
    for mask in ~train[:, 0]:
        rows, columns = (torch.where(mask.any(axis))[0].tolist() for axis in (1, 0))
        assert int(mask.sum()) == 6
        assert (len(rows), len(columns)) == (3, 2)
        found.add((rows[0], columns[0]))
    assert found == {(row, column) for row in range(3) for column in range(3)}


def test_hidden_pixels_are_missing_besides_those_that_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "set.npz", images=IMAGES, observed=KNOWN)
    before, alone = (
        load_dataset(str(path), "none"),
        load_dataset(str(saved(tmp_path / "a.npz", images=IMAGES))),
    )
    after = load_configured(DataConfig(str(path), "none", hide=0.3))
    hidden = hide_pixels(alone, 0.3, 0)
    for one, other, both in zip(masks(before), masks(hidden), masks(after), strict=True):
        assert torch.equal(one & other, both)
        assert not torch.equal(one, both)


@pytest.mark.parametrize("hide", [0, 1, 1.0, -0.1, "nan", "a", "", "0x4", "4x", "2x2x2", "inf", "25%"])
def test_shares_and_rectangles_that_are_none(hide: float | str) -> None:
    with pytest.raises(UserError, match=r"hide is .*; give a probability between 0 and 1, or HEIGHTxWIDTH"):
        DataConfig(hide=hide)


@pytest.mark.parametrize("hide", ["6x6", "7x1", "1x7"])
def test_a_rectangle_is_smaller_than_the_images(tmp_path: Path, hide: str) -> None:
    path = saved(tmp_path / "set.npz", images=IMAGES)
    with pytest.raises(UserError, match="are 6 x 6; choose a smaller rectangle"):
        load_dataset(str(path), "none", hide=hide)


@pytest.mark.parametrize("options", [{"hide": 0.5}, {}])
def test_a_model_that_does_not_accept_missing_pixels_is_refused_before_training(
    tmp_path: Path, options: dict[str, float]
) -> None:
    mask = {} if options else {"observed": KNOWN}
    path = saved(tmp_path / "set.npz", images=IMAGES, **mask)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = flowvae("train", "glo-mnist", "--data", path, *words, "--steps", 1, "--out", tmp_path / "run")
    is_refusal(result, "pixels of set are missing", "choose an autoencoder such as vae")
    assert not (tmp_path / "run").exists()
