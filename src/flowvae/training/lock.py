"""One process at a time trains a run."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from flowvae.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

FILE = ".lock"
# What file systems of some clusters say to a lock; there, nothing is locked either.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other processes from training the run; of one that is killed, the system itself lets go.

    Raises:
        UserError: another process trains it.
    """
    if fcntl is None:
        yield
        return
    path = run / FILE
    while True:
        with open(path, "a+", encoding="utf-8", errors="replace", opener=_open_no_link) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{run} is being trained by {_holder(file)}; wait for it or stop it"
                ) from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            if not _is_at(file, path):  # removed, after it was opened here, by the one who had locked it
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _open_no_link(path: str, flags: int) -> int:
    """A link would lead to a file that is not ours to write over."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _holder(file: TextIO) -> str:
    file.seek(0)
    text = file.read(300)
    return text if text and text.isprintable() else "another process"  # which may not have written it yet


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
