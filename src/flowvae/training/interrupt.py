"""Ctrl-C, a scheduler's SIGTERM and a closing terminal, as requests that never interrupt a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = tuple(  # SIGHUP, of a terminal that closes, is not on Windows
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


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

    # Under nohup, SIGHUP is ignored, and stays so.
    kinds = [kind for kind in SIGNALS if signal.getsignal(kind) is not signal.SIG_IGN]
    previous = {kind: signal.signal(kind, remember) for kind in kinds}
    try:
        yield lambda: asked
    finally:
        for kind in kinds:
            signal.signal(kind, previous[kind])
