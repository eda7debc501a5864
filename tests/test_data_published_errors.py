"""Bad files of published data sets: each is one line that names the file and says what to do."""

import contextlib
import gzip
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from data_files import frugal_user_error, random_images, user_error, write_images
from PIL import Image
from published_files import (
    colour_images,
    write_celeba,
    write_chardata,
    write_cifar10,
    write_cifar10_archive,
    write_cifar10_png,
    write_omniglot,
    write_svhn,
)

from flowvae.config import DataConfig
from flowvae.data import cifar10_png, load_dataset, reading
from flowvae.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cifar10(folder: Path) -> Path:
    return write_cifar10(folder / "bin", colour_images(20), colour_images(4))


# CIFAR-10


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


BAD_BATCHES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (cut, r"data_batch_2.bin of .* has 12,287 bytes, which are not rows of 3073; get"),
    "empty": (lambda path: path.write_bytes(b""), "data_batch_2.bin of .* has 0 bytes"),
    "label 10": (lambda path: path.write_bytes(b"\x0a" + path.read_bytes()[1:]), "labels above 9"),
    "missing": (Path.unlink, "data_batch_2.bin cannot be read as a file of CIFAR-10's binary version"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_batch(tmp_path: Path, case: str) -> None:
    change, expected = BAD_BATCHES[case]
    folder = cifar10(tmp_path)
    change(folder / "data_batch_2.bin")
    message = user_error(folder, "none")
    assert re.search(expected, message), message


def test_pickled_version(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x01.")
    message = user_error(tmp_path)
    assert "pickles that could run code; get its binary version, cifar-10-binary.tar.gz" in message


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_truncated_archive(tmp_path: Path, share: float) -> None:
    path = write_cifar10_archive(tmp_path / "c.tar.gz", cifar10(tmp_path))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert f"{path} cannot be read as a .tar.gz archive" in user_error(path)


def test_archive_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "notes.txt", "notes.txt")
    assert "has no file data_batch_1.bin; get cifar-10-binary.tar.gz" in user_error(tmp_path / "c.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_archive_with_a_header_of_any_length(tmp_path: Path, kind: bytes) -> None:
    head = tarfile.TarInfo("head")
    head.type, head.size = kind, 2**26
    path = tmp_path / "c.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(head.tobuf(tarfile.USTAR_FORMAT) + bytes(2**26) + bytes(1024))
    assert "has no file data_batch_1.bin" in frugal_user_error(path)


def test_archive_whose_checksum_is_wrong(tmp_path: Path) -> None:
    path = write_cifar10_archive(tmp_path / "c.tar.gz", cifar10(tmp_path))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert "CRC check failed" in user_error(path)


def test_archive_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar10(tmp_path)
    for number in range(1, 6):  # each within the limit
        (folder / f"data_batch_{number}.bin").write_bytes(bytes(2**18))
    path = write_cifar10_archive(tmp_path / "c.tar.gz", folder)
    monkeypatch.setattr(reading, "MAX_BYTES", 2**20)
    assert "use fewer or smaller images" in user_error(path)


def test_rows_of_png_of_another_width(tmp_path: Path) -> None:
    write_cifar10_png(tmp_path, colour_images(20), colour_images(4))
    Image.fromarray(random_images(4, 1000, 3)).save(tmp_path / "data_batch_3.png")
    assert "data_batch_3.png has 1000 pixels per row, not the 1024 RGB pixels" in user_error(tmp_path)


@pytest.mark.parametrize("labels", ["[1, 2", '["cat"]', "[1, 2, 10]", "{}", "[]", "[1.5]", "[[1, 2], [3]]"])
def test_labels_that_are_none(tmp_path: Path, labels: str) -> None:
    write_cifar10_png(tmp_path, colour_images(20), colour_images(4))
    (tmp_path / "train_lables.json").write_text(labels)
    assert "train_lables.json cannot be read as a list of labels" in user_error(tmp_path)


def test_labels_of_more_bytes_than_a_list_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10_png(tmp_path, colour_images(20), colour_images(4))
    monkeypatch.setattr(cifar10_png, "MAX_TEXT", 10)
    assert "it has more than the 10 bytes allowed" in user_error(tmp_path)


def test_labels_too_few(tmp_path: Path) -> None:
    write_cifar10_png(tmp_path, colour_images(20), colour_images(4))
    (tmp_path / "train_lables.json").write_text(json.dumps([1, 2, 3]))
    assert "has 20 images but 3 labels" in user_error(tmp_path)


# .mat


IMAGES = np.zeros((32, 32, 3, 5), np.uint8)
LABELS = np.ones((5, 1), np.uint8)
BAD_SVHN = {
    "no labels": ({"X": IMAGES}, "has no array y; get the published file"),
    "floats": ({"X": IMAGES / 2, "y": LABELS}, "X in .* is float64"),
    "other shape": ({"X": IMAGES[..., 0], "y": LABELS}, r"X in .* is uint8 \(32, 32, 3\), not uint8"),
    "label 11": ({"X": IMAGES, "y": LABELS + 10}, "y in .* has values outside 1 to 10"),
    "text": ({"X": IMAGES, "y": "labels"}, "its y is not an array of numbers"),
    "cells": ({"X": IMAGES, "y": np.array([1, "a"], object)}, "its y is not an array of numbers"),
    "too few": ({"X": IMAGES, "y": LABELS[:3]}, "has 5 images but 3 labels"),
}


@pytest.mark.parametrize("case", BAD_SVHN)
def test_bad_svhn(tmp_path: Path, case: str) -> None:
    arrays, expected = BAD_SVHN[case]
    write_svhn(tmp_path, colour_images(12), colour_images(4))
    scipy.io.savemat(tmp_path / "test_32x32.mat", arrays)
    message = user_error(tmp_path)
    assert "test_32x32.mat" in message
    assert re.search(expected, message), message


def test_svhn_without_test_images(tmp_path: Path) -> None:
    write_svhn(tmp_path, colour_images(12), colour_images(4))
    (tmp_path / "test_32x32.mat").unlink()
    assert f"{tmp_path} has no file test_32x32.mat; add it" in user_error(tmp_path)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.95])
