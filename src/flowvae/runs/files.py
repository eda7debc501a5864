"""Atomic and durable writing of files, and reading with errors of one line."""

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from torch import Tensor

from flowvae.data.images import SUFFIXES
from flowvae.data.reading import open_file
from flowvae.errors import UserError

LONGEST_NAME = 200  # bytes of 255 that a file system allows; more is added to the name of a partial file
LEFT_OVER = 3600.0  # seconds without a write after which a partial file counts as abandoned


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Make an OSError inside name ``path``; if a disk is full, it names no file by itself."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` to write to, which replaces ``path`` on success.

    The contents are on the disk before the name is, and the name before the end: a power failure leaves the
    old file or the new one. If several processes write the same file, the last to finish wins. Temporary
    files of killed processes are removed after an hour. An OSError names ``path``, not the temporary file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with replacing(path) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> path.read_text()
    '1 2 3'
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a device would be lost
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    partial = partial_name(path)
    try:
        with naming(path):
            yield partial
            sync(partial)
            os.replace(partial, path)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never created
            partial.unlink()


def check_place(path: Path, folder: bool = False) -> None:
    """Make sure that a file can be made at ``path``, or a ``folder`` with those above it.

    For commands that would find out only when their work is done.

    Raises:
        OSError: a directory is missing, is something else, or may not be written to.
    """
    above = (path, *path.parents) if folder else tuple(path.parents)
    there = next(place for place in above if place.exists() or place == above[-1])
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not folder and there != path.parent:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def check_not_read(out: Path, sources: Iterable[str | Path]) -> None:
    """Make sure that an output does not replace one of the files that are read.

    Raises:
        UserError: if it is one of the ``sources``, or an image in one that is a directory.
    """
    if not out.is_file():
        return
    place = out.resolve()
    for source in (Path(source).resolve() for source in sources):
        if source == place or (source in place.parents and place.suffix.lower() in SUFFIXES):
            raise UserError(f"{out} is read, and would be replaced; choose another --out")


def partial_name(path: Path) -> Path:
    """Return a new name next to ``path``, and remove what killed processes left under such names."""
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    for partial in path.parent.glob(f".{glob.escape(name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process may remove it as well
            if time.time() - partial.stat().st_mtime > LEFT_OVER:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    return path.with_name(f".{name}.{secrets.token_hex(8)}.partial")


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the names in a directory, are on the disk.

    Names are left to the system on Windows, and on file systems that refuse to sync a directory.
    """
    directory = path.is_dir()
    if directory and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if directory else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not directory or error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory with those above it, durably; do nothing if it exists."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def write_json(path: Path, values: Any) -> None:
    """Write nested ``values`` as JSON.

    Raises:
        UserError: if one of them is NaN or infinite, which JSON cannot represent.
    """
    try:
        text = json.dumps(values, indent=2, allow_nan=False)
    except ValueError:
        raise UserError(f"{path} is not written: a number is not finite; train the run again") from None
    with replacing(path) as partial:
        partial.write_text(text + "\n")


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the contents of a safetensors file."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, metadata={"format": "pt"})


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is missing, cannot be read, or is not valid JSON: NaN, Infinity and numbers that a
            float cannot hold, such as 1e400, are not accepted.
    """
    try:
        return json.loads(read_bytes(path), parse_constant=_refuse, parse_float=_finite)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} the directory of a run?") from None
    except (ValueError, RecursionError):  # nested too deep, or an integer of thousands of digits
        raise UserError(f"{path} is not valid JSON; restore it or train again") from None


def _finite(text: str) -> float:
    number = float(text)  # infinite for 1e400
    return number if math.isfinite(number) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it cannot be read.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); restore it") from None


def reason(error: Exception) -> str:
    """Shorten a library's error to one short line: its first sentence, without PyTorch's advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A first line that ends with a colon introduces a list; take the first item.
    line = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    return textwrap.shorten(line.split(". ")[0], 150, placeholder=" ...")
