"""Ctrl-C and SIGTERM, as schedulers and containers send it, as requests that never interrupt a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first signal of a kind makes the yielded function return True; a second one interrupts."""
    if threading.current_thread() is not threading.main_thread():  # other threads cannot set handlers
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
