"""Forks in which a changed module is tested: what of a change is put in place, and what a fork may do."""

import importlib
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

pytest.importorskip("resource", reason="of Linux and macOS")

from campaigns.forked import in_fork, put_in

TEXT = """
import functools

LIMIT = 3


def kept(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments)
    return inner


class Base:
    def name(self):
        return "base"


class Pair(Base):
    size = 2
    base = Base

    def __init__(self, first, second=1):
        self.values = first, second

    @property
    def sum(self):
        return self.values[0] + self.values[1]

    @staticmethod
    def of(first):
        return Pair(first)

    def name(self):
        return super().name() + "!"


Base.pair = Pair  # in a circle


@kept
def below(value):
    return value < LIMIT
"""


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """The module, and another that imported all of it."""
    (tmp_path / "changed_pair.py").write_text(TEXT)
    (tmp_path / "user_of_pair.py").write_text("from changed_pair import LIMIT, Pair, below\n")
    monkeypatch.syspath_prepend(tmp_path)
    modules = importlib.import_module("changed_pair"), importlib.import_module("user_of_pair")
    yield modules
    for module in modules:
        del sys.modules[module.__name__]


@pytest.mark.parametrize(
    ("before", "after", "see", "expected"),
    [
        ("value < LIMIT", "value <= LIMIT", lambda user: user.below(3), True),  # in a decorator
        ("LIMIT = 3", "LIMIT = 4", lambda user: (user.LIMIT, user.below(3)), (4, True)),
        ("second=1", "second=2", lambda user: user.Pair(1).values, (1, 2)),
        ("[0] + self", "[0] - self", lambda user: user.Pair(1).sum, 0),
        ("Pair(first)", "Pair(None)", lambda user: user.Pair.of(1).values, (None, 1)),
        ("size = 2", "size = 3", lambda user: user.Pair(1).size, 3),
        ('+ "!"', '+ "?"', lambda user: user.Pair(1).name(), "base?"),
    ],
)
def test_who_imported_a_module_sees_its_change(pair, before, after, see, expected):
    changed, user = pair
    assert see(user) != expected
    assert put_in(changed, TEXT.replace(before, after))
    assert see(user) == expected


def test_the_same_text_changes_nothing(pair):
    assert not put_in(pair[0], TEXT)


def test_a_fork_answers_and_changes_nothing_here():
    values = [1]
    assert in_fork(lambda: (values.append(2), list(values))[1], 10) == [1, 2]
    assert values == [1]


@pytest.mark.parametrize("work", [lambda: time.sleep(100), lambda: os.kill(os.getpid(), 9)])
def test_a_fork_that_hangs_or_dies_has_no_answer(work):
    began = time.monotonic()
    assert in_fork(work, 0.05) is None
    assert time.monotonic() - began < 10
