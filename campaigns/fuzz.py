"""Whatever a file, an argument or a request holds, what comes of it is a result or one line."""

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from campaigns import corpus, run_files
from campaigns.corpus import Reader
from campaigns.mutate import FIFO, Files, mutated_files
from campaigns.record import REPOSITORY
from campaigns.sandbox import Outcome, run_cases
from flowvae.errors import UserError
from flowvae.runs import read_json, write_json

CASES = 100_000
BATCH = 200
"""cases of a process"""
IN_MEMORY = Path("/dev/shm")
"""where files are written, if it is there: it is many times as fast as a disk"""
PROGRESS = REPOSITORY / "runs" / "fuzz.json"
"""what was found so far; a campaign that is stopped continues from it"""


def written(files: Files, folder: Path) -> None:
    """Write the files of a case, as far as a file system takes their names."""
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content == FIFO:
                os.mkfifo(path)
            else:
                path.symlink_to(content)
        except (OSError, ValueError):
            continue


def case(reader: Reader, number: int) -> tuple[Files, Random | None]:
    """Return the files of a case, and what draws the options that they are read with.

    The first ones are valid, and read with the usual options: None.
    """
    random = Random(f"{reader.name} {number}")
    if number < len(reader.seeds):
        return dict(reader.seeds[number]), None
    whole = random.choice([*reader.seeds, *reader.refused] or [{}])
    chosen = whole.keys() if reader.damaged is None else reader.damaged
    damaged = {name: content for name, content in whole.items() if name in chosen}
    untouched = {name: content for name, content in whole.items() if name not in chosen}
    return {**untouched, **mutated_files(damaged, random, reader.tokens)}, random


def cases(reader: Reader, numbers: Sequence[int]) -> list[Outcome]:
    """Try cases of a reader."""

    def prepare(number: int, folder: Path) -> Any:
        files, random = case(reader, number)
        written(files, folder / "in")
        out = folder / "out"
        out.mkdir()

        def read() -> None:
            try:
                reader.read(folder / "in", random)
            except UserError as error:
                if random is None:
                    raise AssertionError(f"valid files are refused: {error}") from error
                raise

        return read, (folder if reader.writes else out)

    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        return list(run_cases(numbers, prepare, Path(name).resolve(), reader.quiet, reader.places))


def campaign(chosen: Iterable[Reader], tries: int, progress: Path | None = None) -> dict[str, Any]:
    """Try about as many cases as ``tries``, of all readers in turn; continues from ``progress``, if given."""
    chosen = list(chosen)
    shares = sum(reader.share for reader in chosen)
    found: dict[str, Any] = {}
    if progress is not None and progress.exists():
        found = read_json(progress)
    left = {reader.name: round(tries * reader.share / shares) for reader in chosen}
    while any(left[reader.name] > found.get(reader.name, {}).get("tried", 0) for reader in chosen):
        for reader in chosen:
            entry = found.setdefault(
                reader.name,
                {
                    "tried": 0,
                    "read": 0,
                    "refused": 0,
                    "failures": {},
                    "seconds": 0.0,
                    "slowest": 0.0,
                    "largest": 0,
                },
            )
            numbers = range(entry["tried"], min(left[reader.name], entry["tried"] + BATCH))
            since = time.monotonic()
            for outcome in cases(reader, numbers):
                _count(entry, outcome)
            entry["seconds"] += time.monotonic() - since
            if progress is not None and numbers:
                progress.parent.mkdir(exist_ok=True)
                write_json(progress, found)
    if progress is not None:
        progress.unlink(missing_ok=True)
    return found


def _count(entry: dict[str, Any], outcome: Outcome) -> None:
    entry["tried"] += 1
    entry["slowest"] = max(entry["slowest"], outcome.seconds)
    entry["largest"] = max(entry["largest"], outcome.memory)
    if outcome.kind in ("read", "refused"):
        entry[outcome.kind] += 1
    else:
        kinds = entry["failures"].setdefault(f"{outcome.kind}: {outcome.detail}"[:150], [])
        kinds.append(outcome.number)


def table(found: Mapping[str, Any]) -> str:
    """Return what was found, as Markdown."""
    lines = [
        "| reader | cases | read | refused | failed | slowest, s | largest, MiB |\n",
        "|---|---:|---:|---:|---:|---:|---:|\n",
    ]
    for name, row in found["readers"].items():
        lines.append(
            f"| {name} | {row['tried']:,} | {row['read']:,} | {row['refused']:,} | {row['failed']:,} "
            f"| {row['slowest']:.2f} | {row['largest_mebibytes']:,.0f} |\n"
        )
    lines.append(f"| all | {found['tried']:,} | | | {found['failed']:,} | | |\n")
    return "".join(lines)


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a campaign, in all and of each reader."""
    rows = {
        name: {
            "tried": entry["tried"],
            "read": entry["read"],
            "refused": entry["refused"],
            "failed": sum(map(len, entry["failures"].values())),
            "slowest": round(entry["slowest"], 3),
            "largest_mebibytes": round(entry["largest"] / 2**20, 1),
            "failures": {kind: len(numbers) for kind, numbers in entry["failures"].items()},
        }
        for name, entry in found.items()
    }
    return {
        "tried": sum(row["tried"] for row in rows.values()),
        "failed": sum(row["failed"] for row in rows.values()),
        "slowest": max(row["slowest"] for row in rows.values()),
        "largest_mebibytes": max(row["largest_mebibytes"] for row in rows.values()),
        "seconds": round(sum(entry["seconds"] for entry in found.values())),
        "readers": rows,
    }


def of_files() -> list[Reader]:
    """Return the readers of files."""
    return [*corpus.readers(), *run_files.readers()]


def readers() -> list[Reader]:
    """Return all readers."""
    from campaigns import requests, words  # which import whatever commands and the page need

    return [*of_files(), *words.readers(), *requests.readers()]


def run(tries: int | None = None) -> dict[str, Any]:
    """Try 100,000 cases, or as many as ``tries``: half an hour. One that is interrupted continues."""
    return summary(campaign(readers(), tries or CASES, PROGRESS))
