"""Inputs as people have them: what they become, and what the first line of a training says of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, flowvae
from data_files import random_images, user_error, write_images
from PIL import Image

from flowvae.data import Dataset, describe, load_dataset
from flowvae.data.images import decode
from flowvae.data.summary import noise_share
from flowvae.explorer import images as uploads

SPLITS = ("train", "valid", "test")


def sizes(dataset: Dataset) -> list[int]:
    return [len(getattr(dataset, split).images) for split in SPLITS]


def drawings(count: int, side: int = 8) -> np.ndarray:
    """Black and white, and no two equal."""
    return random_images(count, side, side, high=2) * 255


def everything(dataset: Dataset) -> list[bytes]:
    return sorted(bytes(image.numpy()) for split in SPLITS for image in getattr(dataset, split).images)


def trained(source: object, *options: object) -> list[str]:
    """What a training of two steps says, line by line, beside its progress."""
    result = flowvae("train", "vae", *SMALL, "--data", source, *options, "--steps", 2, "--track", "none")
    assert result.code == 0, result.err
    return [line for line in result.err.splitlines() if "━" not in line and "  validation  " not in line]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Folders


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAINING", "VALIDATION", "TESTING"),
    ],
)
def test_splits_by_any_usual_name_and_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    images = random_images(9, 8, 8)
    for name, few in zip(names, (images[:4], images[4:6], images[6:]), strict=True):
        write_images(tmp_path / "set" / name, few)
    dataset = load_dataset("set", "none")
    for split, few in zip(SPLITS, (images[:4], images[4:6], images[6:]), strict=True):
        assert np.array_equal(getattr(dataset, split).images[:, 0].numpy(), few)
    assert dataset.train.labels is None


def test_what_lies_beside_the_splits_is_named(tmp_path: Path) -> None:
    for name in ("train", "test", "extra", ".hidden"):
        write_images(tmp_path / "set" / name, drawings(4))
    Image.fromarray(drawings(1)[0]).save(tmp_path / "set" / "lost.png")
    assert load_dataset("set").notes == ("left out beside the splits: extra, lost.png",)


def test_train_alone_is_split_at_random(tmp_path: Path) -> None:
    """In folders further down: the first one is the class."""
    images = drawings(10)
    for number, image in enumerate(images):
        write_images(
            tmp_path / "set" / "train" / f"case{number // 5}" / f"day{number}" / "images", image[None]
        )
    dataset = load_dataset("set", "none")
    assert everything(dataset) == sorted(map(bytes, images))
    assert sizes(dataset) == [6, 2, 2]
    assert dataset.classes == ("case0", "case1")
    assert dataset.notes == ("there is no folder test: train is split at random",)


def test_classes_are_named_with_their_counts(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "images", drawings(10))
    write_images(tmp_path / "set" / "masks", drawings(7))
    first, *others = trained("set")
    assert first == (
        "set: 13 + 2 + 2 images (train + valid + test) of 8 x 8, grey, values 0 to 255, "
        "binarization static, 2 classes: images (10), masks (7)"
    )
    assert not others


def test_many_classes_are_counted(tmp_path: Path) -> None:
    for number in range(11):
        write_images(tmp_path / "set" / f"class{number}", drawings(1))
    assert describe(load_dataset("set")).endswith(", 11 classes")


@pytest.mark.parametrize(
    ("ending", "exact"), [(".tif", True), (".gif", True), (".png", True), (".webp", False)]
)
def test_every_page_is_an_image(tmp_path: Path, ending: str, exact: bool) -> None:
    pages = drawings(7, side=16)
    (tmp_path / "set").mkdir()
    first, *rest = map(Image.fromarray, pages)
    first.save(tmp_path / "set" / f"stack{ending}", save_all=True, append_images=rest)
    write_images(tmp_path / "set", drawings(2, side=16))
    dataset = load_dataset("set", "none")
    assert sum(sizes(dataset)) == 9
    assert dataset.notes[0] == f"stack{ending} has 7 pages or frames; each is an image"
    if exact:
        luma = torch.cat([getattr(dataset, split).images[:, 0] for split in SPLITS]).numpy()
        assert {bytes(page) for page in pages} <= set(map(bytes, luma))


@pytest.mark.parametrize("ending", [".tif", ".gif"])
def test_a_damaged_page_is_a_user_error(tmp_path: Path, ending: str) -> None:
    write_images(tmp_path / "set", drawings(5, side=16))
    first, *rest = map(Image.fromarray, random_images(7, 16, 16))
    path = tmp_path / "set" / f"stack{ending}"
    first.save(path, save_all=True, append_images=rest)
    path.write_bytes(path.read_bytes()[:-300])
    assert f"stack{ending} cannot be read as an image" in user_error("set")


# Transparency


def transparent(seed: int = 0) -> np.ndarray:
    """RGBA [H, W, 4] with noise behind alpha 0, and half of it half transparent."""
    pixels = random_images(8, 8, 4, seed=seed)
    pixels[..., 3] = np.repeat([0, 128, 255, 255], 2)
    return pixels


def on_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for seed in range(5):
        Image.fromarray(transparent(seed)).save(tmp_path / "set" / f"{seed}.png")
    dataset = load_dataset("set", "none")
    assert dataset.shape == (3, 8, 8)
    for split in SPLITS:
        for image in getattr(dataset, split).images:
            assert (image[:, :, :2] == 255).all()
    found = decode(tmp_path / "set" / "0.png", 3).transpose(1, 2, 0)
    np.testing.assert_allclose(found, on_white(transparent()), atol=1)


def test_transparency_goes_before_the_size_does(tmp_path: Path) -> None:
    """Colours behind alpha 0 would bleed into their neighbours."""
    red = np.zeros((8, 8, 4), np.uint8)
    red[..., 0] = 255
    red[::2, :, 3] = 255  # every other row; the rest is invisible blue
    red[1::2] = [0, 0, 255, 0]
    path = tmp_path / "stripes.png"
    Image.fromarray(red).save(path)
    assert np.abs(decode(path, 3, side=4).astype(int).reshape(3, -1).T - [255, 128, 128]).max() <= 64
    assert (decode(path, 3, side=4)[0] == 255).all()


@pytest.mark.parametrize("mode", ["LA", "PA", "P", "L", "1"])
def test_every_kind_of_transparency(tmp_path: Path, mode: str) -> None:
    """A key colour in the file's header, too."""
    grey = np.zeros((8, 8, 4), np.uint8)
    grey[:, 4:, 3] = 255  # invisible black on the left, black on the right
    image, path = Image.fromarray(grey), tmp_path / "image.png"
    if mode == "LA":
        image.convert("LA").save(path)
    elif mode == "PA":
        path = tmp_path / "image.gif"
        image.save(path)
    else:
        value = 1 if mode == "1" else 200
        key = Image.new(mode, (8, 8), value)
        key.paste(0, (4, 0, 8, 8))
        if mode == "P":
            key.putpalette([0, 0, 0] * 256)
        key.save(path, transparency=value)
    pixels = decode(path, 1)[0]
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == 0).all()


