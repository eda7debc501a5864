"""Small data sets and the files that hold them, for the tests of ``flowvae.data``."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowvae.data import Dataset, Split, load_dataset
from flowvae.errors import UserError


def random_images(*shape: int, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def numbered_dataset(count: int, binarization: str = "none") -> Dataset:
    """``count`` (up to 256) training images of 1 x 2 x 2 pixels, the i-th filled with the value i."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return Dataset("numbered", binarization, Split(images), Split(images[:1]), Split(images[:1]))


def write_idx(path: Path, array: np.ndarray) -> Path:
    data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_idx_folder(folder: Path, train: np.ndarray, test: np.ndarray, ending: str = "") -> Path:
    """Labels are 0, 1, 2, ... modulo 10."""
    for prefix, images in (("train", train), ("t10k", test)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{ending}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{ending}", np.arange(len(images), dtype=np.uint8) % 10)
    return folder


def write_amat(path: Path, images: np.ndarray) -> Path:
    """Rows of 0 and 1 as Larochelle published them: one space between numbers, a newline after each row."""
    text = np.full((len(images), 2 * 784), ord(" "), np.uint8)
    text[:, ::2] = images.reshape(-1, 784) + ord("0")
    text[:, -1] = ord("\n")
    path.write_bytes(text.tobytes())
    return path


def write_amat_folder(folder: Path, train: np.ndarray, valid: np.ndarray, test: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in (("train", train), ("valid", valid), ("test", test)):
        write_amat(folder / f"binarized_mnist_{split}.amat", images)
    return folder


def write_images(folder: Path, images: np.ndarray, ending: str = ".png") -> Path:
    """One file an image, [N, H, W] grey or [N, H, W, 3] colour, named so that they sort in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04}{ending}")
    return folder


def user_error(source: object, binarization: str = "static") -> str:
    """The message of the UserError that loading ``source`` has to raise: one line with something to do."""
    with pytest.raises(UserError) as caught:
        load_dataset(str(source), binarization)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def frugal_user_error(source: object, most_bytes: int = 8 * 2**20) -> str:
    """As ``user_error``, and no more memory than ``most_bytes`` was ever taken for it."""
    tracemalloc.start()
    try:
        message = user_error(source)
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
    return message
