"""Runs of every system that are killed, or meet another trouble, at every call that changes a file; resumed.

A case is a training run in a process of its own, trouble at one of its calls, and the recovery: the run is
resumed, or started again if it has no directory. It must end as an unbroken run, bit for bit: weights, their
averages, optimizers, the best weights, and all lines of metrics but for times and rates. The state in which
it continues must be that of the last save that was complete before the trouble, or a later one.

A budget in minutes holds another number of steps every time: such a run must end within it, with the best of
its weights and a line for every step. Two processes are killed one at a time.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from campaigns import disk
from campaigns.disk import KEPT, Call, Disk, watch
from campaigns.record import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))  # which has small forms of all systems

import processes
import psutil
import torch._dynamo  # noqa: F401  # what an optimizer imports, once and not in every process
from system_table import TABLE
from tiny_runs import assert_ended_as, files, state_of, wait_for, write_halves

from flowvae import cli, forms  # noqa: F401
from flowvae.data import load_configured
from flowvae.models.registry import SYSTEMS
from flowvae.runs import BEGUN, Run, read_metrics, write_json
from flowvae.runs.formats import written
from flowvae.training import loop, overfitting
from flowvae.training.checkpoint import FILE as STATE
from flowvae.training.checkpoint import State

STEPS = 7  # of which the fifth ends an epoch; the state is saved after each
LIMIT = 300  # seconds of a process, after which it counts as hanging
LATE = 10  # seconds that a budget in minutes may be exceeded by: a step and a validation on a busy machine
POINTS = 1
"""calls, of those of a run, at which each kind of trouble is tried"""
DETAILED = ("vae",)
"""forms with all kinds of trouble; the others are killed, and lose power"""
LOGS = "logs"
"""directory of TensorBoard's files in a run"""

Act = Callable[[int, Call], None]


def write_noise(path: Path) -> None:
    """Write few images of which nothing can be learned but their density."""
    random = np.random.default_rng(0)
    counts = {"train": 8, "valid": 20, "test": 4}
    splits: Any = {name: random.integers(0, 2, (count, 8, 8), np.uint8) for name, count in counts.items()}
    np.savez(path, **splits)


def turn_soon() -> None:
    """Wait for a better validation for few steps."""
    overfitting.STEPS, overfitting.VALIDATIONS = 2, 1


class Form(NamedTuple):
    """What is trained: a row of the table of systems, with other options and images."""

    row: str
    training: Mapping[str, Any] = {"steps": STEPS}
    write: Callable[[Path], None] = write_halves
    prepare: Callable[[], object] = lambda: None
    """what each of its processes does first"""
    binarization: str | None = None


FORMS = {name: Form(name) for name in TABLE} | {
    # Dropout rises after step 6, and training ends after step 12.
    "vae, few images": Form(
        "vae",
        {"steps": 99, "batch_size": 8, "learning_rate": 0.1, "learning_rate_warm_up": 0, "averaging": 0.0},
        write_noise,
        turn_soon,
        "static",
    ),
    "vae, TensorBoard": Form("vae", {"steps": STEPS, "track": "tensorboard"}),
    "vae, minutes": Form("vae", {"minutes": 0.05}),
    "vae, two processes": Form("vae", {"steps": 100}),
}
BY_DEFAULT = (
    *SYSTEMS,
    "vae-causal-mixture",
    "pixelcnn-mixture",
    *(name for name in FORMS if name not in TABLE),
)
"""forms that are tried"""


class Ended(NamedTuple):
    code: int
    """exit code; of a process that a signal ended, minus its number"""
    said: str
    """on both streams"""


