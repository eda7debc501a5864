"""Ctrl-C, a scheduler's SIGTERM and a closing terminal, as requests that never interrupt a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(  # SIGHUP, of a terminal that closes, is not on Windows
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first signal of a kind makes the yielded function return True; a second one interrupts."""
    asked = False

    def remember(signal_number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        kind = signal.Signals(signal_number)
        signal.signal(kind, previous[kind])

    with _handling(remember) as previous:
        yield lambda: asked


@contextmanager
def interrupting() -> Iterator[None]:
    """Inside, any of the signals raises KeyboardInterrupt at once."""

    def interrupt(signal_number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield


@contextmanager
def _handling(handler: Callable[[int, object], None]) -> Iterator[dict[signal.Signals, Any]]:
    """Set a handler of the signals inside, and yield the previous one of each."""
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
        # Under nohup, SIGHUP is ignored, and stays so.
        kinds = [kind for kind in SIGNALS if signal.getsignal(kind) is not signal.SIG_IGN]
        previous |= {kind: signal.signal(kind, handler) for kind in kinds}
    try:
        yield previous
    finally:
        for kind, before in previous.items():
            signal.signal(kind, before)
