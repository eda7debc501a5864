"""Arguments that several commands have, and the width of what they print."""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from flowvae.errors import UserError

Run = Annotated[Path, Positional, arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
Images = Annotated[
    tuple[str, ...], Positional, arg(metavar="IMAGES [IMAGES ...]", help_behavior_hint="(required)")
]


def shown_default(text: str) -> Any:
    """Show ``text`` in the help in place of None."""
    return arg(help_behavior_hint=f"(default: {text})")


Split = Annotated[
    Literal["train", "valid", "test"] | None, shown_default("test; all images of a file without splits")
]


def check_runs(runs: tuple[Path, ...]) -> None:
    if not runs:
        raise UserError("no run is given; name the directory of at least one")


def width() -> int | None:
    """Characters that a line of the terminal holds; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
