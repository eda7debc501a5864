"""Published data sets from local files: what is written in their form comes out again."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from data_files import random_images, write_images
from PIL import Image
from published_files import (
    CELEBA_SPLITS,
    character,
    colour_images,
    expected_face,
    face,
    labels_for,
    omniglot_files,
    write_celeba,
    write_chardata,
    write_cifar10,
    write_cifar10_archive,
    write_cifar10_png,
    write_omniglot,
    write_svhn,
)

from flowvae.data import Dataset, load_dataset, training_batch
from flowvae.data.cache import cache_folder, cached_array
from flowvae.data.matlab import read_mat

SPLITS = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sizes(dataset: Dataset) -> list[int]:
    return [len(getattr(dataset, split).images) for split in SPLITS]


def joined(dataset: Dataset) -> tuple[np.ndarray, list[int]]:
    """Images and labels of train and valid, one after the other."""
    labels = [split.labels for split in (dataset.train, dataset.valid)]
    assert labels[0] is not None
    assert labels[1] is not None
    images = torch.cat([dataset.train.images, dataset.valid.images])
    return images.numpy(), [*labels[0].tolist(), *labels[1].tolist()]


# CIFAR-10 and SVHN: the same images in four forms


def binary(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    return write_cifar10(folder / "cifar-10-batches-bin", train, test)


def archive(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    return write_cifar10_archive(folder / "cifar-10-binary.tar.gz", binary(folder, train, test))


FORMS: dict[str, Callable[[Path, np.ndarray, np.ndarray], Path]] = {
    "cifar10 folder": binary,
    "cifar10 archive": archive,
    "cifar10 rows of png": write_cifar10_png,
    "svhn": write_svhn,
}


@pytest.mark.parametrize("form", FORMS)
def test_colour_images_of_32_by_32(tmp_path: Path, form: str) -> None:
    train, test = colour_images(40), colour_images(7, seed=1)
    (tmp_path / "data").mkdir()
    path = FORMS[form](tmp_path / "data", train, test)
    dataset = load_dataset(str(path), "none")
    assert (dataset.shape, dataset.levels, sizes(dataset)) == ((3, 32, 32), 256, [36, 4, 7])
    images, labels = joined(dataset)
    assert images.dtype == np.uint8
    assert np.array_equal(images, train)  # valid is the last tenth
    assert labels == labels_for(train).tolist()
    assert np.array_equal(dataset.test.images.numpy(), test)
    assert dataset.test.labels is not None
    assert dataset.test.labels.tolist() == labels_for(test).tolist()
    assert dataset.train.images.is_contiguous()


def test_rows_of_png_without_labels(tmp_path: Path) -> None:
    write_cifar10_png(tmp_path, colour_images(40), colour_images(7))
    (tmp_path / "train_lables.json").unlink()
    dataset = load_dataset(str(tmp_path), "none")
    assert dataset.train.labels is None
    assert dataset.test.labels is not None


def test_rows_of_png_are_read_from_left_to_right_and_top_to_bottom(tmp_path: Path) -> None:
    """The first pixels of the row are the top line of the image, red before green before blue."""
    row = np.zeros((1, 1024, 3), np.uint8)
    row[0, 1] = (10, 20, 30)
    row[0, 32] = (40, 50, 60)
    images = np.zeros((1, 3, 32, 32), np.uint8)
    write_cifar10_png(tmp_path, np.repeat(images, 10, axis=0), images)
    Image.fromarray(row).save(tmp_path / "test_batch.png")
    image = load_dataset(str(tmp_path), "none").test.images[0]
    assert image[:, 0, 1].tolist() == [10, 20, 30]
    assert image[:, 1, 0].tolist() == [40, 50, 60]
    assert int(image.sum()) == 210


def test_colour_batches_are_a_pure_function_of_seed_and_step(tmp_path: Path) -> None:
    dataset = load_dataset(str(write_cifar10(tmp_path / "c", colour_images(60), colour_images(5))), "none")
    batches = [training_batch(dataset, 8, 3, step).images for step in range(12)]
    again = [training_batch(dataset, 8, 3, step).images for step in reversed(range(12))]
    assert all(torch.equal(one, other) for one, other in zip(batches, reversed(again), strict=True))
    assert batches[0].shape == (8, 3, 32, 32)
    assert batches[0].dtype == torch.float32
    known = {image.numpy().tobytes() for image in dataset.train.images}
    pixels = (255 * batches[0]).round().to(torch.uint8)
    assert all(image.numpy().tobytes() in known for image in pixels)


# CelebA


@pytest.mark.parametrize(("image_size", "side"), [(None, 64), (32, 32), (148, 148)])
def test_celeba(tmp_path: Path, image_size: int | None, side: int) -> None:
    folder = write_celeba(tmp_path / "celeba")
    dataset = load_dataset(str(folder), "none", image_size=image_size)
    assert (dataset.name, dataset.shape, dataset.levels) == ("celeba", (3, side, side), 256)
    assert sizes(dataset) == list(CELEBA_SPLITS)
    assert dataset.train.labels is None
    first = 1
    for split, count in zip(SPLITS, CELEBA_SPLITS, strict=True):
        images = getattr(dataset, split).images.numpy().astype(int)
        for position in range(count):
            difference = np.abs(images[position] - expected_face(first + position, side))
            assert difference.mean() < 2  # what JPEG changes; neighbours in the list differ by dozens
        first += count


@pytest.mark.parametrize("layout", ["as published", "unpacked into a folder of its name"])
def test_celeba_in_other_folders(tmp_path: Path, layout: str) -> None:
    flat = load_dataset(str(write_celeba(tmp_path / "flat")), "none", image_size=32)
    folder = write_celeba(tmp_path / "other")
    if layout == "as published":
        (folder / "Eval").mkdir()
        (folder / "Img").mkdir()
        (folder / "list_eval_partition.txt").rename(folder / "Eval" / "list_eval_partition.txt")
        (folder / "img_align_celeba").rename(folder / "Img" / "img_align_celeba")
    else:
        (folder / "img_align_celeba").rename(folder / "inner")
        (folder / "img_align_celeba").mkdir()
        (folder / "inner").rename(folder / "img_align_celeba" / "img_align_celeba")
    assert torch.equal(load_dataset(str(folder), "none", image_size=32).test.images, flat.test.images)


def test_celeba_is_decoded_once_and_memory_mapped(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_celeba(tmp_path / "celeba")
    first = load_dataset(str(folder), "none", image_size=32)
    files = sorted(cache.iterdir())
    assert [file.suffix for file in files] == [".npy"] * 3
    assert cache_folder() == cache
    before = {file: file.read_bytes() for file in files}
    with monkeypatch.context() as patch:
        patch.setattr("flowvae.data.images.decode", lambda *_, **__: pytest.fail("decoded again"))
        second = load_dataset(str(folder), "none", image_size=32)
    assert torch.equal(first.train.images, second.train.images)
    second.train.images.zero_()  # nobody's file
    assert {file: file.read_bytes() for file in cache.iterdir()} == before
    # A picture that changed is decoded again.
    Image.fromarray(face(99)).save(folder / "img_align_celeba" / "000001.jpg", quality=95)
    changed = load_dataset(str(folder), "none", image_size=32)
    assert not torch.equal(changed.train.images[0], first.train.images[0])
    assert torch.equal(changed.train.images[1:], first.train.images[1:])


def test_cached_arrays_are_for_everybody_whom_the_umask_lets_read(cache: Path) -> None:
    before = os.umask(0o022)
    try:
        cached_array("zeros", (2, 3), np.uint8, lambda: np.zeros((2, 3), np.uint8))
    finally:
        os.umask(before)
    assert (cache / "zeros.npy").stat().st_mode & 0o777 == 0o644


def test_unfinished_cache_files_are_not_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_celeba(tmp_path / "celeba")
    with monkeypatch.context() as patch:

        def interrupted(*_: object) -> np.ndarray:
            raise KeyboardInterrupt

        patch.setattr("flowvae.data.celeba.face", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset(str(folder), "none")
    assert list(cache.iterdir()) == []
    assert sizes(load_dataset(str(folder), "none")) == list(CELEBA_SPLITS)


# Omniglot


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("image_size", "side"), [(None, 28), (105, 105)])
def test_omniglot(tmp_path: Path, zipped: bool, image_size: int | None, side: int) -> None:
    dataset = load_dataset(str(write_omniglot(tmp_path, zipped)), "none", image_size=image_size)
    assert (dataset.shape, sizes(dataset)) == ((1, side, side), [15, 3, 12])
    # Characters in alphabetical order: three of the background, then two of the evaluation set.
    images, labels = joined(dataset)
    assert sorted(labels) == sorted([0, 1, 2] * 6)
    assert dataset.test.labels is not None
    assert dataset.test.labels.tolist() == [3] * 6 + [4] * 6
    expected = [
        255 - np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))
        for image in omniglot_files("background").values()
    ]
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected))
    assert np.mean(images) < 30  # white on black


def test_omniglot_in_the_folder_python_of_its_repository(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    write_omniglot(tmp_path / "python")
    (tmp_path / "README.md").write_text("Omniglot")
    assert sizes(load_dataset(str(tmp_path), "none")) == [15, 3, 12]


def test_omniglot_with_white_ink_stays_as_it_is(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    expected = load_dataset(str(tmp_path), "none")
    for path in tmp_path.glob("images_*/*/*/*.png"):
        Image.fromarray(~np.asarray(Image.open(path))).save(path)
    found = load_dataset(str(tmp_path), "none")
    # Half a grey level rounds to one side, and its complement to the other.
    assert torch.all((found.train.images.int() - expected.train.images.int()).abs() <= 1)


def test_character_is_black_on_white() -> None:
    assert 0.9 < np.asarray(character(0)).mean() < 1


def test_chardata(tmp_path: Path) -> None:
    train, test = random_images(60, 28, 28), random_images(5, 28, 28, seed=1)
    dataset = load_dataset(str(write_chardata(tmp_path / "chardata.mat", train, test)), "none")
    assert (dataset.name, dataset.shape, sizes(dataset)) == ("chardata", (1, 28, 28), [57, 3, 5])
    assert np.array_equal(dataset.test.images[:, 0].numpy(), test)
    images, labels = joined(dataset)
    assert not np.array_equal(images[:, 0], train)  # drawn at random
    assert np.array_equal(images[np.argsort([train_row(image, train) for image in images])][:, 0], train)
    assert sorted(labels) == sorted(np.arange(60) % 50)


def train_row(image: np.ndarray, train: np.ndarray) -> int:
    return int(np.flatnonzero((train == image).all(axis=(1, 2)))[0])


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f4", "<f8"])
def test_mat_files_hold_what_scipy_finds(tmp_path: Path, dtype: str, compressed: bool) -> None:
    """Arrays of a few bytes, which lie in their tags, among them."""
    arrays = {
        "a_name_that_is_padded": random_images(7, 5, 3).astype(dtype),
        "few": np.arange(3).astype(dtype),
        "x": np.array(1, dtype),
        "text": "not asked for",
        "odd": random_images(3, 3).astype(dtype),
    }
    scipy.io.savemat(tmp_path / "arrays.mat", arrays, do_compression=compressed)
    names = tuple(name for name in arrays if name != "text")
    expected = scipy.io.loadmat(tmp_path / "arrays.mat")
    for name, array in zip(names, read_mat(tmp_path / "arrays.mat", names), strict=True):
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


def test_chardata_holds_out_as_many_as_others_do() -> None:
    from flowvae.data.chardata import HELD_OUT

    assert int(24_345 * HELD_OUT) == 1_345


# Folders of images


def test_image_size_brings_a_folder_to_one_size(tmp_path: Path) -> None:
    """The square in the middle of each picture, whatever its sides."""
    wide, tall = random_images(20, 41, 3), random_images(30, 20, 3, seed=1)
    write_images(tmp_path / "train", np.stack([wide] * 6))
    write_images(tmp_path / "test", np.stack([tall] * 2))
    dataset = load_dataset(str(tmp_path), "none", image_size=20)
    assert (dataset.shape, sizes(dataset)) == ((3, 20, 20), [5, 1, 2])
    assert np.array_equal(dataset.train.images[0].numpy(), wide[:, 10:30].transpose(2, 0, 1))
    assert np.array_equal(dataset.test.images[0].numpy(), tall[5:25].transpose(2, 0, 1))


def test_image_size_averages(tmp_path: Path) -> None:
    """Halving a fine checkerboard gives grey, not black or white."""
    board = np.indices((16, 16)).sum(axis=0) % 2 * 200
    write_images(tmp_path, np.stack([board.astype(np.uint8)] * 10))
    images = load_dataset(str(tmp_path), "none", image_size=8).train.images
    assert torch.all((images[..., 1:-1, 1:-1].int() - 100).abs() <= 2)


def test_image_size_that_an_npz_has_is_fine(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=random_images(20, 6, 6))
    assert load_dataset(str(tmp_path / "set.npz"), "none", image_size=6).shape == (1, 6, 6)
