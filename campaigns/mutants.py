"""Changes of the code that tests should notice: mutation testing of the maths and of evaluation.

The changes are mutmut's; its runner does not see functions with decorators. To load PyTorch for each change
would take seconds, so pytest collects the tests once, and a fork for each change puts it in place and runs
the tests that execute its line (see `forked`).
"""

import hashlib
import json
import random
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import coverage
import pytest

from campaigns.forked import Tried, in_fork, put_in, run_tests, with_tests
from campaigns.mutations import Mutation, mutations
from campaigns.record import REPOSITORY

FOLDERS = ("flows", "densities", "evaluation")
SOURCES = sorted(
    [f"src/flowvae/{folder}/{path.name}"
     for folder in FOLDERS for path in (REPOSITORY / "src/flowvae" / folder).glob("[!_]*.py")]
    + ["src/flowvae/objectives.py"]
)  # fmt: skip
TESTS = (
    "annealed",
    "any_size",
    "causal",
    "causal_mixture",
    "conditional",
    "coverage",
    "density_runs",
    "evaluation",
    "flows",
    "imputation",
    "impute_command",
    "inference_gaps",
    "likelihoods",
    "map_codes",
    "noise",
    "objectives",
    "oracles",
    "own_parts",
    "pixel_rnn",
    "posteriors",
    "precision",
    "priors",
    "real_nvp_density",
    "reliability",
    "sample_quality",
    "score",
    "semi_supervised",
    "steps",
    "tracing",
)
"""files of tests that execute them"""
MUTANTS = 600
SEED = 0
SECONDS = 4.0
"""of the processor, of tests for each mutant: of each function one case, then a second, the fastest first"""
KEPT = REPOSITORY / ".mutants"  # results so far: a campaign that was stopped continues
REASONS = Path(__file__).with_name("survivors.toml")


class Covered:
    """Which tests execute which lines, and how long they take; measured once for each text of the files."""

    def __init__(self, items: Sequence[pytest.Item]) -> None:
        self.items = {item.nodeid: item for item in items}
        self.lines: dict[str, dict[int, set[str]]] = {source: {} for source in SOURCES}
        self.seconds: dict[str, float] = {}
        files: dict[str, list[pytest.Item]] = {}
        for item in items:
            files.setdefault(item.nodeid.split("::")[0], []).append(item)
        for file, own in files.items():
            kept = KEPT / f"{_digest(file, *SOURCES)}.json"
            if not kept.exists():
                print(f"tests of {file}", file=sys.stderr, flush=True)
                found = in_fork(partial(_measured, own), 900)
                kept.write_text(json.dumps(found or {"tests": [], "lines": {}}), encoding="utf-8")
            found = json.loads(kept.read_text(encoding="utf-8"))
            self.seconds.update({name: seconds for name, passed, seconds in found["tests"] if passed})
            for source, lines in found["lines"].items():
                for line, names in lines.items():
                    passed = {name for name in names if name in self.seconds}
                    self.lines[source].setdefault(int(line), set()).update(passed)

    def tests(self, source: str, spans: Sequence[tuple[int, int]] = ()) -> list[pytest.Item]:
        """Choose the tests of a mutant: of the first of its spans that tests execute, or of its file."""
        lines = self.lines[source]
        for first, last in (*spans, (0, sys.maxsize)):
            names = set().union(*(tests for line, tests in lines.items() if first <= line <= last))
            if names:
                return [self.items[name] for name in self._first(names)]
        return []

    def _first(self, names: set[str]) -> Iterator[str]:
        cases: dict[str, list[str]] = {}
        for name in sorted(names, key=lambda name: self.seconds[name]):
            cases.setdefault(name.split("[")[0], []).append(name)
        left = SECONDS
        for name in (name for turn in zip_longest(*cases.values()) for name in turn if name):
            if left < 0:
                return
            left -= self.seconds[name]
            yield name


def _measured(items: Sequence[pytest.Item]) -> dict[str, Any]:
    paths = {str(REPOSITORY / source): source for source in SOURCES}
    measuring = coverage.Coverage(data_file=None, include=list(paths), config_file=False)
    measuring.start()
    tried = run_tests(items, before=measuring.switch_context)
    measuring.stop()
    data = measuring.get_data()
    lines = {source: data.contexts_by_lineno(path) for path, source in paths.items()}
    return {"tests": tried, "lines": lines}


def _digest(*files: str) -> str:
    texts = (f"{file}\n{(REPOSITORY / file).read_text(encoding='utf-8')}" for file in files)
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def sampled(found: Mapping[str, Sequence[Mutation]], seed: int = SEED) -> Iterator[tuple[str, Mutation]]:
    """Order mutants at random, one of each file in turn: the first N are a sample as even as it can be."""
    orders = {file: list(some) for file, some in found.items()}
    for file, some in orders.items():
        random.Random(f"{seed} {file}").shuffle(some)
    for turn in zip_longest(*([(file, one) for one in some] for file, some in orders.items())):
        yield from (one for one in turn if one)


def _module(source: str) -> ModuleType:
    return import_module(".".join(Path(source).with_suffix("").parts[1:]))


def _trial(source: str, text: str, items: Sequence[pytest.Item]) -> tuple[bool, list[Tried]]:
    """Put another text of a file in place and run tests; whether anything was changed, and what they said."""
    try:
        changed = put_in(_module(source), text)
    except Exception as error:  # the module could not be imported
        return True, [Tried(f"import: {error!r}", False, 0)]
    return changed, run_tests(items, SECONDS)


