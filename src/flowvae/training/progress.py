"""The live display of a training run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from flowvae.titles import title

MOST = 2
"""number of the model's numbers on the display"""


class Display:
    """A bar with epoch, the model's first numbers, images/s and time left, below a line per validation."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=1.0, numbers="starting")

    def update(
        self, fraction: float, epoch: int, shown: Mapping[str, float], rate: float | None, seconds: float
    ) -> None:
        left = int(seconds * (1 - fraction) / fraction) if fraction else 0
        speed = "" if rate is None else f"  {rate:5.0f} images/s"
        numbers = f"epoch {epoch}  {_first(shown)}{speed}  {left // 60}:{left % 60:02d} left"
        self._update(completed=fraction, numbers=numbers)

    def busy(self, doing: str) -> None:
        """Show what is done between two steps, such as validating, until the next update."""
        self._update(numbers=doing, refresh=True)

    def validation(self, step: int, epoch: float, scores: Mapping[str, float]) -> None:
        self.line(f"step {step:6d}  epoch {epoch:6.2f}  validation  {_first(scores)}")

    def line(self, text: str) -> None:
        with _or_silently(self._progress.console):
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _update(self, **values: Any) -> None:
        with _or_silently(self._progress.console):
            self._progress.update(self._task, **values)


@contextmanager
def _or_silently(console: Console) -> Iterator[None]:
    """Show nothing from now on if writing fails, as to a terminal that was closed: training must not end."""
    try:
        yield
    except OSError:
        console.quiet = True


def _first(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{title(name)} {value:6.2f}" for name, value in list(numbers.items())[:MOST])


@contextmanager
def display(name: str, visible: bool = True) -> Iterator[Display]:
    """Show a `Display` on standard error if ``visible``."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    console = Console(stderr=True, quiet=not visible)
    progress = Progress(*columns, console=console, refresh_per_second=4)
    with _or_silently(console):
        progress.start()
    try:
        yield Display(progress, name)
    finally:
        with _or_silently(console):
            progress.stop()
