"""Arrays that took long to make, kept on the disk and memory-mapped: they need not fit into memory."""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from flowvae.data.reading import unreadable


def cache_folder() -> Path:
    """FLOWVAE_CACHE, or flowvae in XDG_CACHE_HOME, or ~/.cache/flowvae. May be deleted at any time."""
    named = os.environ.get("FLOWVAE_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flowvae"


def fingerprint(*parts: object) -> str:
    """A short name for whatever ``parts`` say."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def cached_array(
    name: str, shape: tuple[int, ...], dtype: type[np.generic], rows: Callable[[], Iterable[np.ndarray | int]]
) -> np.ndarray:
    """The array of that shape whose first axis ``rows()`` gives one by one, made once and then mapped.

    The file NAME.npy of the cache is written beside its place and renamed into it: one that is there is
    whole. What is written to the array stays in memory, and the file as it is.
    """
    path = cache_folder() / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, shape, dtype, rows)
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise unreadable(path, "a cached array; delete it", error) from error
    if array.shape != shape or array.dtype != dtype:
        raise unreadable(path, "a cached array; delete it", f"it is {array.dtype} {array.shape}")
    return array


def _write(
    path: Path,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    rows: Callable[[], Iterable[np.ndarray | int]],
) -> None:
    console = Console(stderr=True)
    # Not by tempfile, whose files are for one user: others who share the cache read this one, too.
    partial = path.with_name(f"{path.stem}{uuid.uuid4().hex}.part")
    with partial.open("xb") as file:
        try:
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for row in track(
                rows(), path.stem, shape[0], console=console, transient=True, disable=not console.is_terminal
            ):
                file.write(np.ascontiguousarray(row, dtype).tobytes())
            file.close()
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
