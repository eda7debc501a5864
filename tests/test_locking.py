"""Several processes and one run: one of them trains it, and one that was killed is in nobody's way."""

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from made_runs import CONFIG, SPEC, contents, message
from tiny_runs import STEPS, assert_ended_as, configuration, files, start, state_of, wait_for

from flowvae.errors import UserError
from flowvae.runs import Run, claim, load, read_metrics, replacing
from flowvae.training import train
from flowvae.training.lock import FILE, locked

KILLED_BEFORE_THE_FIRST_STATE = """
import os, signal
from flowvae.training.checkpoint import State
State.save = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_in_training_is_read_by_others_and_trained_by_none(halves, unbroken, tmp_path):
    """The process is held still, so that it cannot end; and its death opens the run for others."""
    run, config = tmp_path / "run", configuration(halves)
    process = start(run, config)
    try:
        wait_for(run / "resume" / "state.pt", process)
        process.send_signal(signal.SIGSTOP)
        assert process.poll() is None, "it ended before it could be stopped"
        before = contents(run)
        with pytest.raises(UserError) as error:
            train(run, config, resume=True)
        message(error, run, f"is being trained by process {process.pid} on ", "wait for it or stop it")
        assert contents(run) == before
        assert load(run)
        assert Run(run).config == config
    finally:
        process.kill()
        process.communicate()
    assert 0 < state_of(run)["step"] < STEPS
    train(run, config, resume=True)
    assert_ended_as(run, unbroken)
    assert files(run) == files(unbroken)


def test_a_run_killed_before_its_first_state_is_begun_again(halves, unbroken, tmp_path):
    """By the same command or by resuming, and nothing of the first attempt is left in it."""
    run, config = tmp_path / "run", configuration(halves)
    process = start(run, config, KILLED_BEFORE_THE_FIRST_STATE)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert {"config.json", "metrics.jsonl", "model.safetensors"} <= files(run)
    (run / "notes.txt").write_text("mine")
    shutil.copytree(run, tmp_path / "copy")
    train(run, config)
    train(tmp_path / "copy", config, resume=True)
    for again in (run, tmp_path / "copy"):
        assert_ended_as(again, unbroken)
        assert files(again) == files(unbroken) | {"notes.txt"}
        with pytest.raises(UserError, match="already exists"):
            train(again, config)


def test_beginning_again_and_failing_deletes_nothing(halves, tmp_path):
    run, config = tmp_path / "run", configuration(halves, learning_rate=1e18)
    claim(run, CONFIG, SPEC, "vae")
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="finite"):
        train(run, config)
    assert (run / "notes.txt").read_text() == "mine"
    train(run, configuration(halves, steps=1))
    assert len([record for record in read_metrics(run) if record["split"] == "valid"]) == 1


def test_of_two_that_begin_a_run_at_once_one_trains_it(halves, unbroken, tmp_path):
    run, config = tmp_path / "run", configuration(halves)
    both = [start(run, config) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    winner, loser = sorted(range(2), key=lambda index: both[index].returncode)
    assert both[winner].returncode == 0, said
    assert both[loser].returncode != 0, said
    assert "already exists" in said[loser] or "is being trained" in said[loser], said
    assert_ended_as(run, unbroken)


def test_one_makes_the_folder(tmp_path):
    def made(_: int) -> bool:
        try:
            return claim(tmp_path / "above" / "run", CONFIG, SPEC, "vae")
        except UserError:
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(made, range(64))) == 1


KILLED_WHILE_IT_IS_MADE = """
import os, pathlib, signal
touch = pathlib.Path.touch
def kill(path, *arguments):
    if path.name == ".begun":
        os.kill(os.getpid(), signal.SIGKILL)
    touch(path, *arguments)
pathlib.Path.touch = kill
"""


def test_a_directory_is_there_with_its_mark_or_not_at_all(halves, tmp_path):
    run, config = tmp_path / "run", configuration(halves, steps=1)
    process = start(run, config, KILLED_WHILE_IT_IS_MADE)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    train(run, config)
    assert not (run / ".begun").exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "."):
        with pytest.raises(UserError, match="already exists"):
            claim(tmp_path / name, CONFIG, SPEC, "vae")
    with pytest.raises(OSError, match=r"file/run|file'"):
        claim(tmp_path / "file" / "run", CONFIG, SPEC, "vae")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_a_lock_is_left_by_no_one_and_names_its_holder(tmp_path):
    (tmp_path / FILE).write_text("process 1 on moon, which was killed long ago")
    with locked(tmp_path):
        with pytest.raises(UserError) as error, locked(tmp_path):
            pass
        message(error, tmp_path, f"process {os.getpid()} on ")
        (tmp_path / FILE).write_bytes(b"\x1b[2J\xff")
        with pytest.raises(UserError, match="by another process;"), locked(tmp_path):
            pass
    assert not list(tmp_path.iterdir())
    with locked(tmp_path):
        pass


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / FILE).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=FILE), locked(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_goes_while_it_is_locked_is_gone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with locked(run):
        shutil.rmtree(run)
    assert not run.exists()


# Files beside their places.


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
    assert contents(tmp_path) == {"file": b"one"}


def test_what_killed_writers_left_goes_in_time(tmp_path):
    path = tmp_path / "file[1]"
    dead, alive, elses = (
        tmp_path / name for name in (".file[1].1.partial", ".file[1].2.partial", ".file1.3.partial")
    )
    for left in (dead, alive, elses):
        left.write_text("half")
    hours_ago = time.time() - 2 * 3600
    for left in (dead, elses):
        os.utime(left, (hours_ago, hours_ago))
    with replacing(path) as partial:
        partial.write_text("whole")
    assert contents(tmp_path) == {path.name: b"whole", alive.name: b"half", elses.name: b"half"}
