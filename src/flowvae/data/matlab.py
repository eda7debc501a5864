"""Arrays of numbers in MATLAB's .mat files, as SVHN and Omniglot were published.

The format is version 5, little-endian, which ``save -v7`` and ``save -v6`` write. After 128 bytes of header
a file is made of elements: a tag (type and number of bytes, 32 bits each), the bytes, and padding to a
multiple of 8; one of at most 4 bytes takes 8 in all (type and number of bytes, 16 bits each, the bytes). A
matrix is an element made of four: flags with the class, dimensions, name, and the numbers, in any type that
holds them. A compressed element is a matrix in zlib's form.
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from flowvae.data.reading import PIECE, Readable, check_memory, open_file, read_up_to, read_whole, unreadable
from flowvae.errors import UserError

KIND = "a .mat file"
HEADER = 128
TAG = struct.Struct("<II")
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
"""NumPy type of the numbers of an element, by its type"""
NUMBERS = range(6, 16)
"""the classes of matrices that are plain numbers; others are cells, structures, text and sparse"""
COMPLEX = 0x800
LONGEST = 4096
"""largest number of bytes of flags, dimensions and names"""


def read_mat(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Read the arrays of numbers called ``names``, in the types of the file.

    Raises:
        UserError: if it is not such a file, lacks one of them, or they exceed the limit of a data set.
    """
    try:
        with open_file(path) as file:
            arrays = _read_arrays(path, file, names)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise unreadable(path, KIND, error) from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"{path} has no array {' and no array '.join(missing)}; get the published file")
    return [arrays[name] for name in names]


def _read_arrays(path: Path, file: IO[bytes], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    count = 0
    for stream in _matrices(file):
        flags, dimensions, label = (_read_short(stream) for _ in range(3))
        name = label.decode("latin-1")
        if name not in names:
            continue
        (word,) = struct.unpack_from("<I", flags)
        shape = np.frombuffer(dimensions, "<i4").tolist()
        if word & 0xFF not in NUMBERS or word & COMPLEX:
            raise ValueError(f"its {name} is not an array of numbers")
        kind, size, numbers = _next_element(stream)
        if kind not in TYPES or min(shape, default=-1) < 0:
            raise ValueError(f"its {name} is not an array of numbers")
        count += math.prod(shape)
        check_memory(path, 8 * count)  # at most 8 bytes a number, whatever its type
        dtype = np.dtype(TYPES[kind])
        if size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"its {name} is not as long as its dimensions say")
        arrays[name] = np.frombuffer(read_whole(numbers, size), dtype).reshape(shape, order="F")
        read_up_to(stream, 8)  # padding; and where zlib's stream ends, its checksum is compared
        if len(arrays) == len(names):
            break
    return arrays


class _Unpacked:
    """The zlib stream in the next ``size`` bytes of a file, unpacked only as far as it is read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size
        self._zlib = zlib.decompressobj()

    def read(self, count: int, /) -> bytes:
        while count and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail or self._file.read(min(PIECE, self._left))
            if not self._zlib.unconsumed_tail:
                self._left -= len(packed)
            data = self._zlib.decompress(packed, count)
            if data or not packed:
                return data
        return b""


def _matrices(file: IO[bytes]) -> Iterator[Readable]:
    """Yield, for each matrix, the stream of its elements."""
    if file.read(HEADER)[-4:] != b"\x00\x01IM":
        raise ValueError("it is not of version 5, little-endian, as written by MATLAB's save -v7")
    while tag := file.read(TAG.size):
        kind, size = TAG.unpack(tag)
        end = file.tell() + size
        stream = file
        if kind == COMPRESSED:
            stream = _Unpacked(file, size)
            kind, _ = TAG.unpack(read_whole(stream, TAG.size))
        if kind != MATRIX:
            raise ValueError(f"it has an element of type {kind} where a matrix should be")
        yield stream
        file.seek(end)


def _next_element(stream: Readable) -> tuple[int, int, Readable]:
    """Return its type, its number of bytes, and the stream to read them from."""
    tag = read_whole(stream, TAG.size)
    kind, size = TAG.unpack(tag)
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, io.BytesIO(tag[4:])
    return kind, size, stream


def _read_short(stream: Readable) -> bytearray:
    """Read the bytes of an element of flags, dimensions or names."""
    _, size, source = _next_element(stream)
    if size > LONGEST:
        raise ValueError("it has an array whose header is too long")
    data = read_whole(source, size)
    if source is stream:
        read_whole(stream, -size % 8)
    return data
