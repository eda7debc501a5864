"""Bad input: each is one line that names the file and says what to do (``user_error`` sees to the form)."""

import contextlib
import gzip
import io
import os
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_files import (
    frugal_user_error,
    random_images,
    user_error,
    write_amat_folder,
    write_idx,
    write_idx_folder,
    write_images,
)
from PIL import Image

from flowvae.data import chardata, cifar10, images, load, load_dataset, mnist, npz, reading
from flowvae.errors import UserError


def save(path: Path, **arrays: object) -> Path:
    np.savez_compressed(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


# Which source


@pytest.mark.parametrize("source", ["minst", "MNIST"])
def test_misspelt_name(source: str) -> None:
    assert source in user_error(source)


def test_misspelt_name_gets_a_hint() -> None:
    assert "did you mean mnist?" in user_error("minst")


def test_missing_path(tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in user_error(tmp_path / "nothing")


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2,3")
    assert "data.csv is not a data set; give an .npz file" in user_error(tmp_path / "data.csv")


@pytest.mark.parametrize("source", ["~nobody-of-that-name", "~nobody\0", "plain\0", "a\ud800", "x" * 100_000])
def test_names_that_no_path_has(source: str) -> None:
    assert len(user_error(source)) < 300


# The bundled MNIST


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the bundled file is looked for; there is none."""
    monkeypatch.setitem(load.OWN, "mnist", mnist.load)  # which other tests read once
    monkeypatch.setattr(mnist, "PATH", tmp_path / "mnist.npz")
    return mnist.PATH


def test_bundled_file_with_a_wrong_sha256(elsewhere: Path) -> None:
    data = bytearray((Path(mnist.__file__).parent / "mnist.npz").read_bytes())
    data[1_000_000] ^= 1
    elsewhere.write_bytes(data)
    message = user_error("mnist")
    assert "mnist.npz" in message
    assert "sha256 is wrong; install flowvae again" in message


@pytest.mark.usefixtures("elsewhere")
def test_bundled_file_is_missing() -> None:
    assert "No such file" in user_error("mnist")


# .npz

IMAGES = random_images(12, 6, 6)

BAD_ARRAYS = {
    "wrong keys": (
        {"pictures": IMAGES, "others": IMAGES},
        r"arrays pictures \(uint8 \[12, 6, 6\]\), others .*; give it train and test",
    ),
    "no images at all": ({"a": np.arange(3)}, r"arrays a \(int64 \[3\]\); give it train and test"),
    "no test": ({"train": IMAGES, "valid": IMAGES}, "give it train and test"),
    "test alone": ({"test": IMAGES}, "give it train and test"),
    "one split of floats": (
        {"train": IMAGES / 255, "test": IMAGES},
        "array train in .* has type float64 and values from 0 to 1, .* --value-range 0 1",
    ),
    "floats": (
        {"images": IMAGES / 100},
        "array images in .* has type float64 and values from 0 to 2.55, which are not 8-bit levels; save",
    ),
    "negative": ({"images": IMAGES.astype(int) - 1}, "int64 and values from -1 to 254"),
    "NaN": ({"images": np.where(IMAGES == 7, np.nan, IMAGES)}, "are NaN; give --missing nan if they mark"),
    "infinity": ({"images": np.where(IMAGES == 7, np.inf, IMAGES)}, "values that are infinite; replace them"),
    "objects": ({"train": np.array([None, 1]), "test": IMAGES}, "array train in .* contains Python objects"),
    "no images": ({"train": IMAGES[:0], "test": IMAGES}, "array train in .* contains no images"),
    "flat, not square": (
        {"train": IMAGES.reshape(18, 24)[:, :23], "test": IMAGES},
        "no square image, flat or packed",
    ),
    "flat or packed": ({"train": np.zeros((9, 25), np.uint8), "test": IMAGES}, "more than one square image"),
    "not packed": ({"train": np.full((9, 5), 255, np.uint8), "test": IMAGES}, "not packed bits"),
    "five channels": (
        {"train": IMAGES.reshape(2, 6, 6, 6)[:, :5], "test": IMAGES},
        r"has shape \(2, 5, 6, 6\)",
    ),
    "one dimension": ({"train": IMAGES.reshape(-1), "test": IMAGES}, r"has shape \(432,\)"),
    "two shapes": ({"train": IMAGES, "test": IMAGES[:, 1:]}, r"train images of shape \(1, 6, 6\) and test"),
    "labels too few": (
        {"train": IMAGES, "train_labels": np.arange(11), "valid": IMAGES, "test": IMAGES},
        "12 images but 11 labels",
    ),
    "one-hot labels too few": ({"images": IMAGES, "labels": np.eye(11)}, "12 images but 11 labels"),
    "one train image": ({"train": IMAGES[:1], "test": IMAGES}, "too few training images"),
    "two images": ({"images": IMAGES[:2]}, "has 2 images, too few"),
    "indices outside": (
        {"images": IMAGES, "train_idx": [0, 12], "valid_idx": [1], "test_idx": [2]},
        "array train_idx in .* points outside its images; count from 0 to 11",
    ),
    "negative indices": (
        {"images": IMAGES, "train_idx": [-1], "valid_idx": [1], "test_idx": [2]},
        "points outside",
    ),
    "float indices": (
        {"images": IMAGES, "train_idx": [0.5], "valid_idx": [1], "test_idx": [2]},
        "give integers",
    ),
    "indices missing": (
        {"images": IMAGES, "train_idx": [0], "test_idx": [2]},
        "but not valid; add valid_idx",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_npz_with_bad_arrays(tmp_path: Path, case: str) -> None:
    arrays, expected = BAD_ARRAYS[case]
    path = save(tmp_path / "set.npz", **arrays)
    message = user_error(path)
    assert str(path) in message
    assert re.search(expected, message), message


@pytest.mark.parametrize("missing", [None, "nan", "0"])
def test_arrays_without_images(tmp_path: Path, missing: str | None) -> None:
    path = save(tmp_path / "none.npz", images=np.zeros((0, 8, 8)))
    with pytest.raises(UserError, match=r"none.npz contains no images"):
        load_dataset(path, "none", missing=missing)


def good_npz(path: Path) -> Path:
    return save(path, train=IMAGES, valid=IMAGES, test=IMAGES, train_labels=np.arange(12))


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.99])
def test_truncated_npz(tmp_path: Path, share: float) -> None:
    path = good_npz(tmp_path / "set.npz")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert f"{path} cannot be read as an .npz file" in user_error(path)


def test_text_that_calls_itself_npz(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_text("hello")
    assert "cannot be read as an .npz file" in user_error(tmp_path / "set.npz")


def test_npz_whose_contents_fail_the_check_sum(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", train=IMAGES, test=IMAGES)
    data = bytearray((tmp_path / "set.npz").read_bytes())
    data[300] ^= 1  # a pixel of the first array, stored without compression
    (tmp_path / "set.npz").write_bytes(data)
    assert "Bad CRC-32" in user_error(tmp_path / "set.npz")


def write_npy_members(
    path: Path, header: bytes, method: int = zipfile.ZIP_DEFLATED, rest: bytes = b""
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("train", "test"):
            archive.writestr(f"{name}.npy", header + rest)
    return path


def npy_header(shape: tuple[int, ...], descr: object = "|u1") -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def test_npz_of_more_images_than_there_can_be(tmp_path: Path) -> None:
    path = write_npy_members(tmp_path / "set.npz", npy_header((2**40, 28, 28)))
    assert "array train is not as long as its header says" in frugal_user_error(path)


def test_npz_compressed_by_a_method_without_bounds(tmp_path: Path) -> None:
    """A kilobyte of bzip2 can become gigabytes, which zipfile unpacks at once."""
    header = npy_header((2**25 // 1024, 32, 32))
    path = write_npy_members(tmp_path / "set.npz", header, zipfile.ZIP_BZIP2, bytes(2**25))
    assert path.stat().st_size < 1000
    message = frugal_user_error(path)
    assert (
        "cannot be read as an .npz file (it is compressed with another method than deflate or LZMA)"
        in message
    )


def test_npz_whose_header_is_longer_than_headers_are(tmp_path: Path) -> None:
    magic = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**26)
    path = write_npy_members(tmp_path / "set.npz", magic, rest=b" " * 2**26)
    assert "cannot be read as an .npz file" in frugal_user_error(path, 2**24)


@pytest.mark.parametrize(
    ("shape", "read"),
    [("(40L, 8L, 8L)", True), ("(40, 8, 8), '\\\x17': 1", False)],
    ids=["python 2", "escape"],
)
def test_the_text_of_a_header_causes_no_warning(shape: str, read: bool, tmp_path: Path) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    length = len(header).to_bytes(2, "little")
    path = tmp_path / "old.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + length + header + bytes(range(256)) * 10)
    with contextlib.nullcontext() if read else pytest.raises(UserError, match=r"old\.npy"):
        assert len(load_dataset(str(path), "none").train.images) > 0


def test_npz_of_structures(tmp_path: Path) -> None:
    """They could have names of any length, which no message repeats."""
    path = write_npy_members(tmp_path / "set.npz", npy_header((3,), [("a" * 5000, "|u1")]), rest=b"abc")
    assert "array train in" in user_error(path)
    assert "does not contain plain numbers" in user_error(path)


def test_npz_whose_error_would_be_long(tmp_path: Path) -> None:
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000)
    path = write_npy_members(tmp_path / "set.npz", magic, rest=b"x" * 9000)
    assert len(user_error(path)) < 400 + len(str(path))


def test_npz_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 2**20)
    path = save(tmp_path / "bomb.npz", train=np.zeros((2000, 28, 28), np.uint8), test=IMAGES)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    assert f"{path} contains" in user_error(path)


def test_packed_bits_count_as_what_they_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 2**20)
    packed = np.zeros((2000, 98), np.uint8)
    assert "use fewer or smaller images" in user_error(save(tmp_path / "set.npz", train=packed, test=packed))


# IDX


def idx_folder(folder: Path, ending: str = "") -> Path:
    return write_idx_folder(folder, random_images(12, 6, 6), random_images(4, 6, 6), ending)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.99])
def test_truncated_idx(tmp_path: Path, ending: str, share: float) -> None:
    path = idx_folder(tmp_path, ending) / f"train-images-idx3-ubyte{ending}"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert f"{path} cannot be read as an IDX file" in user_error(tmp_path)


def test_idx_with_a_wrong_magic_number(tmp_path: Path) -> None:
    path = idx_folder(tmp_path) / "t10k-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x0d\3" + path.read_bytes()[4:])
    assert "its first bytes are 00000d03, not 00000803" in user_error(tmp_path)


def test_labels_where_images_should_be(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path)
    (folder / "train-images-idx3-ubyte").write_bytes((folder / "train-labels-idx1-ubyte").read_bytes())
    assert "its first bytes are 00000801, not 00000803" in user_error(folder)


def test_idx_that_is_longer_than_its_header_says(tmp_path: Path) -> None:
    path = idx_folder(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes() + b"\0")
    assert "says 432 values, but it has more" in user_error(tmp_path)


def test_gz_that_is_none(tmp_path: Path) -> None:
    path = idx_folder(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(b"<html>404</html>")
    assert "Not a gzipped file" in user_error(tmp_path)


def test_gz_with_a_flipped_bit(tmp_path: Path) -> None:
    path = idx_folder(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    assert f"{path} cannot be read as an IDX file" in user_error(tmp_path)


def test_idx_bomb(tmp_path: Path) -> None:
    path = idx_folder(tmp_path) / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28))
    assert "use fewer or smaller images" in user_error(tmp_path)


def test_idx_that_promises_more_than_it_holds_takes_no_memory(tmp_path: Path) -> None:
    path = idx_folder(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2**21, 28, 28)))
    assert "says 1,644,167,168 values, but it has only 0" in frugal_user_error(tmp_path)


def test_idx_labels_of_another_length(tmp_path: Path) -> None:
    write_idx(idx_folder(tmp_path) / "train-labels-idx1-ubyte", np.zeros(11, np.uint8))
    assert "has 12 images but 11 labels" in user_error(tmp_path)


def test_idx_without_test_images(tmp_path: Path) -> None:
    (idx_folder(tmp_path) / "t10k-images-idx3-ubyte").unlink()
    assert f"{tmp_path} has no file t10k-images-idx3-ubyte" in user_error(tmp_path)


# Larochelle's text files


def amat_folder(folder: Path, change) -> Path:
    """Three files of four images, the lines of the train file changed."""
    write_amat_folder(folder, *3 * [random_images(4, 28, 28, high=2)])
    path = folder / "binarized_mnist_train.amat"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    return folder


BAD_LINES = {
    "a two": (
        lambda lines: [lines[0], "2" + lines[1][1:], *lines[2:]],
        "line 2 of .* must consist of 0 and 1",
    ),
    "decimals": (lambda lines: [lines[0], lines[1].replace("0", "0.0", 1), *lines[2:]], "line 2 of"),
    "no space": (lambda lines: [*lines[:3], lines[3].replace(" ", "", 1)], "line 4 of .* must consist of"),
    "a column short": (
        lambda lines: [*lines[:2], lines[2][:-2], lines[3]],
        "line 3 of .* has 783 numbers, not 784",
    ),
    "a column more": (lambda lines: [*lines[:2], lines[2] + " 1", lines[3]], "line 3 of .* has 785 numbers"),
    "cut off": (lambda lines: [*lines[:3], lines[3][:400]], "line 4 of .* has 200 numbers"),
    "an empty line": (lambda lines: [lines[0], "", *lines[1:]], "line 2 of .* has 0 numbers"),
    "nothing": (lambda lines: [], "line 1 of .* has 0 numbers"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_amat_with_bad_lines(tmp_path: Path, case: str) -> None:
    change, expected = BAD_LINES[case]
    message = user_error(amat_folder(tmp_path, change))
    assert "binarized_mnist_train.amat" in message
    assert re.search(expected, message), message


def test_amat_that_is_missing(tmp_path: Path) -> None:
    (amat_folder(tmp_path, lambda lines: lines) / "binarized_mnist_valid.amat").unlink()
    assert "binarized_mnist_valid.amat cannot be read as an .amat file (No such file" in user_error(tmp_path)


# Folders of images


def test_empty_folder(tmp_path: Path) -> None:
    assert f"{tmp_path} contains no images; add files" in user_error(tmp_path)


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    assert f"{tmp_path} contains no images" in user_error(tmp_path)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    write_images(tmp_path, random_images(5, 7, 5))
    Image.fromarray(random_images(8, 6)).save(tmp_path / "other.png")
    message = user_error(tmp_path)
    assert f"{tmp_path / '0000.png'} has 5 x 7 pixels but {tmp_path / 'other.png'} has 6 x 8" in message


def test_sizes_that_differ_between_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "train", random_images(5, 7, 5))
    write_images(tmp_path / "test", random_images(5, 6, 5))
    assert "resize all images to one size" in user_error(tmp_path)


def test_file_that_is_not_an_image(tmp_path: Path) -> None:
    write_images(tmp_path, random_images(5, 7, 5))
    (tmp_path / "fake.png").write_text("I am no picture")
    assert f"{tmp_path / 'fake.png'} cannot be read as an image" in user_error(tmp_path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".gif"])
def test_truncated_image(tmp_path: Path, ending: str) -> None:
    write_images(tmp_path, random_images(5, 40, 50), ending)
    path = tmp_path / f"0003{ending}"
    path.write_bytes(path.read_bytes()[:-500])
    assert f"{path} cannot be read as an image" in user_error(tmp_path)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file that promises a grey image of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 10_000, 60_000])
def test_decompression_bomb(tmp_path: Path, side: int) -> None:
    """Beyond our limit; beyond that at which Pillow warns; beyond that at which Pillow refuses."""
    write_images(tmp_path, random_images(5, 7, 5))
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    assert "bomb.png has more than 64 megapixels" in user_error(tmp_path)


def test_an_animated_png_may_have_half_as_many_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Pillow keeps several copies of it."""
    monkeypatch.setattr(images, "MAX_PIXELS", 2**17)
    still, moving = tmp_path / "still.png", tmp_path / "moving.png"
    frames = [Image.new("RGB", (256, 257), colour) for colour in ("red", "blue")]
    frames[0].save(still)
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    assert len(list(images.decode_pages(still, 1))) == 1
    with pytest.raises(UserError, match=r"more than 0.0625 megapixels"):
        list(images.decode_pages(moving, 1))


def test_more_compressed_pages_than_can_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_COMPRESSED", 5)
    first, *rest = map(Image.fromarray, random_images(6, 7, 5))
    first.save(tmp_path / "few.tif", save_all=True, append_images=rest[:-1], compression="tiff_lzw")
    assert len(images.read_headers(tmp_path / "few.tif")) == 5
    first.save(tmp_path / "stack.tif", save_all=True, append_images=rest)
    assert len(images.read_headers(tmp_path / "stack.tif")) == 6
    first.save(tmp_path / "stack.tif", save_all=True, append_images=rest, compression="tiff_lzw")
    assert "stack.tif has more than 5 compressed pages" in user_error(tmp_path)


def metadata_of_pages(count: int = 500, size: int = 10_000) -> bytes:
    """A TIFF file of many pages that all point to the same bytes."""
    content = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size)
    pixel = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    for number in range(1, count + 1):
        tags = [struct.pack("<2H2I", tag, 4, 1, value) for tag, value in pixel.items()]
        tags.append(struct.pack("<2H2I", 1000, 7, size, 8))
        content += struct.pack("<H", len(tags)) + b"".join(tags)
        content += struct.pack("<I", len(content) + 4 if number < count else 0)
    return content


def metadata_bomb(count: int = 2000) -> bytes:
    """A TIFF file of one pixel whose other tags, so many, all point to its same 100,000 bytes."""
    size = 100_000
    pixel = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    tags = [struct.pack("<2H2I", tag, 4, 1, value) for tag, value in pixel.items()]
    tags += [struct.pack("<2H2I", 1000 + number, 7, size, 8) for number in range(count)]
    directory = struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(size)


def jpeg_with_metadata(data: bytes) -> bytes:
    """``data`` as EXIF, in as many parts as it takes."""
    image = io.BytesIO()
    Image.fromarray(random_images(7, 5)).save(image, "JPEG")
    start, rest = (
        image.getvalue()[:2],
        image.getvalue()[20:],
    )  # without the resolution, for which EXIF is asked
    for at in range(0, len(data), 60_000):
        part = b"Exif\0\0" + data[at : at + 60_000]
        start += b"\xff\xe1" + struct.pack(">H", 2 + len(part)) + part
    return start + rest


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.tif", metadata_bomb()),
        ("pages.tif", metadata_of_pages()),
        ("bomb.jpg", jpeg_with_metadata(metadata_bomb())),
    ],
    ids=["TIFF", "pages", "JPEG"],
)
def test_metadata_of_which_the_same_bytes_are_read_again_and_again(
    tmp_path: Path, name: str, content: bytes
) -> None:
    write_images(tmp_path, random_images(5, 7, 5))
    (tmp_path / name).write_bytes(content)
    assert f"{name} cannot be read as an image" in frugal_user_error(tmp_path)


