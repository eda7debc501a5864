"""The IDX files of MNIST and its relatives, plain or gzipped (Fashion-MNIST as Debian ships it).

The format: two zero bytes, a type (8 for uint8), the number of dimensions, the dimensions as big-endian
32-bit integers, the values. http://yann.lecun.com/exdb/mnist/
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import check_memory, open_file, read_up_to, unreadable
from flowvae.data.splits import hold_out, make_dataset, make_split
from flowvae.errors import UserError

KIND = "an IDX file"


def load(directory: Path) -> Dataset:
    """train-images-idx3-ubyte and t10k-images-idx3-ubyte with their labels; valid is held out from train."""
    train, valid = hold_out(directory, _read_split(directory, "train"))
    return make_dataset(directory, train, valid, _read_split(directory, "t10k"))


def _read_split(directory: Path, prefix: str) -> Split:
    images = _find(directory, f"{prefix}-images-idx3-ubyte")
    labels = _find(directory, f"{prefix}-labels-idx1-ubyte")
    if images is None:
        raise UserError(f"{directory} has no file {prefix}-images-idx3-ubyte or ...-ubyte.gz; add it")
    return make_split(str(images), read_idx(images, 3)[:, None], read_idx(labels, 1) if labels else None)


def _find(directory: Path, name: str) -> Path | None:
    return next((path for path in (directory / name, directory / f"{name}.gz") if path.exists()), None)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of that many dimensions in an IDX file; gzipped where its name ends in .gz."""
    try:
        with open_file(path) as packed, gzip.open(packed) if path.suffix == ".gz" else packed as file:
            header = read_up_to(file, 4 + 4 * dimensions)
            if header[:4] != bytes((0, 0, 8, dimensions)):
                raise unreadable(
                    path, KIND, f"its first bytes are {header[:4].hex()}, not 000008{dimensions:02x}"
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            check_memory(path, size)
            values = read_up_to(file, size + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise unreadable(path, KIND, error) from error
    if len(values) != size:
        found = "more" if len(values) > size else f"only {len(values):,}"
        raise unreadable(path, KIND, f"its header says {size:,} values, but it has {found}")
    return np.frombuffer(values, np.uint8).reshape(shape)
