"""Tests in forks of a process that has loaded them and what they test: a fork for each changed module."""

import contextlib
import inspect
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest

MEMORY = 12 << 30  # bytes of addresses that a fork may use: a change can make a tensor huge
PLAIN = (type(None), bool, int, float, str, bytes, tuple, list, dict, set, frozenset)


class Tried(NamedTuple):
    """A test that was run: its name, whether it passed, and the processor's seconds."""

    name: str
    passed: bool
    seconds: float


def with_tests(paths: Sequence[str], work: Callable[[list[pytest.Item]], None]) -> None:
    """Let pytest collect the tests of some files, those marked slow excepted, and call ``work`` with them."""

    class Instead:
        @staticmethod
        def pytest_runtestloop(session: pytest.Session) -> bool:
            work(session.items)
            return True

    options = ("-qq", "-p", "no:cacheprovider", "-m", "not slow")
    code = pytest.main([*options, *paths], plugins=[Instead()])
    if code:
        raise RuntimeError(f"pytest ended with {code!r}")


def in_fork(work: Callable[[], Any], seconds: float) -> Any:
    """Return what a function returns in a fork of this process, or None if it dies or takes too long.

    Args:
        work: returns something that can be pickled.
        seconds: of the processor that the fork may use; of the clock, ten times as many.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sender.send(work())

    process = context.Process(target=child)
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(10 * seconds) else None
    except EOFError:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        receiver.close()


def run_tests(
    items: Sequence[pytest.Item],
    seconds: float | None = None,
    before: Callable[[str], None] | None = None,
) -> list[Tried]:
    """Run collected tests, silently; to be called in a fork.

    Args:
        items: the tests.
        seconds: if given, stop after a test that fails, or when the processor has worked so long.
        before: called with the name of each test before it.
    """
    tried: list[Tried] = []
    failed: set[str] = set()

    class Reports:
        @staticmethod
        def pytest_runtest_logreport(report: pytest.TestReport) -> None:
            if report.failed:
                failed.add(report.nodeid)

    plugins = items[0].config.pluginmanager
    plugins.unregister(name="terminalreporter")
    plugins.register(Reports())
    start = time.process_time()
    for item, following in zip(items, [*items[1:], None], strict=True):
        if before:
            before(item.nodeid)
        began = time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        now = time.process_time()
        tried.append(Tried(item.nodeid, item.nodeid not in failed, round(now - began, 4)))
        if seconds is not None and (failed or now - start > seconds):
            break
    return tried


def put_in(module: ModuleType, text: str) -> bool:
    """Give functions, methods and constants of a loaded module those of another text of its file.

    Functions keep their identity, so all who imported them see the change; so do those who imported a
    constant by its name. Code that already ran, such as a decorator's, does not run again.

    Returns:
        Whether anything has changed.
    """
    path = str(module.__file__)
    scratch = ModuleType(module.__name__)
    scratch.__dict__.update(__file__=path, __package__=module.__package__)
    exec(compile(text, path, "exec"), scratch.__dict__)
    return _put(module, scratch)


def _put(owner: ModuleType | type, other: ModuleType | type) -> bool:
    changed = False
    for name, new in list(vars(other).items()):
        old = vars(owner).get(name)
        old_function, new_function = _function(old), _function(new)
        if old_function and new_function:
            if new_function.__module__ == other.__dict__.get("__module__", other.__name__):
                changed |= _put_function(old_function, new_function)
        elif isinstance(old, type) and isinstance(new, type):
            nested = f"{owner.__qualname__}.{name}" if isinstance(owner, type) else name
            if old is not new and new.__qualname__ == nested:  # not what refers back to its owner
                changed |= _put(old, new)
        elif not name.startswith("__") and type(old) in PLAIN and type(new) in PLAIN and old != new:
            for one in _holders(owner, name, old):
                setattr(one, name, new)
            changed = True
    return changed


def _holders(owner: ModuleType | type, name: str, value: object) -> list[ModuleType | type]:
    """Whoever has an attribute: its module and those that imported it, or its class alone."""
    if isinstance(owner, type):
        return [owner]
    loaded = [one for one in list(sys.modules.values()) if isinstance(one, ModuleType)]
    return [one for one in loaded if vars(one).get(name) is value]


def _function(value: object) -> FunctionType | None:
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    value = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
    return value if isinstance(value, FunctionType) else None


def _put_function(old: FunctionType, new: FunctionType) -> bool:
    before = old.__code__, repr((old.__defaults__, old.__kwdefaults__))
    if before == (new.__code__, repr((new.__defaults__, new.__kwdefaults__))):
        return False
    old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
    with contextlib.suppress(ValueError):  # a change that leaves out `super()` has other variables
        old.__code__ = new.__code__
    return True
