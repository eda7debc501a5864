"""Cases in a process of their own, which is watched: time, memory, writes, programs, the network, warnings.

Linux only: it forks, and asks /proc how much memory was used.
"""

import contextlib
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flowvae.errors import UserError

LIBC = ctypes.CDLL(None)
SECONDS = 10.0
"""longest time of a case, of the processor: others use it as well"""
WAITING = 60.0
"""longest time until a case ends, in seconds"""
MEMORY = 2**30
"""most bytes of memory that a case may take, over what the process had before"""
LONGEST_LINE = 1100
SPILLS = re.compile(r"^.*(?:Traceback|Warning).*$", re.MULTILINE)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
    *("os.chown", "os.utime", "shutil.rmtree"),
}
FORBIDDEN = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "pickle.find_class"),
}
"""audited events that nothing that is read may cause"""

Prepare = Callable[[int, Path], tuple[Callable[[], None], Path]]
"""writes the files of a case into an empty directory; returns what reads them, and the only directory that
may be written to"""


class Outcome(NamedTuple):
    """What came of a case."""

    number: int
    kind: str
    """read, refused, or how it failed"""
    detail: str
    seconds: float
    """of the processor"""
    memory: int
    """bytes at its peak, over what the process had before"""


class _HangError(BaseException):
    """It takes too long; no handler of the package's catches it."""


class Watch:
    """Notes and prevents what is written outside an allowed directory, started, or asked of the network."""

    def __init__(self, places: Sequence[str] = ()) -> None:
        self.allowed, self.places = "", tuple(f"{place}/" for place in places)
        self.noted: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.allowed:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & WRITING:
                self._note(event, path)
        elif event in CHANGES:
            for path in arguments[:2]:
                self._note(event, path)
        elif event in FORBIDDEN:
            self.noted.append(f"{event} {arguments!r:.200}")
            raise PermissionError(f"{event}, in a case")

    def _note(self, event: str, path: Any) -> None:
        name = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""
        if name and name != os.devnull and not f"{name}/".startswith((self.allowed, *self.places)):
            self.noted.append(f"{event} {name}")
            raise PermissionError(f"{event} {name}, outside of a case")


def run_cases(
    numbers: Sequence[int], prepare: Prepare, folder: Path, quiet: bool = True, places: Sequence[str] = ()
) -> Iterator[Outcome]:
    """Try cases in another process, with ``folder``, which is empty, to work in.

    A process that ends or hangs in a case is replaced. Cases may print only if they are not ``quiet``, and
    never warnings or tracebacks, and write to ``places`` beside the directory of `Prepare`.
    """
    left = list(numbers)
    while left:
        report = folder / "report"
        report.write_bytes(b"")
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                _work(left, prepare, folder, quiet, places)
                code = 0
            os._exit(code)
        status = _waited(child, report)
        found = [Outcome(*json.loads(line)) for line in report.read_text().splitlines()]
        yield from found
        left = left[len(found) :]
        if left and status:
            ended = "hangs" if status == signal.SIGKILL else f"ends the process, status {status}"
            yield Outcome(left.pop(0), "dead", ended, 0.0, 0)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _waited(child: int, report: Path) -> int:
    """Wait for the process, and end it where it reports nothing for too long; return its status."""
    size, since = -1, time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if (now := report.stat().st_size) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > 2 * WAITING:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _work(numbers: Sequence[int], prepare: Prepare, folder: Path, quiet: bool, places: Sequence[str]) -> None:
    reported = os.open(folder / "report", os.O_WRONLY | os.O_APPEND)
    spilt = os.open(folder / "spilt", os.O_RDWR | os.O_CREAT)
    os.dup2(spilt, 1)
    os.dup2(spilt, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _hang)
    virtual = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 3 * MEMORY, virtual + 3 * MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch(places)
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", ResourceWarning)  # as by default, and of what was there before the case
    warnings.showwarning = lambda message, kind, *_: watch.noted.append(f"{kind.__name__}: {message}")
    for number in numbers:
        case = folder / str(number)
        case.mkdir()
        read, allowed = prepare(number, case)
        os.environ["FLOWVAE_CACHE"] = str(allowed / "cache")
        outcome = _tried(number, read, allowed, watch)
        printed = os.pread(spilt, os.fstat(spilt).st_size, 0).decode(errors="replace")
        os.ftruncate(spilt, 0)
        os.lseek(spilt, 0, os.SEEK_SET)
        said = printed if quiet else "".join(SPILLS.findall(printed))
        if said and outcome.kind in ("read", "refused"):
            outcome = outcome._replace(kind="prints", detail=said[:200])
        outcome = outcome._replace(detail=outcome.detail.replace(str(case), "..."))
        shutil.rmtree(case, ignore_errors=True)
        os.write(reported, json.dumps(outcome).encode() + b"\n")


def _tried(number: int, read: Callable[[], None], allowed: Path, watch: Watch) -> Outcome:
    if hasattr(LIBC, "malloc_trim"):  # glibc may keep what was freed, and a case could use it unseen
        LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = _memory("VmRSS")
    watch.noted.clear()
    watch.allowed = f"{allowed}/"
    begun = time.process_time()
    kind, detail = "read", ""
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        read()
    except UserError as error:
        kind, detail = "refused", str(error)
        if "\n" in detail or not detail.strip() or len(detail) > LONGEST_LINE:
            kind, detail = "form", f"not one line: {detail[:200]!r}"
    except _HangError as error:
        kind, detail = "slow", _place(error)
    except BaseException as error:
        kind, detail = "does" if watch.noted else type(error).__name__, f"{_place(error)}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        watch.allowed = ""
    seconds = time.process_time() - begun
    memory = max(0, _memory("VmHWM") - before)
    if kind in ("read", "refused"):
        if watch.noted:
            kind, detail = "does", watch.noted[0]
        elif memory > MEMORY:
            kind = "memory"
    return Outcome(number, kind, detail, seconds, memory)


def _hang(number: int, frame: object) -> None:
    raise _HangError


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(name)


def _place(error: BaseException) -> str:
    """Name the innermost line of the package in a traceback, or else of anything."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name != "_hang"]
    own = [frame for frame in frames if "/flowvae/" in frame.filename]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.name}"