def test_metadata_that_is_too_large_is_left_alone(tmp_path: Path) -> None:
    for number, image in enumerate(random_images(5, 7, 5)):
        Image.fromarray(image).save(tmp_path / f"{number}.png", exif=metadata_bomb())
    tracemalloc.start()
    try:
        assert load_dataset(str(tmp_path), "none").shape == (1, 7, 5)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_formats_that_no_ending_names_are_not_read(tmp_path: Path) -> None:
    """Pillow reads dozens, and some by other programs."""
    write_images(tmp_path, random_images(5, 7, 5))
    Image.fromarray(random_images(7, 5)).save(tmp_path / "other.png", "PCX")
    assert "other.png cannot be read as an image" in user_error(tmp_path)


def test_too_many_images_for_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    write_images(tmp_path, random_images(30, 7, 5))
    assert "use fewer or smaller images" in user_error(tmp_path)


def test_16_bit_image(tmp_path: Path) -> None:
    Image.fromarray(random_images(7, 5).astype(np.uint16)).save(tmp_path / "deep.png")
    assert "deep.png has more than 8 bits per pixel" in user_error(tmp_path)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (("train", "val"), "has a directory train and val but no directory test; add it"),
        (("Test",), "has a directory Test but no directory train; add it"),
        (("test", "validation"), "has a directory validation and test but no directory train; add it"),
        (("train", "Training", "test"), "which name the same split; move the images into one"),
    ],
)
def test_splits_that_are_missing_or_twice_there(tmp_path: Path, there: tuple[str, ...], said: str) -> None:
    for name in there:
        write_images(tmp_path / name, random_images(5, 7, 5))
    assert said in user_error(tmp_path)


