"""Measurements that are interrupted, and that the same command continues."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowvae.commands.progress import SECONDS_BETWEEN_LINES
from flowvae.evaluation import Finished
from flowvae.processes import is_first
from flowvae.runs.scores import read_unfinished, write_unfinished
from flowvae.training.interrupt import interrupting


class Kept:
    """What is finished of a measurement; every half minute it goes to the file ``path``, if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        found = None if path is None else read_unfinished(path)
        self.latest = None if found is None else Finished(dict(found[0]), found[1])
        self._saved = time.monotonic()

    def __call__(self, finished: Finished) -> None:
        """Keep all that is finished so far."""
        self.latest = finished
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_LINES:
            self.save()

    def save(self) -> None:
        if self.path is not None and self.latest is not None and is_first():
            write_unfinished(self.path, *self.latest)
        self._saved = time.monotonic()


@contextmanager
def continued(path: Path | None) -> Iterator[Kept]:
    """Yield what an interrupted measurement kept in a file, which is removed after the body.

    Ctrl-C, SIGTERM and SIGHUP save all that is finished.
    """
    kept = Kept(path)
    try:
        with interrupting():
            yield kept
    except KeyboardInterrupt:
        kept.save()
        if path is None or kept.latest is None:
            raise
        raise KeyboardInterrupt("the same command continues") from None
    if path is not None:
        path.unlink(missing_ok=True)
