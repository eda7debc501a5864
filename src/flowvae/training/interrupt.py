"""Ctrl-C, or the SIGTERM of a scheduler or a container, as a wish, so that a step is never cut in two."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first signal of its kind just makes the yielded function true; a second one interrupts."""
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield lambda: False
        return
    asked = False

    def remember(signal_number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        kind = signal.Signals(signal_number)
        signal.signal(kind, previous[kind])

    previous = {kind: signal.signal(kind, remember) for kind in SIGNALS}
    try:
        yield lambda: asked
    finally:
        for kind in SIGNALS:
            signal.signal(kind, previous[kind])