def test_splits_below_the_top(tmp_path: Path) -> None:
    for split in ("Train", "Test"):
        write_images(tmp_path / "images" / split, random_images(5, 7, 5))
    message = user_error(tmp_path)
    assert f"has the directory Test below images; give {tmp_path / 'images'}, or put" in message
    assert load_dataset(str(tmp_path / "images")).train.images.shape == (4, 1, 7, 5)


def test_images_beside_class_folders(tmp_path: Path) -> None:
    write_images(tmp_path, random_images(5, 7, 5))
    write_images(tmp_path / "cats", random_images(5, 7, 5))
    assert "(0000.png) beside directories of images (cats)" in user_error(tmp_path)


def test_two_images(tmp_path: Path) -> None:
    write_images(tmp_path, random_images(2, 7, 5))
    assert "has 2 images, too few" in user_error(tmp_path)


# Whatever else may be wrong with bytes


def flip_bits(path: Path, random: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    for position in random.integers(0, len(data), random.integers(1, 4)):
        data[position] ^= 1 << random.integers(8)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["npz", "idx", "gz", "png", "jpg", "gif", "bmp"])
def test_flipped_bits_are_a_user_error_or_go_unnoticed(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    failures = 0
    for attempt in range(60):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        if kind == "npz":
            source = victim = good_npz(folder / "set.npz")
        elif kind in ("idx", "gz"):
            source = idx_folder(folder, ".gz" if kind == "gz" else "")
            victim = next(folder.glob("train-images*"))
        else:
            source = write_images(folder, IMAGES[:4], f".{kind}")
            victim = folder / f"0002.{kind}"
        flip_bits(victim, random)
        try:
            load_dataset(str(source), "none")
        except UserError:
            failures += 1
    assert failures > 0


@pytest.mark.parametrize("pipe", [True, False])
@pytest.mark.parametrize("load", [npz.load, npz.load_npy, chardata.load, cifar10.load_archive])
def test_a_pipe_or_a_device(tmp_path: Path, load: Callable[[Path], object], pipe: bool) -> None:
    with pytest.raises(UserError, match="not a regular file"):
        load(odd_file(tmp_path / "set", pipe))


@pytest.mark.parametrize("pipe", [True, False])
def test_an_odd_file_among_others(tmp_path: Path, pipe: bool) -> None:
    write_idx_folder(tmp_path, random_images(12, 4, 4), random_images(4, 4, 4))
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.unlink()
    odd_file(labels, pipe)
    assert f"{labels} cannot be read as an IDX file" in user_error(tmp_path)


def odd_file(path: Path, pipe: bool) -> Path:
    """A file that nobody writes to, or without an end."""
    if pipe:
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


def test_libtiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Of damaged pixels it prints a line, beside what Pillow raises."""
    path = tmp_path / "0.tif"
    Image.fromarray(random_images(8, 8)).save(path, compression="tiff_adobe_deflate")
    packed = zlib.compress(random_images(8, 8).tobytes())
    path.write_bytes(path.read_bytes().replace(packed[2:6], b"\xff" * 4))
    assert "cannot be read as an image" in user_error(tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_that_overflow_are_refused_without_a_warning(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "set.npy", np.full((6, 4, 4), np.finfo(dtype).max, dtype))
    assert "not 8-bit levels" in user_error(tmp_path / "set.npy")
    with pytest.raises(UserError, match=r"must contain all values|no value"):
        load_dataset(str(tmp_path / "set.npy"), value_range=(0, 100))


def test_a_range_beyond_half_precision(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", np.full((6, 4, 4), 1000, np.float16))
    assert load_dataset(str(tmp_path / "set.npy"), "none", value_range=(0, 1e5)).values == (3, 3)