def test_an_upload_has_the_pixels_that_training_has(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(transparent()).save(path)
    uploaded = uploads.from_file(path, (3, 8, 8), 256)
    assert torch.equal((uploaded * 255).round().byte(), torch.from_numpy(decode(path, 3).copy()))


# What deserves a second look


def test_the_share_of_noise_is_that_of_drawn_pixels() -> None:
    """The law of total variance, against pixels that are drawn."""
    images = torch.from_numpy(random_images(4, 50, 50))
    drawn = torch.bernoulli((images / 255).expand(400, -1, -1, -1).contiguous()).double()
    within = drawn.var(0).mean()
    assert noise_share(images) == pytest.approx(float(within / drawn.var()), abs=0.02)
    assert noise_share(torch.zeros(3, dtype=torch.uint8)) == 0


def gradients(count: int = 10, largest: int = 255) -> np.ndarray:
    slope = np.linspace(0, largest, 16)
    return np.stack([np.add.outer(slope, np.roll(slope, shift)) / 2 for shift in range(count)]).astype(
        np.uint8
    )


@pytest.mark.parametrize("largest", [255, 60])
def test_photographs_are_not_binarized_silently(tmp_path: Path, largest: int) -> None:
    write_images(tmp_path / "set", gradients(largest=largest))
    assert "--binarization none --likelihood logistic-mixture" in load_dataset("set").notes[0]
    assert "--binarization none" in load_dataset("set", "dynamic").notes[0]
    assert not load_dataset("set", "none").notes
    assert not load_dataset("set", "threshold").notes
    assert "warning: set: " in trained("set")[1]


def test_drawings_are_binarized_without_a_word(tmp_path: Path) -> None:
    write_images(tmp_path / "set", drawings(9))
    assert not load_dataset("set").notes
    assert not load_dataset("mnist").notes


def test_omniglot_is_binarized_without_a_word(shared_data: Path) -> None:
    if not (shared_data / "omniglot_28.npz").exists():
        pytest.skip("no omniglot_28.npz")
    assert not load_dataset(str(shared_data / "omniglot_28.npz")).notes


@pytest.mark.parametrize(("largest", "odd"), [(16, True), (15, True), (100, True), (127, True), (77, False)])
def test_another_scale_than_0_to_255(tmp_path: Path, largest: int, odd: bool) -> None:
    images = random_images(20, 8, 8, high=largest + 1)
    images[0, 0, 0] = largest
    np.savez(tmp_path / "set.npz", images=images)
    notes = load_dataset("set.npz", "none").notes
    assert any(f"no pixel is larger than {largest}" in note for note in notes) == odd


def test_grey_stored_as_colour(tmp_path: Path) -> None:
    grey = np.repeat(random_images(9, 8, 8)[..., None], 3, 3)
    write_images(tmp_path / "set", grey)
    assert "--grey reads them as one" in load_dataset("set", "none").notes[0]
    grey[..., 0] = 255 - grey[..., 0]
    write_images(tmp_path / "colour", grey)
    assert not load_dataset("colour", "none").notes
