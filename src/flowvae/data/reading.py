"""Guards for files that others wrote: sizes before decoding, and errors that say what to do."""

from pathlib import Path

from flowvae.errors import UserError

MAX_BYTES = 4 * 2**30
"""The most that one data set may take, decoded to one byte a pixel."""


def check_memory(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise UserError(
            f"{path} holds {num_bytes / 2**30:,.1f} GiB of images when decoded, more than the "
            f"{MAX_BYTES / 2**30:g} GiB allowed; use fewer or smaller images"
        )


def unreadable(path: object, kind: str, reason: object) -> UserError:
    """The error for a file that is no ``kind``, with the reason squeezed into one line."""
    reason = " ".join(str(reason).split()) or type(reason).__name__
    return UserError(f"{path} cannot be read as {kind} ({reason}); get or write it again")


def read_bytes(path: Path, kind: str) -> bytes:
    try:
        check_memory(path, path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, kind, error.strerror or error) from error
