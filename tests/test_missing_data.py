"""Data of which pixels are missing: how they say so, and that masks stay with their pixels."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, flowvae, is_refusal, succeeds
from data_files import random_images, user_error, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.config import DataConfig
from flowvae.data import Dataset, Split, describe, load_dataset, training_batch
from flowvae.data.binarization import binarize
from flowvae.data.dataset import in_grey
from flowvae.data.hiding import hide_pixels
from flowvae.data.images import centred, decode_pages
from flowvae.data.load import load_configured
from flowvae.data.named import named_images
from flowvae.data.splits import hold_out, shuffled, split_at_random
from flowvae.errors import UserError
from flowvae.evaluation import score
from flowvae.evaluation.likelihood import at
from flowvae.forms import read_training
from flowvae.models import Inferring
from flowvae.models.registry import preset
from flowvae.parts import from_dict, to_dict
from flowvae.runs import Run
from flowvae.training.loop import _some_images, all_images

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
    (batch,) = all_images(dataset)
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


# Values that mark missing pixels, in arrays.


def with_holes(images: np.ndarray, value: Any, known: np.ndarray = KNOWN) -> np.ndarray:
    return np.where(known.reshape(known.shape + (1,) * (images.ndim - 3)), images, value)


def kept(dataset: Dataset) -> list[bytes]:
    """Pixels and masks of all images, sorted."""
    parts = [getattr(dataset, split) for split in SPLITS]
    assert all(aligned(part) for part in parts)
    return sorted(bytes(image.numpy()) for part in parts for image in part.images)


@pytest.mark.parametrize(
    ("images", "missing", "options"),
    [
        (with_holes(IMAGES / 255, np.nan), "nan", {}),
        (with_holes(IMAGES.astype(np.float32), np.nan), "nan", {}),
        (with_holes(IMAGES.astype(np.int16), -999), "-999", {}),
        (with_holes(IMAGES.astype(float), 1e6), "1e6", {}),
        (with_holes(IMAGES.astype(np.uint8), 0), "0", {}),
        (with_holes(IMAGES / 51 - 2, np.nan), "NaN", {"value_range": (-2.0, 3.0)}),
        (with_holes(IMAGES.astype(np.uint16) + 300, 7), "7", {"value_range": (300, 555)}),
        (with_holes(IMAGES / 255, np.nan).reshape(20, -1), "nan", {}),
    ],
)
@pytest.mark.parametrize("ending", [".npz", ".npy"])
def test_a_value_marks_missing_pixels(
    tmp_path: Path, images: np.ndarray, missing: str, options: dict[str, Any], ending: str
) -> None:
    path = tmp_path / f"set{ending}"
    np.savez(path, images=images) if ending == ".npz" else np.save(path, images)
    dataset = load_configured(DataConfig(str(path), "none", missing=missing, **options))
    assert not dataset.notes
    assert kept(dataset) == sorted(map(bytes, IMAGES * KNOWN))


@pytest.mark.parametrize(("missing", "value"), [("255,0,255", (255, 0, 255)), ("7", (7, 7, 7))])
@pytest.mark.parametrize("first", [True, False])
def test_a_colour_marks_missing_pixels(
    tmp_path: Path, missing: str, value: tuple[int, ...], first: bool
) -> None:
    colour = random_images(20, 6, 6, 3) // 2 * 2 + np.array([1, 1, 1], np.uint8)
    colour[:, 1, 1] = 255, 1, 255  # a channel differs
    colour[:, 2, 2] = 7, 7, 9
    images = with_holes(colour, np.array(value, np.uint8))
    path = saved(tmp_path / "set.npz", images=images.transpose(0, 3, 1, 2) if first else images)
    dataset = load_dataset(str(path), "none", missing=missing)
    expected = (colour * KNOWN[..., None]).transpose(0, 3, 1, 2)
    assert kept(dataset) == sorted(map(bytes, np.ascontiguousarray(expected)))


def test_nan_is_missing_in_its_own_channel(tmp_path: Path) -> None:
    colour = random_images(20, 6, 6, 3) | 1
    known = random_images(20, 6, 6, 3, high=2, seed=2).astype(bool)
    path = saved(tmp_path / "set.npz", images=np.where(known, colour / 255, np.nan))
    dataset = load_dataset(str(path), "none", missing="nan")
    assert kept(dataset) == sorted(map(bytes, np.ascontiguousarray((colour * known).transpose(0, 3, 1, 2))))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 0.123])
def test_values_of_pixels_that_are_not_observed_may_be_any(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "set.npz", images=with_holes(IMAGES / 255, value), observed=KNOWN)
    assert kept(load_dataset(str(path), "none")) == sorted(map(bytes, IMAGES * KNOWN))


def test_marks_are_missing_besides_what_is_not_observed(tmp_path: Path) -> None:
    images = IMAGES.copy()
    images[:, 5] = 255
    path = saved(tmp_path / "set.npz", images=images, observed=KNOWN)
    found = kept(load_dataset(str(path), "none", missing="255"))
    assert found == sorted(map(bytes, images * KNOWN * (images != 255)))


def test_nan_without_the_option_is_an_error_that_names_it(tmp_path: Path) -> None:
    message = user_error(saved(tmp_path / "set.npz", images=with_holes(IMAGES / 255, np.nan)))
    assert "array images in" in message
    assert "values that are NaN; give --missing nan if they mark missing pixels" in message


@pytest.mark.parametrize("missing", ["nan", "alpha", "300"])
def test_an_option_that_marks_nothing_has_a_note(tmp_path: Path, missing: str) -> None:
    dataset = load_dataset(str(saved(tmp_path / "set.npz", images=IMAGES)), "none", missing=missing)
    assert dataset.notes[0] == f"--missing {missing} marks no pixel"
    assert not masks(dataset)
    assert load_dataset("mnist", missing=missing).notes == (f"--missing {missing} marks no pixel",)


@pytest.mark.parametrize("missing", ["", "white", "1,2", "1,2,3,4", "inf", "nan,nan,nan", "#ff00ff"])
def test_marks_that_are_none(missing: str) -> None:
    with pytest.raises(UserError, match=r"missing is .*; give nan, alpha, a value such as 128, or a colour"):
        DataConfig(missing=missing)


def test_the_words_of_the_command_line() -> None:
    for words, missing, hide in (
        (["--missing", "nan", "--hide", "0.25"], "nan", 0.25),
        (["--missing", "-999"], "-999", None),
        (["--missing", "255,0,255", "--hide", "14x10"], "255,0,255", "14x10"),
    ):
        data = read_training(preset("vae"), words, "flowvae train vae").config.data
        assert (data.missing, data.hide) == (missing, hide)
        assert from_dict(DataConfig, json.loads(json.dumps(to_dict(data)))) == data


# Image files.


def transparent(image: np.ndarray, alpha: np.ndarray, mode: str = "RGBA") -> Image.Image:
    """A grey image [H, W] with an alpha channel [H, W]."""
    picture = Image.fromarray(image).convert("RGBA")
    picture.putalpha(Image.fromarray(alpha))
    if mode == "P":
        palette = Image.fromarray(np.where(alpha == 255, np.maximum(image, 1), 0)).convert("P")
        palette.putpalette([value for level in range(256) for value in (level,) * 3])
        palette.info["transparency"] = 0
        return palette
    return picture.convert(mode)


def files(
    folder: Path, images: np.ndarray, known: np.ndarray, ending: str = ".png", mode: str = "RGBA"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (image, mask) in enumerate(zip(images, known, strict=True)):
        picture = transparent(image, np.where(mask, 255, 0).astype(np.uint8), mode)
        options: dict[str, Any] = {"lossless": True, "exact": True} if ending == ".webp" else {}
        picture.save(folder / f"{number:02}{ending}", **options)
    return folder


@pytest.mark.parametrize(
    ("ending", "mode"),
    [(".png", "RGBA"), (".png", "LA"), (".png", "P"), (".webp", "RGBA"), (".tif", "RGBA"), (".gif", "P")],
)
def test_transparent_pixels_are_missing(tmp_path: Path, ending: str, mode: str) -> None:
    folder = files(tmp_path / "set", IMAGES, KNOWN, ending, mode)
    dataset = load_dataset(str(folder), "none", missing="alpha")
    parts = [getattr(dataset, split) for split in SPLITS]
    assert all(aligned(part) for part in parts)
    found = torch.cat([part.images[:, :1] for part in parts]).numpy()
    assert sorted(map(bytes, found)) == sorted(map(bytes, IMAGES * KNOWN))
    assert not masks(load_dataset(str(folder), "none"))  # on white, as without the option


def test_a_pixel_that_is_not_fully_opaque_is_missing(tmp_path: Path) -> None:
    alpha = np.full((6, 6), 255, np.uint8)
    alpha[0] = 0, 1, 127, 128, 254, 255
    transparent(IMAGES[0], alpha).save(tmp_path / "one.png")
    ((pixels, known),) = decode_pages(tmp_path / "one.png", 1, marker="alpha")
    assert known[0, 0].tolist() == [False] * 5 + [True]
    assert np.array_equal(pixels[0], IMAGES[0] * (alpha == 255))


def test_files_without_transparency_are_whole(tmp_path: Path) -> None:
    files(tmp_path / "set", IMAGES[:10], KNOWN[:10], mode="LA")
    for number, image in enumerate(IMAGES[10:]):
        Image.fromarray(image).save(tmp_path / "set" / f"whole{number}.png")
    dataset = load_dataset(str(tmp_path / "set"), "none", missing="alpha")
    expected = [*(IMAGES * KNOWN)[:10], *IMAGES[10:]]
    assert kept(dataset) == sorted(map(bytes, expected))


@given(
    seed=st.integers(0, 99),
    sides=st.sampled_from([(3, 3), (4, 6), (5, 9), (12, 12), (20, 7)]),
    channels=st.sampled_from([1, 3]),
    scaled=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_resized_pixel_is_known_if_no_missing_one_changes_it(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sides: tuple[int, int], channels: int, scaled: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    image, other = random_images(2, 10, 12, seed=seed)
    known = random_images(10, 12, high=8, seed=seed) > 0
    found = []
    for number, below in enumerate((image, other)):
        alpha = np.where(known, 255, 0).astype(np.uint8)
        transparent(np.where(known, image, below), alpha).save(folder / f"{number}.png")
        options = {"value_range": (0.0, 255.0)} if scaled else {}
        found += decode_pages(folder / f"{number}.png", channels, sides, marker="alpha", **options)
    (pixels, mask), (same, same_mask) = found
    assert pixels.shape == (channels, *sides)
    assert np.array_equal(pixels, same)
    assert np.array_equal(mask, same_mask)
    # An independent way: which outputs does any missing input reach?
    reached = np.zeros(sides, bool)
    for row, column in np.argwhere(~known):
        impulse = np.zeros((10, 12), np.float32)
        impulse[row, column] = 1e9
        box = centred(12, 10, sides)
        reached |= (
            np.asarray(Image.fromarray(impulse).resize((sides[1], sides[0]), Image.Resampling.BILINEAR, box))
            > 0
        )
    assert np.array_equal(mask[0], ~reached)


def test_masks_are_turned_upright_with_the_image(tmp_path: Path) -> None:
    image, alpha = IMAGES[0][:4], np.where(KNOWN[0][:4], 255, 0).astype(np.uint8)
    turned = transparent(image, alpha).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "one.png", exif=exif)
    ((pixels, known),) = decode_pages(tmp_path / "one.png", 1, marker="alpha")
    assert np.array_equal(known[0], KNOWN[0][:4])
    assert np.array_equal(pixels[0], image * KNOWN[0][:4])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_value_marks_missing_pixels_of_files(tmp_path: Path, channels: int) -> None:
    images = IMAGES if channels == 1 else random_images(20, 6, 6, 3) | 1
    value, missing = (100, "100") if channels == 1 else ((254, 0, 254), "254,0,254")
    write_images(tmp_path / "set", with_holes(images, np.array(value, np.uint8)))
    dataset = load_dataset(str(tmp_path / "set"), "none", missing=missing)
    expected = np.ascontiguousarray(np.moveaxis(with_holes(images, 0).reshape(20, 6, 6, channels), 3, 1))
    assert kept(dataset) == sorted(map(bytes, expected))


@pytest.mark.parametrize(
    ("dtype", "value", "missing", "ending"),
    [
        (np.uint16, 65535, "65535", ".png"),
        (np.float32, np.nan, "nan", ".tif"),
        (np.float32, -1, "-1", ".tif"),
    ],
)
def test_values_of_more_than_8_bits_mark_before_scaling(
    tmp_path: Path, dtype: Any, value: float, missing: str, ending: str
) -> None:
    images = with_holes(IMAGES.astype(dtype), dtype(value))
    write_images(tmp_path / "set", images, ending)
    dataset = load_dataset(str(tmp_path / "set"), "none", value_range=(0, 255), missing=missing)
    assert kept(dataset) == sorted(map(bytes, IMAGES * KNOWN))


def test_nan_in_a_tiff_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    write_images(tmp_path / "set", with_holes(IMAGES.astype(np.float32), np.float32("nan")), ".tif")
    with pytest.raises(UserError, match=r"00\.tif has values that are NaN; give --missing nan"):
        load_dataset(str(tmp_path / "set"), "none", value_range=(0, 255))


def test_a_file_of_which_nothing_is_known_is_named(tmp_path: Path) -> None:
    folder = files(tmp_path / "set", IMAGES, KNOWN & (np.arange(20) != 3)[:, None, None])
    with pytest.raises(UserError, match=r"03\.png has no known pixel; leave it out"):
        load_dataset(str(folder), "none", missing="alpha")


def test_pages_have_masks_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pages = [
        transparent(image, np.where(mask, 255, 0).astype(np.uint8))
        for image, mask in zip(IMAGES, KNOWN, strict=True)
    ]
    pages[0].save(tmp_path / "set" / "pages.tif", save_all=True, append_images=pages[1:])
    dataset = load_dataset(str(tmp_path / "set"), "none", missing="alpha", grey=True)
    assert kept(dataset) == sorted(map(bytes, IMAGES * KNOWN))


# Named images.


def test_named_images_have_masks(tmp_path: Path) -> None:
    folder = files(tmp_path / "set", IMAGES, KNOWN)
    config = DataConfig(str(folder), "none", missing="alpha")
    spec = DataSpec((1, 6, 6), 256)
    found = named_images([str(folder)], spec, config)
    assert found.batch.observed is not None
    assert np.array_equal(found.batch.observed[:, 0], KNOWN)
    assert torch.equal(found.batch.observed, found.images != 0)
    alone = named_images([str(folder / "07.png")], spec, config)
    assert alone.batch.observed is not None
    assert torch.equal(alone.batch.observed[0], found.batch.observed[7])
    assert torch.equal(alone.images[0], found.images[7])
    assert named_images([str(folder)], spec, DataConfig(binarization="none")).batch.observed is None


def test_named_images_of_several_sources(tmp_path: Path) -> None:
    """Those without a mask, or without labels, beside those that have them."""
    labels = np.arange(20) % 3
    path = saved(tmp_path / "set.npz", train=IMAGES, test=IMAGES, test_observed=KNOWN, test_labels=labels)
    whole = write_images(tmp_path / "files", IMAGES[:2])
    found = named_images([str(whole), str(path)], DataSpec((1, 6, 6), 256), DataConfig(binarization="none"))
    assert found.names[1:3] == ["0001.png", "test/0"]
    assert found.batch.index.tolist() == list(range(22))
    assert found.batch.labels is not None
    assert found.batch.labels.tolist() == [-1, -1, *labels]
    assert found.batch.observed is not None
    assert found.batch.observed[:2].all()
    assert np.array_equal(found.batch.observed[2:, 0], KNOWN)


# The command line.


def read_table(text: str) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in csv.DictReader(io.StringIO(text))}


def test_commands_use_the_known_pixels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with transparent pixels, an array of NaN: scores and codes are those given the mask."""
    monkeypatch.chdir(tmp_path)
    images, known = random_images(20, 8, 8, high=2, seed=3) * 255, random_images(20, 8, 8, high=2, seed=4) > 0
    files(tmp_path / "set", images, known)
    said = flowvae(
        *("train", "vae", *SMALL, "--data", "set", "--missing", "alpha", "--grey"),
        *("--steps", 2, "--track", "none", "--out", "run"),
    )
    assert said.code == 0, said.err
    assert f"{100 * (~known).mean():.2g}% of pixels missing" in said.err
    run = Run(Path("run"))
    assert run.spec.missing
    assert (run.config.data.missing, run.config.data.hide) == ("alpha", None)
    found = named_images(["set"], run.spec, run.config.data)
    assert found.batch.observed is not None
    scored = read_table(succeeds("score", "run", "set", "--samples", 3))
    given = run.model.given(found.batch)
    noise = torch.Generator().manual_seed(0)
    expected = score(run.model, found.images, 3, noise, **given)["nll"]
    assert [float(scored[name]["nll"]) for name in found.names] == pytest.approx(expected.tolist(), rel=1e-5)
    alone = read_table(succeeds("score", "run", "set/04.png", "--samples", 3))
    assert alone["set/04.png"]["nll"] == scored["04.png"]["nll"]

    succeeds("encode", "run", "set", "--out", "codes.npz")
    model = run.model
    assert isinstance(model, Inferring)
    with torch.no_grad():
        codes = model.center(found.images, **given)
    np.testing.assert_allclose(np.load("codes.npz")["codes"], codes, atol=1e-5)
    succeeds("evaluate", "run")
    measured = json.loads((Path("run") / "evaluation.json").read_text())
    known_of_test = run.dataset.test.observed
    assert known_of_test is not None
    assert measured["observed"] == pytest.approx(known_of_test.double().mean().item())
    succeeds("reconstruct", "run")
    with torch.no_grad():
        ends = at(given, slice(2)), at(given, slice(2, 4))
        path = model.path(found.images[:2], found.images[2:4], 3, ends)
    torch.testing.assert_close(path[:, 0], codes[:2])
    torch.testing.assert_close(path[:, -1], codes[2:4])
    succeeds("interpolate", "run", "--out", "paths.npz")
    paths = np.load("paths.npz")["images"]
    assert np.isfinite(paths).all()
    assert paths.std() > 0