def _outcome(source: str, mutation: Mutation, covered: Covered) -> dict[str, Any] | None:
    text = mutation.text()
    if text is None:
        return None
    items = covered.tests(source, mutation.spans)
    if not items:
        return {"killed": False, "by": "no test executes it"}
    answer = in_fork(partial(_trial, source, text, items), 20 + 3 * SECONDS)
    if answer is None:
        return {"killed": True, "by": "time, memory or a crash"}
    changed, tried = answer
    last = tried[-1]
    return {"killed": not last.passed, "by": "" if last.passed else last.name} if changed else None


def _check_unchanged(covered: Covered) -> None:
    """Check that tests pass with every file put in as it is: else they would seem to notice everything."""
    items = {item.nodeid: item for source in SOURCES for item in covered.tests(source)[:2]}

    modules = {source: _module(source) for source in SOURCES}  # some are imported late

    def trial() -> list[Tried]:
        for source, module in modules.items():
            put_in(module, (REPOSITORY / source).read_text(encoding="utf-8"))
        return run_tests(list(items.values()), sys.maxsize)

    tried = in_fork(trial, 900)
    if not (tried and all(one.passed for one in tried)):
        raise RuntimeError(f"a test fails without a change: {tried[-1].name if tried else 'any of them'}")


def _try(items: Sequence[pytest.Item], number: int, rows: list[dict[str, Any]]) -> None:
    """Append what became of the first mutants of the sample; what earlier runs killed is not tried again."""
    covered = Covered(items)
    _check_unchanged(covered)
    digests = {source: _digest(source) for source in SOURCES}
    tried = KEPT / "tried.jsonl"
    lines = tried.read_text(encoding="utf-8").splitlines() if tried.exists() else []
    earlier = {row["key"]: row for row in map(json.loads, lines)}
    with tried.open("a", encoding="utf-8") as file:
        for source, one in sampled(all_mutations()):
            if len(rows) == number:
                return
            key = f"{digests[source]} {source}:{one.line}:{one.column}: {one.change}"
            row = earlier.get(key)
            if row is None or row["killed"] is False:
                named = {"file": source, "line": one.line, "code": one.code, "change": one.change}
                outcome = _outcome(source, one, covered) or {"killed": None}  # None: no mutant after all
                row = {"key": key, **named, **outcome}
                file.write(json.dumps(row) + "\n")
                file.flush()
            if row["killed"] is not None:
                rows.append(row)


def all_mutations() -> dict[str, list[Mutation]]:
    return {source: mutations((REPOSITORY / source).read_text(encoding="utf-8")) for source in SOURCES}


def reasons(path: Path = REASONS) -> dict[tuple[str, str, str], str]:
    """Read why survivors are harmless, by file, line of code and change."""
    known = tomllib.loads(path.read_text(encoding="utf-8"))["survivor"]
    return {(one["file"], one["code"], one["change"]): one["reason"] for one in known}


def counted(rows: Sequence[Mapping[str, Any]], reasons: Mapping[tuple[str, str, str], str]) -> dict[str, Any]:
    """Count mutants that were tried, by file, and list the survivors, with the reason if one is known."""
    files: dict[str, dict[str, int]] = {}
    survivors = []
    for row in sorted(rows, key=lambda row: (row["file"], row["line"])):
        of_file = files.setdefault(row["file"], {"made": 0, "killed": 0})
        of_file["made"] += 1
        of_file["killed"] += row["killed"]
        if not row["killed"]:
            named = {name: row[name] for name in ("file", "line", "code", "change")}
            reason = reasons.get((row["file"], row["code"], row["change"]))
            survivors.append(named | ({"reason": reason} if reason else {}))
    sums = {name: sum(of_file[name] for of_file in files.values()) for name in ("made", "killed")}
    return {**sums, "files": files, "survivors": survivors}


def run(tries: int | None = None) -> dict[str, Any]:
    """Try as many mutants as tries [600]: an hour or more."""
    KEPT.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    with_tests([f"tests/test_{name}.py" for name in TESTS], lambda items: _try(items, tries or MUTANTS, rows))
    possible = sum(map(len, all_mutations().values()))
    return {"possible": possible, "seed": SEED, "mutmut": version("mutmut"), **counted(rows, reasons())}


def table(found: Mapping[str, Any]) -> str:
    """What was found, as Markdown."""
    text = ["| file | mutants | killed |\n|---|---:|---:|\n"]
    for name, of_file in found["files"].items():
        text.append(f"| `{name}` | {of_file['made']} | {of_file['killed']} |\n")
    share = found["killed"] / found["made"]
    text.append(f"| all | {found['made']} | {found['killed']} ({share:.1%}) |\n")
    text.append(f"\n{found['made']} of {found['possible']:,} possible changes were drawn.\n")
    survivors = sorted(found["survivors"], key=lambda one: "reason" in one)
    text.append("\n| survivor | change | why it makes no difference |\n|---|---|---|\n")
    for one in survivors:
        place = f"`{one['file'].removeprefix('src/flowvae/')}:{one['line']}`"
        change = one["change"].replace("|", "\\|")
        text.append(f"| {place} | `{change}` | {one.get('reason', '**not known**')} |\n")
    return "".join(text)