def forked(words: Sequence[Any], said: Path, *prepare: Callable[[], object]) -> int:
    """Start a command of flowvae in a fork of this process, after ``prepare``, and return its id."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        signal.alarm(LIMIT)
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as in a terminal
            signal.signal(kind, signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL)
        output = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        loop.SAVE_EVERY = -1.0  # the state, after every step
        sys.argv = ["flowvae", *map(str, words)]
        for each in prepare:
            each()
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def end_of(process: int, said: Path) -> Ended:
    _, status = os.waitpid(process, 0)
    return Ended(os.waitstatus_to_exitcode(status), said.read_text(errors="replace"))


@dataclass
class Scenario:
    """A training run from a directory as it is at first, with the calls of its unbroken process."""

    folder: Path
    """of everything about this scenario"""
    start: Sequence[Any]
    """the words of the command that starts the run"""
    unbroken: Path
    """a directory that an unbroken run has left"""
    form: Form
    words: Sequence[Any] = ()
    """the words of the command that meets trouble"""
    calls: list[tuple[int, Call]] = field(default_factory=list)
    """those that succeeded, with their numbers; what only reads has the number of the last before it"""
    saves: list[tuple[int, int]] = field(default_factory=list)
    """number of calls at the end of a save, and its step"""

    @property
    def place(self) -> Path:
        """The directory whose calls are watched, and that holds the directory of the run."""
        return self.folder / "place"

    @property
    def run(self) -> Path:
        return self.place / "runs" / "run"

    @property
    def origin(self) -> Path:
        """A copy of `place` from before."""
        return self.folder / "origin"

    def reset(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.origin, self.place)

    def record(self) -> None:
        """Run without trouble, and keep the calls."""
        self.reset()
        said, kept = self.folder / "said", self.folder / "calls"

        def prepare() -> None:
            calls: list[tuple[int, Any]] = []
            saves: list[tuple[int, int]] = []
            total, save = 0, State.save

            def count(number: int, call: Call) -> None:
                nonlocal total
                total = number

            def remember(call: Call) -> None:
                calls.append((total, call._asdict() | {"data": call.data.decode("latin-1")}))
                kept.write_text(json.dumps([calls, saves]))

            def saving(self: State, run: Path, metrics: BinaryIO) -> None:
                save(self, run, metrics)
                saves.append((total, self.step))

            State.save = saving
            watch(self.place, count, remember, LOGS)

        ended = end_of(forked(self.words, said, self.form.prepare, prepare), said)
        assert ended.code == 0, ended.said
        calls, saves = json.loads(kept.read_text())
        self.calls = [
            (number, Call(**{**call, "data": call["data"].encode("latin-1")})) for number, call in calls
        ]
        self.saves = [(calls, step) for calls, step in saves]

    def saved_before(self, number: int) -> int:
        """The step of the last save that is complete before a call."""
        first = 0 if not (self.origin / "runs").exists() else saved_step(self.origin / "runs" / "run")
        return max([first, *(step for calls, step in self.saves if calls < number)])


def saved_step(run: Path) -> int:
    """The step in which a run continues."""
    return 0 if (run / BEGUN).exists() or not (run / STATE).exists() else state_of(run)["step"]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(at: int) -> Act:
    return lambda number, call: _die() if number == at else None


def killed_half_way(at: int) -> Act:
    """After half of the bytes that this call writes."""

    def act(number: int, call: Call) -> None:
        if number == at:
            disk.write(call.descriptor, call.data[: len(call.data) // 2])
            _die()

    return act


def signalled(at: int, kind: signal.Signals) -> Act:
    return lambda number, call: os.kill(os.getpid(), kind) if number == at else None


def failing(at: int, code: int, fails: Callable[[Call], object], once: bool = False) -> Act:
    """From this call on, or ``once``, calls for which ``fails`` fail with the error ``code``."""

    def act(number: int, call: Call) -> None:
        if (number == at or (number > at and not once)) and fails(call):
            path = () if call.name in ("write", "fsync", "ftruncate") else (call.path,)
            raise OSError(code, os.strerror(code), *path)

    return act


def takes_space(call: Call) -> bool:
    return call.name in ("write", "mkdir") or (call.name == "open" and bool(call.flags & os.O_CREAT))


def doing(at: int, what: Callable[[], object]) -> Act:
    def act(number: int, call: Call) -> None:
        if number == at:
            what()

    return act


def set_clocks(seconds: float) -> None:
    """Move both clocks of this process."""
    for name in ("time", "monotonic"):
        original = getattr(time, name)
        setattr(time, name, lambda original=original: original() + seconds)


class Trouble(NamedTuple):
    """A kind of trouble: what it does at the call of a number, and how the command may end."""

    act: Callable[[Path, int], Act]
    ends: Callable[[Ended], bool]
    lost: bool = False
    """whether the trouble itself removes what was saved"""


def one_line(ended: Ended) -> bool:
    """Exit code 2 with one line of flowvae's last, and no traceback."""
    last = ended.said.rstrip("\n").rpartition("\n")[2]
    return ended.code == 2 and last.startswith("flowvae: ") and "Traceback" not in ended.said


