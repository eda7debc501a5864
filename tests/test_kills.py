"""Runs that are killed at calls that change files, or lose power, end as unbroken ones: in short."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

from campaigns import kills
from campaigns.disk import KEPT, Call, Disk


def test_a_disk_keeps_what_was_synced(tmp_path):
    """And, of a file that was only written, whatever is the worst."""
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "old").write_text("old")
    calls = [
        Call("open", "new", 5, flags=kills.disk.WRITES),
        Call("write", "new", 5, b"12"),
        Call("fsync", "new", 5),
        Call("write", "new", 5, b"34", 2),
        Call("rename", "new", target="newer"),
        Call("unlink", "old"),
    ]
    for kept, left in zip(
        KEPT,
        ({"old": b"old"}, {"newer": b"12"}, {"newer": b"12\0\0"}, {"old": b"old"}),
        strict=True,
    ):
        Disk(tmp_path / "before", calls).write(tmp_path / kept, kept)
        assert {path.name: path.read_bytes() for path in (tmp_path / kept).iterdir()} == left
    calls += [Call("open", ".", 6), Call("fsync", ".", 6)]
    Disk(tmp_path / "before", calls).write(tmp_path / "synced", "nothing")
    assert {path.name: path.read_bytes() for path in (tmp_path / "synced").iterdir()} == {"newer": b"12"}


@pytest.mark.slow
def test_killed_runs_end_as_unbroken_ones():
    found = kills.run(1, ["bayesian-gan", "vae, few images"], [])
    assert found["wrong"] == []
    assert found["equal"] == found["tried"] == 2 * 2 * (len(kills.KILLED) + len(KEPT) + 1)
    assert "| bayesian-gan | 14 | 14 |\n| vae, few images | 14 | 14 |" in kills.table(found)


@pytest.mark.slow
def test_a_run_in_any_trouble_ends_as_an_unbroken_one():
    found = kills.run(2, ["vae"], ["vae"])
    assert found["wrong"] == []
    assert found["kinds"].keys() > kills.TROUBLES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["vae, TensorBoard", "vae, minutes", "vae, two processes"])
def test_other_runs_that_are_killed(form):
    found = kills.run(1, [form], [])
    assert found["wrong"] == []
    assert found["tried"] >= 2
