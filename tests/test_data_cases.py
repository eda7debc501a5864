"""Inputs as people have them: what they become, and what the first line of a training says of them."""

import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, flowvae, is_refusal, succeeds
from data_files import random_images, user_error, write_images
from PIL import Image

from flowvae.config import DataConfig
from flowvae.data import Dataset, describe, load_dataset
from flowvae.data.images import decode
from flowvae.data.summary import noise_share
from flowvae.errors import UserError
from flowvae.explorer import images as uploads
from flowvae.runs import Run

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
    assert dataset.notes == ("there is no directory test; train is split at random",)


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


@pytest.mark.parametrize("form", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw", "gif"])
def test_many_pages_are_read(tmp_path: Path, form: str) -> None:
    """Whether Pillow reads much or little beyond the page that it decodes."""
    pages = drawings(40, side=64)
    (tmp_path / "set").mkdir()
    first, *rest = map(Image.fromarray, pages)
    if form == "gif":
        first.save(tmp_path / "set" / "stack.gif", save_all=True, append_images=rest)
    else:
        first.save(tmp_path / "set" / "stack.tif", save_all=True, append_images=rest, compression=form)
    dataset = load_dataset("set", "none", grey=True)
    assert everything(dataset) == sorted(map(bytes, pages))
    (path,) = (tmp_path / "set").iterdir()
    with path.open("rb") as file:
        assert (decode(file, 1)[0] == pages[0]).all()


@pytest.mark.parametrize("with_exif", [False, True])
def test_a_photograph_that_contains_others_is_one_image(tmp_path: Path, with_exif: bool) -> None:
    """Cameras put a small picture behind the large one."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    options = {"exif": exif} if with_exif else {}
    (tmp_path / "set").mkdir()
    for number, image in enumerate(map(Image.fromarray, random_images(5, 16, 24, 3))):
        path = tmp_path / "set" / f"{number}.jpg"
        image.save(path, format="MPO", save_all=True, append_images=[image.resize((12, 8))], **options)
        with Image.open(path) as opened:
            assert opened.format == "MPO"
    dataset = load_dataset("set", "none")
    assert dataset.shape == (3, 16, 24)
    assert sum(sizes(dataset)) == 5
    assert not dataset.notes


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


# Arrays


def saved(**arrays: object) -> str:
    np.savez("set.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return "set.npz"


IMAGES = random_images(12, 8, 8)


@pytest.mark.parametrize(
    "key", ["arr_0", "imgs", "image", "X", "data", "pictures", "Train", "training_images", "whatever_9"]
)
def test_the_one_array_that_can_be_images_is_taken(key: str) -> None:
    dataset = load_dataset(
        saved(**{key: IMAGES, "ids": np.arange(12), "names": np.array(["a"] * 12)}), "none"
    )
    assert everything(dataset) == sorted(map(bytes, IMAGES))
    assert dataset.notes == ("left out: array ids, names",)


@pytest.mark.parametrize(
    "pattern",
    ["{}", "x_{}", "X_{}", "{}_images", "{}_x", "{}X", "{}_data", "images_{}", "{}-imgs", "{}Images"],
)
@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "Validation", "Testing")])
def test_splits_of_arrays_by_any_usual_name(pattern: str, names: tuple[str, str, str]) -> None:
    parts = {pattern.format(name): part for name, part in zip(names, np.split(IMAGES, 3), strict=True)}
    labels = {f"{name}_labels": np.arange(4) for name in names}
    dataset = load_dataset(saved(**parts, **labels), "none")
    for split, part in zip(SPLITS, np.split(IMAGES, 3), strict=True):
        assert np.array_equal(getattr(dataset, split).images[:, 0].numpy(), part)
        assert getattr(dataset, split).labels.tolist() == [0, 1, 2, 3]
    assert not dataset.notes


def test_of_two_names_for_one_split_the_shorter_is_taken() -> None:
    dataset = load_dataset(saved(train=IMAGES, test=IMAGES, train_images=IMAGES[::-1]), "none")
    assert np.array_equal(torch.cat([dataset.train.images, dataset.valid.images])[:, 0].numpy(), IMAGES)
    assert dataset.notes == ("left out: array train_images",)


def test_images_in_an_npy_file() -> None:
    np.save("set.npy", IMAGES)
    assert everything(load_dataset("set.npy", "none")) == sorted(map(bytes, IMAGES))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00\xff\xffx"])
def test_damaged_npy(content: bytes) -> None:
    Path("set.npy").write_bytes(content)
    assert "set.npy cannot be read as an .npy file" in user_error("set.npy")


def test_npy_that_is_cut_off_or_of_objects() -> None:
    np.save("set.npy", IMAGES)
    Path("set.npy").write_bytes(Path("set.npy").read_bytes()[:-1])
    assert "is not as long as its header says" in user_error("set.npy")
    np.save("set.npy", np.array([None, 1]), allow_pickle=True)
    assert "contains Python objects" in user_error("set.npy")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", ">f4", "i2", "i8", ">u2"])
@pytest.mark.parametrize("factor", [1, 255])
def test_types_that_lose_nothing(dtype: str, factor: int) -> None:
    """Every level comes back, also k / 255."""
    levels = np.arange(256).reshape(4, 8, 8)
    if np.dtype(dtype).kind != "f" and factor == 255:
        pytest.skip("whole numbers have no fractions")
    np.save("set.npy", (levels / factor).astype(dtype))
    assert everything(load_dataset("set.npy", "none")) == sorted(map(bytes, levels.astype(np.uint8)))


def test_all_splits_are_read_by_one_rule() -> None:
    """A split of black and white alone means what the others mean."""
    white = np.ones((6, 8, 8))
    dataset = load_dataset(saved(train=IMAGES / 255, test=white), "none")
    assert (dataset.test.images == 255).all()
    assert (load_dataset(saved(train=white, test=white)).test.images == 1).all()


@pytest.mark.parametrize("scale", [(0, 16), (-1, 1), (0, 65535), (0.0, 0.5), (-7.5, 3)])
def test_a_stated_range_is_scaled_to_8_bits(scale: tuple[float, float]) -> None:
    low, high = scale
    values = np.random.default_rng(0).uniform(low, high, (12, 8, 8))
    values[0, 0, :2] = scale
    dataset = load_dataset(saved(images=values), "none", value_range=scale)
    expected = np.rint(255 * (values - low) / (high - low)).astype(np.uint8)
    assert everything(dataset) == sorted(map(bytes, expected))
    with pytest.raises(UserError, match=r"has the value .*; --value-range .* must contain all values"):
        load_dataset(saved(images=values), value_range=(low, (low + high) / 2))


@pytest.mark.parametrize("scale", [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf"))])
def test_ranges_that_are_none(scale: tuple[float, float]) -> None:
    for make in (DataConfig, lambda **options: load_dataset("mnist", **options)):
        with pytest.raises(UserError, match="give the darkest value, then the brightest"):
            make(value_range=scale)


def test_ranges_of_sets_whose_range_is_known() -> None:
    with pytest.raises(UserError, match="leave --value-range out"):
        load_dataset("mnist", value_range=(0, 16))


def test_an_unknown_label_is_no_class() -> None:
    labels = np.array([-1, 2, 0, -1] * 3)
    dataset = load_dataset(saved(images=IMAGES, labels=labels), "none")
    assert dataset.spec.classes == 3
    assert describe(dataset).endswith(", 2 classes, 6 images without a label")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.arange(12.0), range(12)),
        (np.arange(12)[:, None], range(12)),
        (np.eye(12)[::-1], reversed(range(12))),
        (np.eye(12, dtype=bool), range(12)),
        (np.arange(12) > 5, [0] * 6 + [1] * 6),
    ],
)
def test_labels_of_other_forms(labels: np.ndarray, classes: Iterable[int]) -> None:
    indices = {f"{split}_idx": np.arange(12) for split in SPLITS}
    dataset = load_dataset(saved(images=IMAGES, labels=labels, **indices), "none")
    assert dataset.train.labels is not None
    assert dataset.train.labels.tolist() == list(classes)
    assert not dataset.notes


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((12, 14)),
        np.eye(12) + np.eye(12)[::-1],
        np.arange(12) / 2,
        np.full(12, np.nan),
        np.array(3),
        np.array(list("abcdefghijkl")),
        np.array(["a", 1], object),
        np.zeros((12, 2, 2)),
    ],
)
def test_labels_that_are_no_classes_are_left_out_with_a_line(labels: np.ndarray) -> None:
    source = saved(train=IMAGES, test=IMAGES, train_labels=labels, test_labels=np.arange(12))
    dataset = load_dataset(source, "none")
    assert dataset.train.labels is None
    assert dataset.test.labels is None
    assert dataset.notes == (
        "left out: labels in array train_labels, as classes are one whole number per image",
    )


# More than 8 bits


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("size", [None, "4x6"])
def test_16_bits_are_scaled_by_a_stated_range(tmp_path: Path, ending: str, size: str | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 201, (9, 8, 12)).astype(np.uint16)
    write_images(tmp_path / "set", pixels, ending)
    assert f"values up to {pixels[0].max()}); convert it to 8 bits, or" in user_error("set")
    dataset = load_dataset("set", "none", image_size=size, value_range=(0, 200))
    scaled = [Image.fromarray((image * 255.0 / 200).astype(np.float32)) for image in pixels]
    if size is not None:
        scaled = [image.resize((6, 4), Image.Resampling.BILINEAR) for image in scaled]
    expected = (np.rint(np.asarray(image)).astype(np.uint8) for image in scaled)
    assert everything(dataset) == sorted(map(bytes, expected))


def test_8_bits_are_scaled_by_a_stated_range_too(tmp_path: Path) -> None:
    pixels = random_images(9, 8, 8, 3, high=101)
    write_images(tmp_path / "set", pixels)
    dataset = load_dataset("set", "none", value_range=(0, 100))
    assert everything(dataset) == sorted(
        bytes(np.rint(image.transpose(2, 0, 1) * 255.0 / 100).astype(np.uint8)) for image in pixels
    )


def test_floats_of_a_tiff(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (9, 8, 8)).astype(np.float32)
    write_images(tmp_path / "set", pixels, ".tif")
    dataset = load_dataset("set", "none", value_range=(-1, 1))
    assert everything(dataset) == sorted(
        map(bytes, np.rint((pixels.astype(float) + 1) * 127.5).astype(np.uint8))
    )


def deep_colour(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, uint16 [H, W, 3]: Pillow writes none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("largest", [255, 1023, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_deep_colour_of_a_ppm_is_not_cut_silently(tmp_path: Path, largest: int, plain: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, largest + 1, (12, 4, 6, 3))
    (tmp_path / "set").mkdir()
    for number, image in enumerate(pixels):
        binary = image.astype(">u2" if largest > 255 else "u1").tobytes()
        content = " ".join(map(str, image.ravel())).encode() if plain else binary
        head = f"P{3 if plain else 6}\n6 4\n{largest}\n".encode()
        (tmp_path / "set" / f"{number:02}.ppm").write_bytes(head + content)
    if largest > 255:
        hint = f"of which only the upper 8 can be read; give --value-range 0 {largest} to read them"
        assert hint in user_error("set", "none")
        with pytest.raises(UserError, match=f"give --value-range 0 {largest} "):
            load_dataset("set", "none", value_range=(0, 4095))
    dataset = load_dataset("set", "none", value_range=(0, largest) if largest > 255 else None)
    found = np.array([np.frombuffer(image, np.uint8) for image in everything(dataset)], int)
    expected = np.array(sorted((pixels * 255 / largest).transpose(0, 3, 1, 2).reshape(12, -1).tolist()))
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_16_bits_in_colour_are_not_cut_silently(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 8, 8, 3)).astype(np.uint16)
    for number, image in enumerate(pixels):
        (tmp_path / "set" / f"{number}.png").write_bytes(deep_colour(image))
    assert "has 16 bits per channel" in user_error("set")
    dataset = load_dataset("set", "none", value_range=(0, 65535))
    assert everything(dataset) == sorted(
        bytes((image.transpose(2, 0, 1) >> 8).astype(np.uint8)) for image in pixels
    )


# Sizes


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (8, 8)), ("8", (8, 8)), ("8x12", (8, 12)), ("12X8", (12, 8))]
)
def test_images_are_resized_to_any_sides(tmp_path: Path, size: int | str, shape: tuple[int, int]) -> None:
    """The middle, in the proportions that are asked for: a picture of two halves stays one."""
    halves = np.zeros((9, 30, 45), np.uint8)
    halves[:, 15:] = 255
    write_images(tmp_path / "set", halves)
    dataset = load_dataset("set", "none", image_size=size)
    assert dataset.shape == (1, *shape)
    image = dataset.train.images[0, 0]
    assert (image[: shape[0] // 2 - 1] == 0).all()
    assert (image[shape[0] // 2 + 1 :] == 255).all()


@pytest.mark.parametrize("size", ["", "x", "8x", "8x8x8", "8.5", "eight", "0x8", "8x0", "-8", "8 x 8", "٨x٨"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(UserError, match="image_size is"):
        DataConfig(image_size=size)
    with pytest.raises(UserError, match="image_size is"):
        load_dataset("mnist", image_size=size)


def test_images_train_as_they_are_or_resized(tmp_path: Path) -> None:
    write_images(tmp_path / "set", np.repeat(np.repeat(drawings(9, 15), 2, 1), 3, 2))
    assert "images (train + valid + test) of 30 x 45, grey" in trained("set")[0]
    assert (
        "images (train + valid + test) of 32 x 44, grey"
        in trained("set", "--image-size", "32x44", "--out", "resized")[0]
    )


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
    notes = load_dataset(str(shared_data / "omniglot_28.npz")).notes
    assert notes == ("left out: array background",)


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
    same = load_dataset("set", "none", grey=True)
    assert same.shape == (1, 8, 8)
    assert everything(same) == sorted(map(bytes, grey[..., 0]))
    grey[..., 0] = 255 - grey[..., 0]
    write_images(tmp_path / "colour", grey)
    assert not load_dataset("colour", "none").notes


def test_colour_becomes_grey_as_pillow_does_it(tmp_path: Path) -> None:
    colours = random_images(9, 8, 8, 3)
    write_images(tmp_path / "set", colours)
    expected = sorted(Image.fromarray(image).convert("L").tobytes() for image in colours)
    assert everything(load_dataset("set", "none", grey=True)) == expected


# Options are the run's, and numbers that were not typed are up to so many


def test_a_run_reads_its_data_as_it_was_trained(tmp_path: Path) -> None:
    np.savez("set.npz", images=np.repeat(gradients(10, 16)[:, None], 3, 1))
    options = ["--grey", "--value-range", 0, 16, "--binarization", "threshold"]
    assert trained("set.npz", *options, "--out", "run") == [
        "set: 6 + 2 + 2 images (train + valid + test) of 16 x 16, grey, values 0 to 255, "
        "binarization threshold"
    ]
    run = Run(Path("run"))
    assert run.config.data.value_range == (0, 16)
    assert run.dataset.shape == (1, 16, 16)
    assert run.dataset.values == (0, 255)
    assert flowvae("train", "--resume", "run", "--steps", 3).code == 0


def test_few_test_images_are_all_taken(tmp_path: Path) -> None:
    write_images(tmp_path / "set", drawings(10))
    trained("set", "--out", "run")
    succeeds("evaluate", "run", "--samples", 2)
    assert json.loads(Path("run/evaluation.json").read_text())["images"] == 2
    for command in ("reconstruct", "interpolate"):
        result = flowvae(command, "run")
        assert result.code == 0
        assert result.err == "flowvae: set has 2 test images; all of them are taken\n"
        assert Path(result.out.strip()).is_file()
    is_refusal(flowvae("evaluate", "run", "--images", 1000), "images is 1000", "--images 1 to 2")
    is_refusal(flowvae("reconstruct", "run", "--images", 3), "3 test images are needed", "--images")
    is_refusal(flowvae("interpolate", "run", "--pairs", 2), "4 test images are needed", "--pairs")
    write_images(tmp_path / "few", drawings(3))
    refused = flowvae("interpolate", "run", "--data", "few")
    is_refusal(refused, "2 test images are needed; few has 1: add images")