def stopped(ended: Ended) -> bool:
    """Stopped with a line that says how to resume; or, while nothing is trained, by the signal itself."""
    at_once = ended.code in (-signal.SIGTERM, -signal.SIGHUP)
    asked = ended.code == 130 and ended.said.rstrip().endswith("flowvae: interrupted")
    return (at_once or asked) and "Traceback" not in ended.said


def always(_: Call) -> bool:
    return True


def dead(ended: Ended) -> bool:
    return ended.code == -signal.SIGKILL


TROUBLES: Mapping[str, Trouble] = {
    "killed before a call": Trouble(lambda run, at: killed(at), dead),
    "killed half way through a write": Trouble(lambda run, at: killed_half_way(at), dead),
    "SIGTERM": Trouble(lambda run, at: signalled(at, signal.SIGTERM), stopped),
    "SIGHUP": Trouble(lambda run, at: signalled(at, signal.SIGHUP), stopped),
    "SIGINT": Trouble(lambda run, at: signalled(at, signal.SIGINT), stopped),
    "no space left": Trouble(lambda run, at: failing(at, errno.ENOSPC, takes_space), one_line),
    "quota exceeded": Trouble(lambda run, at: failing(at, errno.EDQUOT, takes_space), one_line),
    "read-only from then on": Trouble(lambda run, at: failing(at, errno.EROFS, always), one_line),
    "one input/output error": Trouble(lambda run, at: failing(at, errno.EIO, always, once=True), one_line),
    "input/output errors from then on": Trouble(lambda run, at: failing(at, errno.EIO, always), one_line),
    "directory removed": Trouble(
        lambda run, at: doing(at, lambda: shutil.rmtree(run, ignore_errors=True)), one_line, lost=True
    ),
    "clocks set back": Trouble(lambda run, at: doing(at, lambda: set_clocks(-1e8)), lambda ended: False),
    "clocks set forward": Trouble(lambda run, at: doing(at, lambda: set_clocks(1e8)), lambda ended: False),
}
KILLED = ("killed before a call", "killed half way through a write")


class Found(NamedTuple):
    row: str
    command: str
    """train or resume"""
    kind: str
    at: str
    wrong: str | None
    """what is not as promised"""


def broken(scenario: Scenario, name: str, at: int) -> str | None:
    """Try trouble at a call, and recover; return what is wrong, if anything is."""
    trouble, said = TROUBLES[name], scenario.folder / "said"
    scenario.reset()
    act = trouble.act(scenario.run, at)
    ended = end_of(forked(scenario.words, said, scenario.form.prepare, watching(scenario, act)), said)
    unharmed = ended.code == 0 and "trained" in ended.said
    possible = name not in KILLED or at > scenario.calls[-1][0]
    if not (trouble.ends(ended) or (unharmed and possible)):
        return f"it ended with code {ended.code}: {ended.said[-2000:]}"
    return recovered(scenario, 0 if trouble.lost else scenario.saved_before(at))


def watching(scenario: Scenario, act: Act) -> Callable[[], None]:
    return lambda: watch(scenario.place, act, ignored=LOGS)


def powerless(scenario: Scenario, kept: disk.Kept, at: int) -> str | None:
    """As `broken`, of a machine that loses power before a call."""
    calls = [call for number, call in scenario.calls if number < at]
    shutil.rmtree(scenario.place, ignore_errors=True)
    Disk(scenario.origin, calls).write(scenario.place, kept)
    # This disk has none of TensorBoard's files, which it is told to leave out.
    return recovered(scenario, scenario.saved_before(at), tracked=False)


def recovered(scenario: Scenario, step: int, tracked: bool = True) -> str | None:
    """Resume, or start again without a directory; return what is wrong."""
    run, said = scenario.run, scenario.folder / "said"
    if run.exists():
        try:
            found = saved_step(run)
        except Exception as error:
            return f"the state is damaged: {error}"
        words: Sequence[Any] = ("train", "--resume", run, "--device", "cpu")
    else:
        found, words = 0, scenario.start
    if found < step:
        return f"step {step} was saved, and it continues from {found}"
    ended = end_of(forked(words, said, scenario.form.prepare), said)
    if ended.code:
        return f"the recovery ended with code {ended.code}: {ended.said[-2000:]}"
    return unequal(run, scenario.unbroken, scenario.form, tracked)


