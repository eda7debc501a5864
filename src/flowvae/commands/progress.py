"""Progress of a command: a bar on a terminal, and lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from flowvae.processes import is_first

SECONDS_BETWEEN_LINES = 30.0
Report = Callable[[float], None]
"""called with the finished fraction"""


@contextmanager
def reporting(what: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that shows the finished fraction on standard error.

    A terminal shows a bar; otherwise a line is written every half minute.
    """
    console = Console(stderr=True)
    if not is_first():
        yield lambda done: None
        return
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(what, total=1.0)
            yield lambda done: progress.update(task, completed=done)
        return
    last = time.monotonic()

    def report(done: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done:.0%}", file=sys.stderr, flush=True)

    yield report