def test_truncated_mat(tmp_path: Path, share: float) -> None:
    write_svhn(tmp_path, colour_images(12), colour_images(4))
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = user_error(tmp_path)
    assert f"{path} cannot be read as a .mat file" in message or f"{path} has no" in message


def test_mat_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(tmp_path, np.zeros((400, 3, 32, 32), np.uint8), colour_images(4))
    monkeypatch.setattr(reading, "MAX_BYTES", 2**20)
    assert "use fewer or smaller images" in frugal_user_error(tmp_path, 2**19)


@pytest.mark.parametrize("compressed", [True, False])
def test_mat_that_promises_more_than_it_holds(tmp_path: Path, compressed: bool) -> None:
    write_svhn(tmp_path, colour_images(12), colour_images(4))
    path = tmp_path / "train_32x32.mat"
    scipy.io.savemat(path, {"X": colour_images(5).transpose(2, 3, 1, 0)})
    header, matrix = path.read_bytes()[:128], bytearray(path.read_bytes()[128:])
    assert matrix[24:48] == struct.pack("<6I", 5, 16, 32, 32, 3, 5)
    matrix[44:48] = struct.pack("<I", 2**16)
    (name_at,) = (at for at in range(len(matrix)) if matrix[at : at + 8] == struct.pack("<2I", 2, 5 * 3072))
    matrix[name_at + 4 : name_at + 8] = struct.pack("<I", 2**16 * 3072)
    packed = zlib.compress(matrix)
    path.write_bytes(header + (struct.pack("<2I", 15, len(packed)) + packed if compressed else bytes(matrix)))
    assert "cannot be read as a .mat file (it is cut off)" in frugal_user_error(tmp_path)


def test_mat_with_cells(tmp_path: Path) -> None:
    """A cell may hold anything, however small its own shape."""
    write_svhn(tmp_path, colour_images(12), colour_images(4))
    cell = np.empty(1, object)
    cell[0] = np.zeros(100)
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": cell, "y": cell})
    assert "its X is not an array of numbers" in user_error(tmp_path)