def unequal(run: Path, unbroken: Path, form: Form, tracked: bool = True) -> str | None:
    """Return what in a run that has ended is not as promised, also in TensorBoard's files if ``tracked``."""
    try:
        if "minutes" in form.training:
            assert_ended_in_time(run, 60 * form.training["minutes"])
        else:
            assert_ended_as(run, unbroken)
        if tracked and "track" in form.training:
            assert_tracked(run)
    except (AssertionError, OSError) as error:
        return f"not equal: {error!r}"
    ours, theirs = (
        {name for name in files(each) if not name.endswith(".partial") and not name.startswith(LOGS)}
        for each in (run, unbroken)
    )
    return None if ours == theirs else f"other files: {sorted(ours)}"


def assert_ended_in_time(run: Path, budget: float) -> None:
    """A run ended within a budget in seconds, but for a step and a validation, with its best weights."""
    state, records = state_of(run), read_metrics(run)
    assert state["seconds"] < budget + LATE, state["seconds"]
    places = [(line["step"], line["split"]) for line in records]
    assert places == sorted(places), places
    assert len(places) == len(set(places)), places
    validations = [line for line in records if line["split"] == "valid"]
    assert validations[-1]["step"] == state["step"], places
    assert min(line["negative_elbo"] for line in validations) == state["best"]
    assert Run(run).model is not None


