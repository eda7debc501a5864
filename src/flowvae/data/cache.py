"""Arrays that take long to make, cached on disk and memory-mapped: they need not fit into memory."""

import hashlib
import io
import math
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from flowvae.data.reading import open_file, unreadable, user_path


def cache_folder() -> Path:
    """FLOWVAE_CACHE, or flowvae in XDG_CACHE_HOME, or ~/.cache/flowvae. May be deleted at any time."""
    named = os.environ.get("FLOWVAE_CACHE")
    if named:
        return user_path(named)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "flowvae"


def fingerprint(*parts: object) -> str:
    """Return a short hash of ``parts``."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def cached_array(
    name: str, shape: tuple[int, ...], dtype: type[np.generic], rows: Callable[[], Iterable[np.ndarray | int]]
) -> np.ndarray:
    """Return the array of that shape with the rows of ``rows()``, made once and then memory-mapped.

    The file NAME.npy of the cache is written under another name, then renamed. One with another header or
    length is made again. Changes to the array stay in memory; the file is not changed.
    """
    path = cache_folder() / f"{name}.npy"
    header = _header(shape, dtype)
    length = len(header) + math.prod(shape) * np.dtype(dtype).itemsize
    if not _is_whole(path, header, length):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, shape, dtype, rows)
    return np.memmap(path, dtype, "c", len(header), shape)


def _header(shape: tuple[int, ...], dtype: type[np.generic]) -> bytes:
    """Return the header of an .npy file of that array."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _is_whole(path: Path, header: bytes, length: int) -> bool:
    """Whether the file exists and is such an array, without decoding its values."""
    try:
        with open_file(path) as file:
            return file.read(len(header)) == header and file.seek(0, os.SEEK_END) == length
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, "a cached array; delete it", error.strerror or error) from error


def _write(
    path: Path,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    rows: Callable[[], Iterable[np.ndarray | int]],
) -> None:
    console = Console(stderr=True)
    # Not by tempfile, whose files are readable by one user only: a cache may be shared.
    partial = path.with_name(f"{path.stem}{uuid.uuid4().hex}.part")
    with partial.open("xb") as file:
        try:
            file.write(_header(shape, dtype))
            for row in track(
                rows(), path.stem, shape[0], console=console, transient=True, disable=not console.is_terminal
            ):
                file.write(np.ascontiguousarray(row, dtype).tobytes())
            file.close()
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
