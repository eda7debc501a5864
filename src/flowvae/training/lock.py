"""The lock by which only one process at a time trains a run."""

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
# Errors of file systems without locks, such as those of some clusters; there, nothing is locked either.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other processes from training the run; if this one is killed, the system releases the lock.

    Raises:
        UserError: if another process trains it.
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
            if not _is_at(file, path):  # removed by the previous holder after it was opened here
                continue
            try:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _open_no_link(path: str, flags: int) -> int:
    """Open without following links, which could lead to a file outside the run."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _holder(file: TextIO) -> str:
    file.seek(0)
    text = file.read(300)
    return text if text and text.isprintable() else "another process"  # it may not have written its id yet


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