def assert_tracked(run: Path) -> None:
    """TensorBoard reads its files, and they have the last step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps: set[int] = set()
    for path in (run / LOGS).rglob("events.out*"):
        found = EventAccumulator(str(path)).Reload()
        steps.update(event.step for tag in found.Tags()["scalars"] for event in found.Scalars(tag))
    assert state_of(run)["step"] in steps, steps


def killed_at_random(scenario: Scenario, seconds: float, times: int, noise: random.Random) -> str | None:
    """Kill after a random time, up to ``seconds``, and again after resuming; then recover."""
    said = scenario.folder / "said"
    scenario.reset()
    words = scenario.words
    for _ in range(times):
        process = forked(words, said, scenario.form.prepare)
        time.sleep(noise.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        ended = end_of(process, said)
        if ended.code not in (0, -signal.SIGKILL):
            return f"it ended with code {ended.code}: {ended.said[-2000:]}"
        if scenario.run.exists():
            words = ("train", "--resume", scenario.run, "--device", "cpu")
    return recovered(scenario, 0)


def describe(form: Form, folder: Path) -> Path:
    """Write the images and the configuration of a form, and return the path of the latter."""
    form.write(folder / "images.npz")
    row = TABLE[form.row]
    config = row.config(folder / "images.npz", **form.training).revised(
        binarization=form.binarization or row.config(folder).data.binarization
    )
    assert config.model is not None
    described = folder / "described.json"
    write_json(described, written(config, load_configured(config.data).spec, config.model.name))
    return described


def scenarios(form: Form, folder: Path) -> Iterator[tuple[str, Scenario]]:
    """A run that starts, and one that is resumed from the middle of the first."""
    described = describe(form, folder)
    first = Scenario(folder / "train", (), folder / "unbroken", form)
    first.start = ("train", "--config", described, "--out", first.run, "--device", "cpu")
    first.words = first.start
    first.origin.mkdir(parents=True)
    first.record()
    if "track" in form.training:
        assert_tracked(first.run)
    shutil.copytree(first.run, first.unbroken)
    yield "train", first

    said, middle = folder / "said", first.saves[len(first.saves) // 2 - 1][0] + 3
    first.reset()
    end_of(forked(first.words, said, form.prepare, watching(first, killed(middle))), said)
    second = Scenario(folder / "resume", (), first.unbroken, form)
    second.start = ("train", "--config", described, "--out", second.run, "--device", "cpu")
    second.words = ("train", "--resume", second.run, "--device", "cpu")
    shutil.copytree(first.place, second.origin)
    second.record()
    yield "resume", second


def spread(points: int, among: Sequence[int], noise: random.Random) -> list[int]:
    """As many numbers of calls, one at random from each part of a run; all, if there are no more."""
    if points >= len(among):
        return list(among)
    return [among[int((place + noise.random()) * len(among) / points)] for place in range(points)]


def tried(rows: Sequence[str], points: int, detailed: Sequence[str], seed: int = 0) -> Iterator[Found]:
    """Every case."""
    noise = random.Random(seed)
    for row in rows:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if row.endswith("processes"):
                yield from of_two_processes(row, folder, points, noise)
                continue
            for command, scenario in scenarios(FORMS[row], folder):
                every = range(1, scenario.calls[-1][0] + 2)  # before it, or after the last
                writes = [number for number, call in scenario.calls if call.name == "write"]
                kinds = TROUBLES if row in detailed else KILLED
                minutes = FORMS[row].training.get("minutes", 0.0)
                if minutes:  # its calls are others every time
                    kinds = ()
                began = time.monotonic()
                for kind in kinds:
                    for at in spread(points, writes if kind == KILLED[1] else every, noise):
                        yield Found(row, command, kind, str(at), broken(scenario, kind, at))
                for kept in KEPT if kinds else ():
                    for at in spread(points, every, noise):
                        kind = f"power lost, {kept} kept"
                        yield Found(row, command, kind, str(at), powerless(scenario, kept, at))
                each = (time.monotonic() - began) / (len(kinds) * points) if kinds else 60 * minutes
                for _ in range(points):
                    yield Found(
                        row, command, "killed at random", "", killed_at_random(scenario, each, 3, noise)
                    )


def of_two_processes(row: str, folder: Path, points: int, noise: random.Random) -> Iterator[Found]:
    """Kill either of two processes, a random time after their run has a directory, and resume both."""
    words = ("train", "--config", describe(FORMS[row], folder), "--device", "cpu", "--out")
    unbroken, run = folder / "unbroken", folder / "run"
    process = processes.start(*words, unbroken)
    wait_for(unbroken, process)
    began = time.monotonic()
    ended = processes.end_of(process, LIMIT)
    assert ended.code == 0, ended.err
    lasts = time.monotonic() - began
    for point in range(2 * points):
        wrong = one_killed(words, run, point % 2, noise.uniform(0, lasts))
        yield Found(
            row,
            "train",
            "one of two processes killed",
            str(point % 2),
            wrong or unequal(run, unbroken, FORMS[row]),
        )
        shutil.rmtree(run, ignore_errors=True)


def one_killed(words: Sequence[Any], run: Path, rank: int, after: float) -> str | None:
    """Kill the process of a rank ``after`` seconds, and resume; return what is wrong."""
    process = processes.start(*words, run)
    wait_for(run, process)
    killed = False
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(AssertionError, psutil.Error):  # it has just ended
            processes.of_rank(rank, process).kill()
            killed = True
    ended = processes.end_of(process, LIMIT)
    if ended.code not in ((0, 1) if killed else (0,)) or "flowvae/training" in ended.err:  # in a traceback
        return f"it ended with code {ended.code}: {ended.err[-2000:]}"
    again = ("train", "--resume", run, "--device", "cpu") if run.exists() else (*words, run)
    ended = processes.run(*again)
    return f"the recovery ended with code {ended.code}: {ended.err[-2000:]}" if ended.code else None


def run(
    tries: int | None = None, rows: Sequence[str] = BY_DEFAULT, detailed: Sequence[str] = DETAILED
) -> dict[str, Any]:
    """Try all kinds at as many calls of a run as tries [1], of every form.

    In a new process, since one whose torch has computed gradients cannot be forked.
    """
    words = json.dumps([rows, tries or POINTS, detailed])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "campaigns.kills", words],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = [Found(*json.loads(line)) for line in process.stdout]
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with exit code {process.returncode}")
    return summary(found)


def summary(found: Sequence[Found]) -> dict[str, Any]:
    """Numbers of cases tried, and of those that ended as an unbroken run; what is wrong with the others."""
    kinds, systems = (
        {
            name: _counts([each for each in found if key(each) == name])
            for name in dict.fromkeys(map(key, found))
        }
        for key in (lambda each: each.kind, lambda each: each.row)
    )
    wrong = [each._asdict() for each in found if each.wrong is not None]
    return {**_counts(found), "kinds": kinds, "systems": systems, "wrong": wrong}


def _counts(found: Sequence[Found]) -> dict[str, int]:
    return {"tried": len(found), "equal": sum(each.wrong is None for each in found)}


def table(found: Mapping[str, Any]) -> str:
    """What was tried, as Markdown."""
    parts = []
    for title, key in (("trouble", "kinds"), ("system", "systems")):
        rows = "".join(f"| {name} | {row['tried']} | {row['equal']} |\n" for name, row in found[key].items())
        parts.append(f"| {title} | tried | nothing lost, and equal |\n|---|---:|---:|\n{rows}")
    return "\n".join(parts)


def main() -> None:
    rows, points, detailed = json.loads(sys.argv[1])
    for found in tried(rows, points, detailed):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