@pytest.mark.parametrize("form", ["4", "7.3"])
def test_mat_of_another_version(tmp_path: Path, form: str) -> None:
    if form == "4":
        scipy.io.savemat(tmp_path / "chardata.mat", {"data": np.eye(3)}, format="4")
    else:  # HDF5 behind the same 128 bytes
        (tmp_path / "chardata.mat").write_bytes(
            b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384)
        )
    assert "not of version 5, little-endian, as written by MATLAB's save -v7" in user_error(
        tmp_path / "chardata.mat"
    )


def test_any_byte_of_a_mat_may_be_wrong(tmp_path: Path) -> None:
    """Also the type word of the first array's numbers, at which compiled readers have crashed."""
    arrays = {"data": np.zeros((784, 4)), "target": np.eye(50)[:, :4]}
    path = tmp_path / "chardata.mat"
    scipy.io.savemat(path, {**arrays, **{f"test{name}": array for name, array in arrays.items()}})
    whole = path.read_bytes()
    for at in range(116, 200):
        for value in (0, 1, 128, 255):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            with contextlib.suppress(UserError):
                load_dataset(str(path), "none")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (np.ones((100, 4)), r"has shape \(100, 4\), not \(784, N\)"),
        (np.full((784, 4), 255.0), "outside 0 to 1"),
    ],
)
def test_bad_chardata(tmp_path: Path, data: np.ndarray, expected: str) -> None:
    path = write_chardata(tmp_path / "chardata.mat", random_images(6, 28, 28), random_images(4, 28, 28))
    arrays = {name: array for name, array in scipy.io.loadmat(path).items() if name[0] != "_"}
    scipy.io.savemat(path, {**arrays, "testdata": data})
    assert re.search(f"testdata in .* {expected}", user_error(path))


# CelebA


def celeba(folder: Path) -> Path:
    return write_celeba(folder / "celeba")


BAD_PARTITIONS = {
    "no list": ("", "it has no train images"),
    "no test": ("000001.jpg 0\n000002.jpg 1\n", "it has no test images"),
    "three": ("000001.jpg 3\n", "line 1 is '000001.jpg 3', not a file name and 0, 1 or 2"),
    "a path": ("../secret.jpg 0\n", "line 1 is '../secret.jpg 0', not a file name"),
    "something else": ("image_id,partition\n", "line 1 is 'image_id,partition', not a file name"),
}


@pytest.mark.parametrize("case", BAD_PARTITIONS)
def test_bad_partition(tmp_path: Path, case: str) -> None:
    text, expected = BAD_PARTITIONS[case]
    folder = celeba(tmp_path)
    (folder / "list_eval_partition.txt").write_text(text)
    message = user_error(folder)
    assert "list_eval_partition.txt cannot be read as CelebA's list of partitions" in message
    assert expected in message


def test_celeba_with_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    folder = celeba(tmp_path)
    image = folder / "img_align_celeba" / "000003.jpg"
    image.unlink()
    image.symlink_to("gone.jpg")
    assert "such as '000003.jpg'" in user_error(folder)


def test_celeba_without_its_images(tmp_path: Path) -> None:
    folder = celeba(tmp_path)
    (folder / "img_align_celeba").rename(folder / "elsewhere")
    assert f"{folder} has no directory img_align_celeba; unpack img_align_celeba.zip" in user_error(folder)


def test_celeba_with_a_missing_image(tmp_path: Path) -> None:
    folder = celeba(tmp_path)
    (folder / "img_align_celeba" / "000014.jpg").unlink()
    assert "does not contain 1 of the images in list_eval_partition.txt, such as '000014.jpg'" in user_error(
        folder
    )


def test_celeba_that_is_not_the_aligned_version(tmp_path: Path) -> None:
    folder = celeba(tmp_path)
    Image.fromarray(random_images(300, 200, 3)).save(folder / "img_align_celeba" / "000003.jpg")
    assert "000003.jpg has 200 x 300 pixels, not 178 x 218; get the published file" in user_error(folder)


def test_celeba_with_a_damaged_image(tmp_path: Path, cache: Path) -> None:
    folder = celeba(tmp_path)
    path = folder / "img_align_celeba" / "000013.jpg"
    path.write_bytes(path.read_bytes()[:500])
    assert "000013.jpg cannot be read as an image" in user_error(folder)
    # Train is done and stays; of the broken split there is nothing.
    assert [file.suffix for file in cache.iterdir()] == [".npy"]


