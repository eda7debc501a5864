"""Each source: what is written into a small file comes out again, and the real files are what they claim."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import random_images, write_amat_folder, write_idx_folder, write_images
from PIL import ExifTags, Image

from flowvae.data import Dataset, Split, larochelle, load_dataset, mnist
from flowvae.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("FLOWVAE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
SPLITS = ("train", "valid", "test")


def shared(name: str) -> Path:
    if not (SHARED_DATA / name).exists():
        pytest.skip(f"{name} is not in {SHARED_DATA}")
    return SHARED_DATA / name


def sizes(dataset: Dataset) -> list[int]:
    return [len(getattr(dataset, split).images) for split in SPLITS]


def labels_of(split: Split) -> torch.Tensor:
    assert split.labels is not None
    assert split.labels.dtype == torch.int64
    assert split.labels.shape == (len(split.images),)
    return split.labels


# The bundled MNIST


@pytest.fixture(scope="module")
def bundled() -> Dataset:
    return load_dataset("mnist", "none")


def test_bundled_mnist(bundled: Dataset) -> None:
    dataset = bundled
    assert (dataset.name, dataset.shape, sizes(dataset)) == ("mnist", (1, 28, 28), [50_000, 10_000, 10_000])
    # The first labels, and the mean intensity 33.3184 of the 60,000, as everybody knows them.
    assert labels_of(dataset.train)[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels_of(dataset.test)[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert labels_of(dataset.valid).bincount().min() > 800
    total = dataset.train.images.sum(dtype=torch.int64) + dataset.valid.images.sum(dtype=torch.int64)
    assert total.item() / (60_000 * 784) == pytest.approx(33.3184, abs=1e-4)


def test_bundled_mnist_is_lossless(bundled: Dataset) -> None:
    """Written as IDX files, the arrays have the md5 sums of the four original files."""
    originals = {
        "6bbc9ace898e44ae57da46a324031adb": (
            b"\0\0\x08\3\0\0\xea\x60\0\0\0\x1c\0\0\0\x1c",
            "images",
            ("train", "valid"),
        ),
        "a25bea736e30d166cdddb491f175f624": (b"\0\0\x08\1\0\0\xea\x60", "labels", ("train", "valid")),
        "2646ac647ad5339dbf082846283269ea": (
            b"\0\0\x08\3\0\0\x27\x10\0\0\0\x1c\0\0\0\x1c",
            "images",
            ("test",),
        ),
        "27ae3e4e09519cfbb04c329615203637": (b"\0\0\x08\1\0\0\x27\x10", "labels", ("test",)),
    }
    for expected, (header, field, splits) in originals.items():
        digest = hashlib.md5(header, usedforsecurity=False)
        for split in splits:
            digest.update(getattr(getattr(bundled, split), field).to(torch.uint8).numpy().tobytes())
        assert digest.hexdigest() == expected


def test_record_of_the_bundled_file() -> None:
    record = mnist.PATH.with_name("MNIST.md").read_text(encoding="utf-8")
    assert mnist.SHA256 in record
    assert f"{mnist.PATH.stat().st_size:,} bytes" in record


# .npz


@pytest.mark.parametrize("form", ["NHW", "NCHW", "NHWC", "flat"])
def test_npz_grey_forms(tmp_path: Path, form: str) -> None:
    expected = {split: random_images(12, 6, 6, seed=i) for i, split in enumerate(SPLITS)}
    shapes = {"NHW": (12, 6, 6), "NCHW": (12, 1, 6, 6), "NHWC": (12, 6, 6, 1), "flat": (12, 36)}
    arrays = {split: images.reshape(shapes[form]) for split, images in expected.items()}
    arrays["train_labels"] = np.arange(12, dtype=np.uint16)
    np.savez_compressed(tmp_path / "set.npz", **arrays)  # pyright: ignore[reportArgumentType]
    dataset = load_dataset(str(tmp_path / "set.npz"), "none")
    assert (dataset.name, dataset.shape) == ("set", (1, 6, 6))
    for split in SPLITS:
        assert np.array_equal(getattr(dataset, split).images[:, 0].numpy(), expected[split])
    assert labels_of(dataset.train).tolist() == list(range(12))
    assert dataset.valid.labels is None


@pytest.mark.parametrize("form", ["NCHW", "NHWC"])
def test_npz_colour_forms(tmp_path: Path, form: str) -> None:
    images = random_images(12, 3, 6, 5)
    stored = images if form == "NCHW" else images.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "set.npz", train=stored, valid=stored, test=stored)
    dataset = load_dataset(str(tmp_path / "set.npz"), "none")
    assert dataset.shape == (3, 6, 5)
    assert np.array_equal(dataset.test.images.numpy(), images)
    assert dataset.train.images.is_contiguous()


@pytest.mark.parametrize("side", [6, 7, 28, 33])
def test_npz_packed_bits(tmp_path: Path, side: int) -> None:
    images = random_images(9, side, side, high=2)
    packed = np.packbits(images.reshape(9, -1), axis=1)
    np.savez(tmp_path / "packed.npz", train=packed, valid=packed[:2], test=packed)
    dataset = load_dataset(str(tmp_path / "packed.npz"))
    assert (dataset.name, dataset.binarization) == ("packed", "static")
    assert np.array_equal(dataset.train.images[:, 0].numpy(), images)


def test_npz_boolean_images_are_binary(tmp_path: Path) -> None:
    images = random_images(9, 5, 5, high=2).astype(bool)
    np.savez(tmp_path / "set.npz", train=images, valid=images, test=images)
    dataset = load_dataset(str(tmp_path / "set.npz"))
    assert np.array_equal(dataset.train.images[:, 0].numpy(), images)


def test_npz_names_of_other_projects(tmp_path: Path) -> None:
    """Keras writes x_train and y_train, MedMNIST train_images and train_labels [N, 1]."""
    train, test = random_images(12, 6, 6), random_images(3, 6, 6, seed=1)
    np.savez(tmp_path / "k.npz", x_train=train, y_train=np.arange(12), x_test=test, y_test=np.arange(3))
    np.savez(
        tmp_path / "m.npz",
        train_images=train[:10],
        train_labels=np.arange(10)[:, None],
        val_images=train[10:],
        val_labels=np.arange(10, 12)[:, None],
        test_images=test,
        test_labels=np.arange(3)[:, None],
    )
    for name in ("k.npz", "m.npz"):
        dataset = load_dataset(str(tmp_path / name), "none")
        assert sizes(dataset) == [10, 2, 3]
        assert np.array_equal(dataset.train.images[:, 0].numpy(), train[:10])
        assert np.array_equal(dataset.valid.images[:, 0].numpy(), train[10:])
        assert labels_of(dataset.valid).tolist() == [10, 11]
        assert labels_of(dataset.test).tolist() == [0, 1, 2]


def test_npz_images_with_indices(tmp_path: Path) -> None:
    images, labels = random_images(10, 6, 6), np.arange(10)
    indices = {"train_idx": [3, 1, 4], "valid_idx": [0, 9], "test_idx": [2, 6, 5]}
    np.savez(tmp_path / "set.npz", images=images, labels=labels, **indices)  # pyright: ignore[reportArgumentType]
    dataset = load_dataset(str(tmp_path / "set.npz"), "none")
    for split in SPLITS:
        expected = indices[f"{split}_idx"]
        assert np.array_equal(getattr(dataset, split).images[:, 0].numpy(), images[expected])
        assert labels_of(getattr(dataset, split)).tolist() == expected


def test_npz_images_alone_are_split_at_random(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=random_images(40, 6, 6), labels=np.arange(40))
    one, other = (load_dataset(str(tmp_path / "set.npz"), "none", seed) for seed in (0, 1))
    assert sizes(one) == [32, 4, 4]
    labels = [labels_of(getattr(one, split)).tolist() for split in SPLITS]
    assert sorted([*labels[0], *labels[1], *labels[2]]) == list(range(40))
    assert labels[2] != [36, 37, 38, 39]
    assert torch.equal(labels_of(one.test), labels_of(other.test))  # no seed moves test images into train


# IDX


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx(tmp_path: Path, ending: str) -> None:
    train, test = random_images(24, 6, 5), random_images(4, 6, 5, seed=1)
    write_idx_folder(tmp_path, train, test, ending)
    dataset = load_dataset(str(tmp_path), "none")
    assert (dataset.name, dataset.shape, sizes(dataset)) == (tmp_path.name, (1, 6, 5), [20, 4, 4])
    assert np.array_equal(dataset.train.images[:, 0].numpy(), train[:20])
    assert np.array_equal(dataset.valid.images[:, 0].numpy(), train[20:])
    assert np.array_equal(dataset.test.images[:, 0].numpy(), test)
    assert labels_of(dataset.valid).tolist() == [0, 1, 2, 3]


def test_idx_without_labels(tmp_path: Path) -> None:
    write_idx_folder(tmp_path, random_images(24, 6, 5), random_images(4, 6, 5))
    for path in tmp_path.glob("*labels*"):
        path.unlink()
    dataset = load_dataset(str(tmp_path), "none")
    assert dataset.train.labels is None
    assert dataset.test.labels is None


def test_fashion_mnist_of_debian() -> None:
    if not FASHION_MNIST.exists():
        pytest.skip(f"{FASHION_MNIST} is not there; install Debian's package dataset-fashion-mnist")
    dataset = load_dataset(str(FASHION_MNIST), "none")
    assert (dataset.name, dataset.shape, sizes(dataset)) == (
        "fashion-mnist",
        (1, 28, 28),
        [50_000, 10_000, 10_000],
    )
    assert labels_of(dataset.test).bincount().tolist() == [1000] * 10


# Larochelle's split


def test_amat(tmp_path: Path) -> None:
    images = [random_images(count, 28, 28, high=2, seed=count) for count in (7, 3, 2)]
    dataset = load_dataset(str(write_amat_folder(tmp_path, *images)))
    assert (dataset.binarization, dataset.shape) == ("static", (1, 28, 28))
    for split, expected in zip(SPLITS, images, strict=True):
        assert np.array_equal(getattr(dataset, split).images[:, 0].numpy(), expected)
        assert getattr(dataset, split).labels is None


def test_amat_with_other_white_space(tmp_path: Path) -> None:
    images = random_images(5, 28, 28, high=2)
    write_amat_folder(tmp_path, images, images, images)
    path = tmp_path / "binarized_mnist_test.amat"
    text = path.read_text()
    path.write_bytes(text.replace("\n", " \r\n").replace(" ", "\t", 40).rstrip().encode())
    dataset = load_dataset(str(tmp_path))
    assert torch.equal(dataset.test.images, dataset.train.images)


def test_name_larochelle_stands_for_the_published_images_alone(tmp_path: Path) -> None:
    images = random_images(5, 28, 28, high=2)
    assert load_dataset(str(write_amat_folder(tmp_path, images, images, images))).name == tmp_path.name


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server with a small set in place of the published one, and an empty cache."""
    images = random_images(6, 28, 28, high=2)
    folder = write_amat_folder(tmp_path / "server", images[:3], images[3:5], images[5:])
    content = np.packbits(images.reshape(6, -1), axis=1).tobytes()
    monkeypatch.setattr(larochelle, "ADDRESS", f"{folder.as_uri()}/")
    monkeypatch.setattr(larochelle, "COUNTS", (3, 2, 1))
    monkeypatch.setattr(larochelle, "CONTENT_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))
    return folder


def test_larochelle_by_name_is_downloaded_once(published: Path) -> None:
    from_path = load_dataset(str(published))
    for _ in range(2):
        dataset = load_dataset("larochelle")
        assert (dataset.name, dataset.binarization, sizes(dataset)) == ("larochelle", "static", [3, 2, 1])
        for split in SPLITS:
            assert torch.equal(getattr(dataset, split).images, getattr(from_path, split).images)
        if published.exists():
            shutil.rmtree(published)


def test_larochelle_that_cannot_be_had_names_the_bundled_images(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(larochelle, "ADDRESS", f"{published.as_uri()}/nowhere/")
    with pytest.raises(UserError, match=r"cannot be downloaded .* give --data mnist"):
        load_dataset("larochelle")


def test_larochelle_with_other_images_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(larochelle, "CONTENT_SHA256", "0")
    with pytest.raises(UserError, match="not the published images; delete them"):
        load_dataset("larochelle")
    shutil.rmtree(published.parent / "cache")
    monkeypatch.setattr(larochelle, "COUNTS", (3, 2, 2))
    with pytest.raises(UserError, match="has 1 images, not 2"):
        load_dataset("larochelle")


def test_larochelle_packed_and_as_text(tmp_path: Path) -> None:
    """The packed bits make the published files, byte for byte, and both are read as the same images."""
    packed = load_dataset(str(shared("mnist_static_larochelle_packed.npz")))
    assert (packed.name, packed.binarization) == ("larochelle", "static")
    assert sizes(packed) == [50_000, 10_000, 10_000]
    write_amat_folder(tmp_path, *(getattr(packed, split).images.numpy() for split in SPLITS))
    published_sha1 = {
        "train": "cf70514ec5f481e54ad3eb0e6c03c83326ff96f8",
        "valid": "13418487742e6ea6d48db7b5187353a20b1b1f8c",
        "test": "ca70bd7775e182596dec148d4dc1bc6bd6c4c5f4",
    }
    for split, expected in published_sha1.items():
        content = (tmp_path / f"binarized_mnist_{split}.amat").read_bytes()
        assert hashlib.sha1(content, usedforsecurity=False).hexdigest() == expected
    text = load_dataset(str(tmp_path))
    assert text.name == "larochelle"
    for split in SPLITS:
        assert torch.equal(getattr(text, split).images, getattr(packed, split).images)


# Other real files


def test_shared_mnist_is_the_bundled_one(bundled: Dataset) -> None:
    ours, theirs = bundled, load_dataset(str(shared("mnist.npz")), "none")
    for split in SPLITS:
        assert torch.equal(getattr(ours, split).images, getattr(theirs, split).images)
        assert torch.equal(labels_of(getattr(ours, split)), labels_of(getattr(theirs, split)))


def test_shared_omniglot() -> None:
    path = shared("omniglot_28.npz")
    dataset = load_dataset(str(path), "none")
    assert (dataset.name, dataset.shape, sizes(dataset)) == (
        "omniglot_28",
        (1, 28, 28),
        [23_045, 1_345, 8_070],
    )
    with np.load(path) as arrays:
        assert np.array_equal(dataset.test.images[:, 0].numpy(), arrays["images"][arrays["test_idx"]])


def test_shared_cifar10() -> None:
    path = shared("cifar10_first10k_train_first2k_test.npz")
    dataset = load_dataset(str(path), "none")
    assert (dataset.shape, sizes(dataset)) == ((3, 32, 32), [8_334, 1_666, 2_000])
    with np.load(path) as arrays:
        assert np.array_equal(dataset.test.images.numpy(), arrays["test"].transpose(0, 3, 1, 2))


# Folders of images


def test_flat_folder_of_images(tmp_path: Path) -> None:
    images = random_images(30, 7, 5)
    write_images(tmp_path, images)
    (tmp_path / "notes.txt").write_text("not an image, and does not say so by its ending")
    dataset = load_dataset(str(tmp_path), "none")
    assert (dataset.name, dataset.shape, sizes(dataset)) == (tmp_path.name, (1, 7, 5), [24, 3, 3])
    loaded = torch.cat([getattr(dataset, split).images for split in SPLITS])[:, 0].numpy()
    assert not np.array_equal(loaded, images)  # in another order
    assert sorted(map(bytes, loaded)) == sorted(map(bytes, images))


def test_folder_of_colour_images(tmp_path: Path) -> None:
    images = random_images(9, 7, 5, 3)
    for split in SPLITS:
        write_images(tmp_path / split, images, ".bmp")
    dataset = load_dataset(str(tmp_path), "none")
    assert dataset.shape == (3, 7, 5)
    assert np.array_equal(dataset.valid.images.numpy(), images.transpose(0, 3, 1, 2))
    assert dataset.train.labels is None


def test_one_colour_image_makes_all_of_them_rgb(tmp_path: Path) -> None:
    grey = random_images(6, 7, 5)
    for split in SPLITS:
        write_images(tmp_path / split, grey)
    Image.fromarray(random_images(7, 5, 3)).save(tmp_path / "train" / "colour.png")
    dataset = load_dataset(str(tmp_path), "none")
    assert dataset.shape == (3, 7, 5)
    assert np.array_equal(dataset.test.images.numpy(), np.repeat(grey[:, None], 3, axis=1))


@pytest.mark.parametrize("ending", [".png", ".late.png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("side", [None, 8])
def test_pictures_of_a_camera_that_was_held_upright(tmp_path: Path, ending: str, side: int | None) -> None:
    lying = np.zeros((16, 24), np.uint8)
    lying[:8, :8] = 255  # the upper left corner, which a quarter turn to the right brings to the upper right
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for split in SPLITS:
        write_images(tmp_path / split, np.zeros((2, 24, 16), np.uint8))
        path = tmp_path / split / f"turned{ending}"
        # Pillow 12.3 mixes up the rows of a TIFF that lies and is not compressed.
        Image.fromarray(lying).save(path, exif=turned, compression="tiff_lzw" if ending == ".tif" else None)
        if ending == ".late.png":
            path.write_bytes(with_exif_last(path.read_bytes()))
    dataset = load_dataset(str(tmp_path), "none", image_size=side)
    assert dataset.shape[1:] == ((side, side) if side else (24, 16))
    corners = dataset.test.images[-1, -1][[0, 0, -1, -1], [0, -1, 0, -1]]
    # The corner reaches into the square in the middle, too.
    assert (corners > 128).tolist() == [False, True, False, False]


def with_exif_last(png: bytes) -> bytes:
    """A PNG file whose metadata stand after its pixels, as some programs write them."""
    kept, exif, place = png[:8], b"", 8
    while place < len(png):
        length = 12 + int.from_bytes(png[place : place + 4])
        chunk = png[place : place + length]
        if chunk[4:8] == b"eXIf":
            exif = chunk
        else:
            kept += exif + chunk if chunk[4:8] == b"IEND" else chunk
        place += length
    return kept


@pytest.mark.parametrize("valid_name", ["valid", "val", "validation"])
def test_folder_with_splits_and_classes(tmp_path: Path, valid_name: str) -> None:
    images = random_images(4, 6, 6)
    for split in ("train", valid_name, "test"):
        write_images(tmp_path / split / "cat", images[:3])
        write_images(tmp_path / split / "ant", images[3:])
    write_images(tmp_path / "test" / "bee", images[:1])
    dataset = load_dataset(str(tmp_path), "none")
    assert labels_of(dataset.train).tolist() == [0, 2, 2, 2]
    assert labels_of(dataset.test).tolist() == [0, 1, 2, 2, 2]
    assert np.array_equal(dataset.valid.images[:, 0].numpy(), images[[3, 0, 1, 2]])


def test_folder_without_valid_holds_out_at_random(tmp_path: Path) -> None:
    for name in ("ant", "bee", "cat"):
        write_images(tmp_path / "train" / name, random_images(20, 4, 4))
        write_images(tmp_path / "test" / name, random_images(2, 4, 4))
    dataset = load_dataset(str(tmp_path), "none")
    assert sizes(dataset) == [50, 10, 6]
    assert set(labels_of(dataset.valid).tolist()) == {0, 1, 2}


def test_classes_without_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "dark", np.zeros((10, 4, 4), np.uint8))
    write_images(tmp_path / "light", np.full((10, 4, 4), 255, np.uint8))
    dataset = load_dataset(str(tmp_path), "none")
    assert sizes(dataset) == [16, 2, 2]
    for split in SPLITS:
        part = getattr(dataset, split)
        assert torch.equal(part.images[:, 0, 0, 0] == 255, labels_of(part) == 1)


def test_path_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path / "pictures", random_images(10, 4, 4))
    assert load_dataset("~/pictures", "none").name == "pictures"


def test_larochelle_draws_from_mnist_in_another_order() -> None:
    """Each draw is of the grey image that makes it most likely. Only the test sets are of the same images."""
    grey, published = (
        load_dataset("mnist", "none"),
        load_dataset(str(shared("mnist_static_larochelle_packed.npz"))),
    )
    chances = (
        torch.cat([getattr(grey, split).images.flatten(1) for split in SPLITS]).div(255).clamp(1e-3, 1 - 1e-3)
    )
    of_zeros, of_ones = chances.neg().log1p().sum(1), chances.logit()
    for split in SPLITS:
        places = (getattr(published, split).images[:100].flatten(1).float() @ of_ones.T + of_zeros).argmax(1)
        tested, first = (places >= 60_000).float().mean(), (places < 50_000).float().mean()
        assert (tested > 0.98) if split == "test" else (tested < 0.02 and 0.7 < first < 0.95)
