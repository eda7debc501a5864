"""Guards for files that others wrote: sizes before decoding, and errors that say what to do."""

import errno
import os
import stat
from pathlib import Path
from typing import IO, Protocol

from flowvae.errors import UserError, quoted

MAX_BYTES = 4 * 2**30
"""largest size of a data set in bytes, decoded to one byte per pixel"""
MAX_TEXT = 64 * 2**20
"""largest size of a list in bytes; its lines and numbers take several times that in memory"""
PIECE = 4096
"""number of bytes per read where only a header says how many there are; zipfile unpacks at least as many of
an archive's bytes at a time"""
LONGEST_REASON = 200


class Readable(Protocol):
    """A source of bytes: a file, a member of an archive, or a stream that is unpacked while it is read."""

    def read(self, count: int, /) -> bytes: ...


def check_memory(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise UserError(
            f"{path} contains {num_bytes / 2**30:,.1f} GiB of images when decoded, more than the "
            f"{MAX_BYTES / 2**30:g} GiB allowed; use fewer or smaller images"
        )


def unreadable(path: object, kind: str, reason: object) -> UserError:
    """Return the error for a file that is not ``kind``, with the reason in one line, shortened."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]}..."
    return UserError(f"{path} cannot be read as {kind} ({text}); get or write it again")


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read.

    Raises:
        OSError: if it cannot be opened, or is not a regular file: opening a named pipe, and reading a device,
            may never end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(kind, os.strerror(kind) if stat.S_ISDIR(mode) else "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_up_to(file: Readable, count: int) -> bytearray:
    """Read the next ``count`` bytes, or all that are left if there are fewer.

    Memory grows with the bytes that are read, not with ``count``, which a header may misstate.
    """
    data = bytearray()
    while len(data) < count and (piece := file.read(min(PIECE, count - len(data)))):
        data += piece
    return data


def read_whole(file: Readable, count: int) -> bytearray:
    """Read the next ``count`` bytes; raise EOFError if there are fewer."""
    data = read_up_to(file, count)
    if len(data) < count:
        raise EOFError("it is cut off")
    return data


def read_bytes(path: Path, kind: str, limit: int | None = None) -> bytearray:
    """Read a file of at most ``limit`` bytes, by default MAX_BYTES."""
    most = MAX_BYTES if limit is None else limit
    try:
        with open_file(path) as file:
            data = read_up_to(file, most + 1)
    except (OSError, ValueError) as error:
        raise unreadable(path, kind, getattr(error, "strerror", None) or error) from error
    if len(data) > most:
        raise unreadable(path, kind, f"it has more than the {most:,} bytes allowed")
    return data


def user_path(name: str) -> Path:
    """Return the path ``name``, with ~ expanded to a home directory.

    Raises:
        UserError: if there is no such user, or a path cannot have such a name.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{quoted(name)} is not a path ({reason}); give another") from error
    return path
