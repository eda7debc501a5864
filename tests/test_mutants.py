"""Changes of code that tests should notice: which are made, how they are sampled, counted and explained."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

pytest.importorskip("mutmut", reason="makes the changes; pip install flowvae[mutation]")

from campaigns import mutants
from campaigns.mutations import mutations

TEXT = '''"""Not this."""

from dataclasses import dataclass

__all__ = ["Size", "half"]
Number = int | float


@dataclass
class Size:
    side: int = 28


def half(value: int, least: int = 1) -> int:
    """Nor this."""
    if value < 0:
        raise ValueError("nor " + "this")
    found = value // 2
    return max(found,
               least)
'''


def test_code_is_changed_in_small_steps_and_declarations_are_left():
    found = mutations(TEXT)
    assert {one.line for one in found} == {14, 16, 18, 19}
    changes = {one.change for one in found}
    assert {"1 -> 2", "< 0 -> <= 0", "value // 2 -> value / 2"} <= changes
    (less,) = (one for one in found if one.change == "< 0 -> <= 0")
    assert less.code == "if value < 0:"
    assert less.text() == TEXT.replace("< 0", "<= 0")
    assert {one.spans for one in found if one.line == 19} == {((19, 20), (14, 20))}


def test_what_is_the_same_program_or_none_is_no_mutant():
    texts = {one.change: one.text() for one in mutations("def half(x):\n    return x if x else f(x, *x)\n")}
    assert texts["f(x, *x) -> f(x, )"] == "def half(x):\n    return x if x else f(x, )\n"
    assert [one.text() for one in mutations("for x in y:\n    break\n")] == [
        None
    ]  # a return outside functions


def test_samples_are_nested_and_even():
    found = {"a": mutations("x = 1 + 2\n"), "b": mutations(TEXT), "c": mutations(TEXT)}
    order = list(mutants.sampled(found))
    assert len(order) == sum(map(len, found.values()))
    assert len({(file, one.line, one.column, one.change) for file, one in order}) == len(order)
    assert set(Counter(file for file, _ in order[:9]).values()) == {3}
    assert order == list(mutants.sampled(found))


def test_survivors_are_listed_with_their_reasons():
    row = {"file": "a.py", "line": 3, "code": "x = 1", "change": "1 -> 2", "killed": False}
    rows = [row, {**row, "change": "1 -> 3"}, {**row, "line": 1, "killed": True}]
    found = mutants.counted(rows, {("a.py", "x = 1", "1 -> 2"): "x is not used"})
    assert (found["made"], found["killed"]) == (3, 1)
    assert found["files"] == {"a.py": {"made": 3, "killed": 1}}
    assert [one.get("reason") for one in found["survivors"]] == ["x is not used", None]
    text = mutants.table({**found, "possible": 5000})
    assert "| all | 3 | 1 (33.3%) |" in text
    assert "3 of 5,000 possible changes" in text
    assert "| `a.py:3` | `1 -> 3` | **not known** |" in text


def test_reasons_belong_to_lines_that_exist():
    for file, code, _ in mutants.reasons():
        lines = (mutants.REPOSITORY / file).read_text(encoding="utf-8").splitlines()
        assert code in map(str.strip, lines), (file, code)
