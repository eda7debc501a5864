"""The live display of a training run."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


class Display:
    """A bar with epoch, -ELBO, KL, images/s and time left; above it a line for every validation."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=1.0, numbers="starting")

    def update(
        self, fraction: float, epoch: int, negative_elbo: float, kl: float, rate: float, seconds: float
    ) -> None:
        left = int(seconds * (1 - fraction) / fraction) if fraction else 0
        numbers = (
            f"epoch {epoch}  -ELBO {negative_elbo:6.2f}  KL {kl:5.2f}  {rate:5.0f} images/s  "
            f"{left // 60}:{left % 60:02d} left"
        )
        self._progress.update(self._task, completed=fraction, numbers=numbers)

    def line(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)


@contextmanager
def display(name: str, visible: bool = True) -> Iterator[Display]:
    """Show a `Display` on standard error where ``visible``."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    console = Console(stderr=True, quiet=not visible)
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        yield Display(progress, name)
