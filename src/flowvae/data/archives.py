"""Files in .zip and .tar.gz archives, in memory that is bounded whatever the archive says of itself."""

import gzip
import tarfile
import zipfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import IO

from flowvae.data.reading import PIECE, Readable, check_memory, read_whole

BLOCK = 512
"""the bytes of a header in a .tar archive, and what a file's bytes are filled up to a multiple of"""
EMPTY_TYPES = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)


def open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """A file of a .zip archive, to be read in pieces.

    Raises:
        ValueError: it is compressed by bzip2, or by a method of later days. zipfile unpacks 4,096 bytes at
            once, whatever they become: up to 4 MB by deflate, 30 MB by LZMA, but gigabytes by bzip2.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        raise ValueError("it is compressed by another method than deflate or LZMA")
    return archive.open(info)


def read_tar_gz(path: Path, names: Collection[str]) -> dict[str, bytearray]:
    """The files of a .tar.gz archive with these ``names``, in whatever folders; absent ones are left out.

    By hand and not with tarfile, which reads headers of any length at once. Everything is read to the end,
    where gzip keeps its checksum.

    Raises:
        UserError: more would be unpacked than a data set may take.
        Exception: of gzip, zlib or tarfile, or ValueError: it is no such archive, or damaged.
    """
    found: dict[str, bytearray] = {}
    with gzip.open(path) as file:
        while any(header := read_whole(file, BLOCK)):
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            size = 0 if info.type in EMPTY_TYPES else info.size
            padding = -size % BLOCK
            if size < 0:
                raise ValueError(f"it has a file of {size} bytes")
            check_memory(path, file.tell() + size)
            name = PurePosixPath(info.name).name
            if name in names and info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                found[name] = read_whole(file, size)
                size = 0
            _skip(file, size + padding)
        while file.read(PIECE):  # what fills the last record
            check_memory(path, file.tell())
    return found


def _skip(file: Readable, count: int) -> None:
    while count:
        piece = file.read(min(PIECE, count))
        if not piece:
            raise EOFError("it is cut off")
        count -= len(piece)