DAMAGED_ARRAYS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[:-1000],
    "longer": lambda data: data + b"0",
    "an archive": lambda data: b"PK\x03\x04" + data[4:],
    "nested deep": lambda data: data[:10] + b"(" * 118 + data[128:],
    "another shape": lambda data: data.replace(b"64, 64)", b"32, 64)"),
}


@pytest.mark.parametrize("damage", DAMAGED_ARRAYS)
def test_damaged_cache_is_made_anew(tmp_path: Path, cache: Path, damage: str) -> None:
    change = DAMAGED_ARRAYS[damage]
    folder = celeba(tmp_path)
    before = load_dataset(str(folder), "none").train.images.clone()
    for file in cache.iterdir():
        file.write_bytes(change(file.read_bytes()))
    again = load_dataset(str(folder), "none")
    assert torch.equal(again.train.images, before)
    assert len(list(cache.iterdir())) == 3


def test_a_folder_in_place_of_a_cached_array(tmp_path: Path, cache: Path) -> None:
    folder = celeba(tmp_path)
    load_dataset(str(folder), "none")
    for file in cache.iterdir():
        file.unlink()
        file.mkdir()
    assert re.search(r"celeba-64-.*npy cannot be read .*delete it", user_error(folder))


@pytest.mark.parametrize("variable", ["FLOWVAE_CACHE", "XDG_CACHE_HOME"])
def test_cache_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("FLOWVAE_CACHE")
    monkeypatch.setenv(variable, "~nobody-of-that-name/cache")
    assert "'~nobody-of-that-name/cache' is not a path" in user_error(celeba(tmp_path))


# Omniglot


def test_omniglot_without_evaluation(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    (tmp_path / "images_evaluation").rename(tmp_path / "elsewhere")
    message = user_error(tmp_path)
    assert "has neither a directory images_evaluation nor a file images_evaluation.zip; add one" in message


def test_omniglot_archive_that_is_none(tmp_path: Path) -> None:
    write_omniglot(tmp_path, zipped=True)
    cut(tmp_path / "images_background.zip")
    assert "images_background.zip cannot be read as a .zip archive" in user_error(tmp_path)


def test_omniglot_archive_with_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_omniglot(tmp_path, zipped=True)
    with zipfile.ZipFile(tmp_path / "images_background.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images_background/Aaa/character01/0001_01.png", bytes(2**22))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    assert "0001_01.png' in" in user_error(tmp_path)
    assert "too large" in user_error(tmp_path)


def test_omniglot_without_drawings(tmp_path: Path) -> None:
    for part in ("images_background", "images_evaluation"):
        (tmp_path / part).mkdir()
    assert "has no images in directories ALPHABET/CHARACTER" in user_error(tmp_path)


def test_omniglot_of_another_size(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    path = tmp_path / "images_background" / "Latin" / "character01" / "0003_02.png"
    Image.fromarray(random_images(28, 28)).save(path)
    assert f"{path} has 28 x 28 pixels, not 105 x 105" in user_error(tmp_path)


# The size of images


def test_image_size_where_nothing_is_resized(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=random_images(20, 6, 7))
    with pytest.raises(
        UserError, match="are 6 x 7, and only CelebA, Omniglot and directories of image files are"
    ):
        load_dataset(str(tmp_path / "set.npz"), "none", image_size=28)


@pytest.mark.parametrize("image_size", [0, -1])
def test_image_size_below_one(tmp_path: Path, image_size: int) -> None:
    write_images(tmp_path, random_images(10, 4, 4))
    with pytest.raises(UserError, match=f"image_size is {image_size}"):
        load_dataset(str(tmp_path), "none", image_size=image_size)
    with pytest.raises(UserError, match=f"image_size is {image_size}"):
        DataConfig(str(tmp_path), image_size=image_size)


def test_more_images_than_memory_after_resizing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, random_images(10, 4, 4))
    monkeypatch.setattr(reading, "MAX_BYTES", 2**20)
    with pytest.raises(UserError, match="use fewer or smaller images"):
        load_dataset(str(tmp_path), "none", image_size=1000)
