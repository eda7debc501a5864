"""Guards for files that others wrote: sizes before decoding, and errors that say what to do."""

from pathlib import Path
from typing import Protocol

from flowvae.errors import UserError, quoted

MAX_BYTES = 4 * 2**30
"""The most that one data set may take, decoded to one byte a pixel."""
MAX_TEXT = 64 * 2**20
"""The most bytes of a list; its lines and numbers take a multiple of them in memory."""
PIECE = 4096
"""How many bytes are read at once where a promise alone says that they are there. For so many, zipfile
unpacks as many of the archive's at once, which is the least that it does."""
LONGEST_REASON = 200


class Readable(Protocol):
    """What bytes are read from: a file, a member of an archive, a stream that is unpacked on the way."""

    def read(self, count: int, /) -> bytes: ...


def check_memory(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise UserError(
            f"{path} holds {num_bytes / 2**30:,.1f} GiB of images when decoded, more than the "
            f"{MAX_BYTES / 2**30:g} GiB allowed; use fewer or smaller images"
        )


def unreadable(path: object, kind: str, reason: object) -> UserError:
    """The error for a file that is no ``kind``, with the reason squeezed into one line of no great length."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]}..."
    return UserError(f"{path} cannot be read as {kind} ({text}); get or write it again")


def read_up_to(file: Readable, count: int) -> bytearray:
    """The next ``count`` bytes, or all that are left where there are fewer.

    Memory grows with the bytes that are there, not with ``count``, which a header may have made up.
    """
    data = bytearray()
    while len(data) < count and (piece := file.read(min(PIECE, count - len(data)))):
        data += piece
    return data


def read_whole(file: Readable, count: int) -> bytearray:
    """The next ``count`` bytes. Raises EOFError where there are fewer."""
    data = read_up_to(file, count)
    if len(data) < count:
        raise EOFError("it is cut off")
    return data


def read_bytes(path: Path, kind: str, limit: int | None = None) -> bytearray:
    """All of a file of at most ``limit`` bytes, MAX_BYTES where None."""
    most = MAX_BYTES if limit is None else limit
    try:
        with path.open("rb") as file:
            data = read_up_to(file, most + 1)  # not by the size that is stated: a device states none
    except (OSError, ValueError) as error:
        raise unreadable(path, kind, getattr(error, "strerror", None) or error) from error
    if len(data) > most:
        raise unreadable(path, kind, f"it has more than the {most:,} bytes allowed")
    return data


def user_path(name: str) -> Path:
    """The path that ``name`` means, with ~ as a home folder.

    Raises:
        UserError: there is no such user, or a path cannot have such a name.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{quoted(name)} is no path ({reason}); give another") from error
    return path
