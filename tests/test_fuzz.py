"""Whatever a file holds, it is read or refused: a thousand cases, and what the watch on them sees."""

import asyncio
import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

if not sys.platform.startswith("linux"):
    pytest.skip("cases are watched by what Linux says of a process", allow_module_level=True)

from campaigns import fuzz, page, sandbox
from campaigns.corpus import Reader
from campaigns.fuzz import campaign, case, of_files, summary, table
from campaigns.sandbox import run_cases
from flowvae.errors import UserError


def test_some_cases():
    every = of_files()
    found = summary(campaign(every, 400))
    assert found["tried"] == pytest.approx(400, abs=len(every))
    for name, row in found["readers"].items():
        assert not row["failures"], name
        assert row["read"], name
    assert found["slowest"] < sandbox.SECONDS
    assert f"| all | {found['tried']:,} | | | 0 |" in table(found)


def test_the_watch_ends_what_waits(monkeypatch):
    monkeypatch.setattr(sandbox, "WAITING", 0.5)
    entry = campaign([Reader("waiting", [{"a": b"1"}], lambda folder, random: time.sleep(60))], 2)["waiting"]
    ((said, numbers),) = entry["failures"].items()
    assert said.startswith("slow: ")
    assert numbers == [0, 1]


def test_a_case_is_always_the_same():
    reader = of_files()[0]
    assert case(reader, 100)[0] == case(reader, 100)[0]
    assert case(reader, 100)[0] != case(reader, 101)[0]


def refuse(text: str) -> Callable[[Path, Random | None], None]:
    def read(folder: Path, random: Random | None) -> None:
        raise UserError(text)

    return read


def write_beside(folder: Path, random: Random | None) -> None:
    (folder / "new").write_text("")


def take_memory(folder: Path, random: Random | None) -> None:
    len(b"1" * 300 * 2**20)


def kill(folder: Path, random: Random | None) -> None:
    os._exit(3)


def run_on(folder: Path, random: Random | None) -> None:
    while True:
        pass


MISTAKES = {
    "read": lambda folder, random: None,
    "refused": refuse("it is empty; write it again"),
    "form": refuse("two\nlines"),
    "does": write_beside,
    "memory": take_memory,
    "prints": lambda folder, random: print("spilt"),
    "slow": run_on,
    "dead": kill,
    "ZeroDivisionError": lambda folder, random: 1 / 0,
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_the_watch_sees_mistakes(kind, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 1.0)
    monkeypatch.setattr(sandbox, "MEMORY", 200 * 2**20)
    reader = Reader("mistaken", [{"a": b"1"}], MISTAKES[kind])
    entry = campaign([reader], 2)["mistaken"]
    assert entry["tried"] == 2
    if kind == "read":
        assert (entry[kind], entry["failures"]) == (2, {})
    elif kind == "refused":
        assert (entry[kind], list(entry["failures"].values())) == (1, [[0]])  # the first files are valid
    else:
        (said,) = (said for said, numbers in entry["failures"].items() if 1 in numbers)
        assert said.startswith(f"{kind}: ")


def start(program: str) -> None:
    os.system(program)


@pytest.mark.parametrize(
    "act",
    [lambda: start("true"), lambda: warnings.warn("odd", stacklevel=1), lambda: os.mkdir("/nowhere")],
)
def test_the_watch_sees_what_no_reader_may_do(act, tmp_path):
    (outcome,) = run_cases([0], lambda number, folder: (lambda: ignoring(act), folder), tmp_path)
    assert outcome.kind == "does"


def ignoring(act: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        act()


def test_a_campaign_continues(tmp_path):
    progress = tmp_path / "fuzz.json"
    tried = []

    def stop(reader: Reader, numbers: range) -> list:
        tried.extend(numbers)
        if len(tried) > 200:
            raise KeyboardInterrupt
        return whole(reader, numbers)

    whole = fuzz.cases
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "cases", stop)
        with pytest.raises(KeyboardInterrupt):
            campaign([Reader("slow", [{"a": b"1"}], MISTAKES["read"])], 300, progress)
    found = campaign([Reader("slow", [{"a": b"1"}], MISTAKES["read"])], 300, progress)
    assert found["slow"]["tried"] == 300
    assert not progress.exists()


@pytest.mark.slow
def test_the_page_under_load():
    with page.served() as served:
        found = asyncio.run(page.load(served, 5, 3.0))
    assert found["answers"] > 0
    assert (found["lost"], found["wrong"]) == (0, 0)
    row = {"minute": 1, "memory_mebibytes": 400, "open_files": 10, "answers": 7, "lost": 0, "wrong": 0}
    assert "| 1 | 7 | 0 | 0 | 400 | 10 |" in page.table({"many": found, "long": [row]})
