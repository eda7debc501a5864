"""Files in .zip and .tar.gz archives, read in bounded memory whatever their headers say."""

import gzip
import tarfile
import zipfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import IO

from flowvae.data.reading import PIECE, Readable, check_memory, open_file, read_whole

BLOCK = 512
"""number of bytes of a header in a .tar archive; files are padded to multiples of it"""
EMPTY_TYPES = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)


def open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a file of a .zip archive, to be read in pieces.

    Raises:
        ValueError: if it is compressed by bzip2 or a newer method. zipfile unpacks 4,096 bytes at a time,
            into up to 4 MB with deflate, 30 MB with LZMA, but gigabytes with bzip2.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        raise ValueError("it is compressed with another method than deflate or LZMA")
    return archive.open(info)


def read_tar_gz(path: Path, names: Collection[str]) -> dict[str, bytearray]:
    """Read the files of a .tar.gz archive with these ``names``, in any directories; absent ones are left out.

    tarfile is not used because it reads headers of any length at once. The archive is read to the end, where
    gzip stores its checksum.

    Raises:
        UserError: if it unpacks to more than the limit of a data set.
        Exception: one of gzip, zlib or tarfile, or ValueError, if it is not such an archive, or damaged.
    """
    found: dict[str, bytearray] = {}
    with open_file(path) as packed, gzip.open(packed) as file:
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
        while file.read(PIECE):  # the padding of the last record
            check_memory(path, file.tell())
    return found


def _skip(file: Readable, count: int) -> None:
    while count:
        piece = file.read(min(PIECE, count))
        if not piece:
            raise EOFError("it is cut off")
        count -= len(piece)
