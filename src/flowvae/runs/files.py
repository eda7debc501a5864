"""Files that a crash never leaves half written, and what is wrong with those that were damaged otherwise."""

import contextlib
import glob
import json
import math
import os
import secrets
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from flowvae.errors import UserError

LEFT_OVER = 3600.0  # seconds after which a file that nobody writes to has lost its writer


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place when all went well.

    Processes that write the same file do not meet: the last to finish stays. What a process that was killed
    left beside ``path`` is removed an hour later. An OSError is made to name ``path``: that of a full disk
    names no file, and others the one beside it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with replacing(path) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> path.read_text()
    '1 2 3'
    """
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process removes it, too
            if time.time() - partial.stat().st_mtime > LEFT_OVER:
                partial.unlink()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # it took its place, or was never made
            partial.unlink()


def write_json(path: Path, values: Any) -> None:
    """Write nested ``values`` as JSON.

    Raises:
        UserError: one of them is NaN or infinite, which JSON has no number for.
    """
    try:
        text = json.dumps(values, indent=2, allow_nan=False)
    except ValueError:
        raise UserError(f"{path} is not written: a number is not finite; train the run again") from None
    with replacing(path) as partial:
        partial.write_text(text + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is missing, cannot be read, or is not JSON, as a file with NaN or Infinity is not; or it
            has a number that is too large, such as 1e400.
    """
    try:
        return json.loads(read_bytes(path), parse_constant=_refuse, parse_float=_finite)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} the directory of a run?") from None
    except (ValueError, RecursionError):  # nested too deep, or an integer of thousands of digits
        raise UserError(f"{path} is not valid JSON; restore it or train again") from None


def _finite(text: str) -> float:
    """Python reads 1e400 as infinite."""
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def read_bytes(path: Path) -> bytes:
    """What a file holds.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); restore it") from None


def reason(error: Exception) -> str:
    """What is wrong with a file, out of the many words of the library that found it; one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Where the first line announces a list, its first item; PyTorch's advice comes in later sentences.
    line = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    return textwrap.shorten(line.split(". ")[0], 150, placeholder=" ...")
