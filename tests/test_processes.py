"""Several processes that train one run."""

import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, succeeds, write_images
from processes import ACCELERATE, OTHERS, ROWS, TORCHRUN, end_of, of_rank, run, start
from safetensors.torch import load_file
from system_table import TABLE
from tiny_runs import assert_ended_as, files, state_of, wait_for

from flowvae.runs import read_json, read_metrics

FEW = ("vae-realnvp-batch-norm", "glo-realnvp")
OF_TIME = {"seconds", "images_per_second"}


@pytest.mark.parametrize("launcher", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)])
def test_two_processes_train_one_run(launcher, tmp_path):
    write_images(tmp_path / "images.npz")
    words = ["train", "vae", *SMALL, "--data", "images.npz", "--steps", 6, "--track", "none", "--out", "two"]
    ended = run(*words, launcher=launcher, folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.err.count("\n2 processes\n") == 1
    assert ended.out == "two is trained; score it with: flowvae evaluate two\n"
    lines = [(line["split"], line["step"]) for line in read_metrics(tmp_path / "two")]
    assert lines == [("valid", 3), ("train", 6), ("valid", 6)]


def train_rows(names: Sequence[str], data: Path, folder: Path, number: int, last: int = 0) -> None:
    """Train rows of the table in a number of processes into the folder, or resume them, up to a step."""
    (program := folder.parent / "rows.py").write_text(ROWS)
    launcher = (*TORCHRUN[:-1], str(number))
    started = start(data, folder, last, *names, launcher=launcher, program=(str(program),))
    ended = end_of(started, limit=60 + 20 * len(names))
    assert ended.code == 0, ended.err


def assert_same_but_for_rounding(two: Path, one: Path) -> None:
    """In every number of every line, in float64.

    Weights are not compared: Adam makes steps of gradients that are 0 but for rounding.
    """
    assert files(two) == files(one)
    ours, theirs = read_metrics(two), read_metrics(one)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in mine.keys() - OF_TIME - {"split"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-9, abs=1e-9), (name, mine, other)


@pytest.mark.parametrize(
    "names",
    [
        [*FEW, "vamp", "more-generators-than-images"],
        pytest.param([name for name in (*TABLE, *OTHERS) if name not in FEW], marks=pytest.mark.slow),
    ],
)
def test_two_processes_end_as_one(names, halves, tmp_path):
    """Batches of 31 images, of which the first process has 16."""
    for number in (1, 2):
        train_rows(names, halves, tmp_path / str(number), number)
    for name in names:
        assert_same_but_for_rounding(tmp_path / "2" / name, tmp_path / "1" / name)


@pytest.mark.slow
def test_another_number_of_processes_resumes_but_for_rounding(halves, tmp_path):
    train_rows(FEW, halves, tmp_path / "unbroken", 1)
    for first, then in ((2, 1), (1, 2)):
        changed = tmp_path / f"{first}-{then}"
        train_rows(FEW, halves, changed, first, last=4)
        for name in FEW:
            assert state_of(changed / name)["step"] == 4
        train_rows(FEW, halves, changed, then)
        for name in FEW:
            assert_same_but_for_rounding(changed / name, tmp_path / "unbroken" / name)


WORDS = ["train", "vae", *SMALL, "--data", "images.npz", "--steps", 150, "--track", "none"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """A folder with images and a run, ``unbroken``, that two processes trained."""
    folder = tmp_path_factory.mktemp("processes")
    write_images(folder / "images.npz")
    ended = run(*WORDS, "--out", "unbroken", folder=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_stopped_or_dies_ends_all_and_nothing_is_lost(kind, rank, unbroken):
    """Resumed in two processes, the run ends as one that was not broken, bit for bit."""
    out = unbroken / f"{kind.name}-{rank}"
    process = start(*WORDS, "--out", out, folder=unbroken)
    wait_for(out / "resume" / "state.pt", process)
    of_rank(rank, process).send_signal(kind)
    ended = end_of(process)
    assert ended.code == 1, ended.err  # of torchrun
    assert "flowvae/training" not in ended.err, "a traceback"
    assert 0 < state_of(out)["step"] < 150, ended.err
    if kind == signal.SIGTERM:
        assert ended.err.count(f"stopped at step {state_of(out)['step']}; resume with: ") == 1
        assert ended.err.count("flowvae: interrupted\n") == 1
    elif rank:
        assert ended.err.count("flowvae: another process of the training ended after step ") == 1
        assert not (out / ".lock").exists()
    ended = run("train", "--resume", out, folder=unbroken)
    assert ended.code == 0, ended.err
    assert_ended_as(out, unbroken / "unbroken")


LATE = """
import os, time
from flowvae import cli
fail = cli._fail
def late(*arguments, **options):
    if os.environ["RANK"] == "0":
        time.sleep(2)
    fail(*arguments, **options)
cli._fail = late
cli.main()
"""


def test_a_mistake_is_said_once_even_if_the_first_process_is_the_last_to_end(tmp_path):
    """The launcher ends all processes soon after one has ended."""
    write_images(tmp_path / "images.npz")
    (tmp_path / "late.py").write_text(LATE)
    words = ["train", "vae", *SMALL, "--data", "images.npz", "--steps", 6, "--batch-size", 1]
    ended = run(*words, folder=tmp_path, program=("late.py",))
    assert ended.code == 1
    message = (
        "flowvae: 2 processes cannot share a batch of 1 images; start fewer, or choose a larger batch size"
    )
    assert ended.err.count(message) == 1
    assert not (tmp_path / "runs" / "vae").exists()


COMMANDS = """
import sys
import flowvae.processes
from flowvae import cli
for line in {lines}:
    sys.argv = ["flowvae", *line.split()]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
flowvae.processes.end()
"""


def test_two_processes_share_the_images_of_a_command(workspace):
    """Each image once, with the numbers that one process computes."""
    lines = [
        "evaluate flow --samples 5 --images 23",
        "score flow images.npz --samples 5 --out {0}.csv",
        "encode flow images.npz --draws 2 --out {0}.json",
        "impute flow images.npz --hide 0.5 --samples 2 --candidates 9 --out {0}.npz",
    ]
    program = workspace / "commands.py"
    program.write_text(COMMANDS.format(lines=[line.format("two") for line in lines]))
    ended = run(program=(str(program),), folder=workspace)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-3:] == ["two.csv", "two.json", "two.npz"]
    two = read_json(workspace / "flow" / "evaluation.json")
    of_images = load_file(workspace / "flow" / "scores.safetensors")
    for line in lines:
        succeeds(*line.format("one").split())
    one = read_json(workspace / "flow" / "evaluation.json")
    for name, value in one.items():
        assert two[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
    for name, values in load_file(workspace / "flow" / "scores.safetensors").items():
        torch.testing.assert_close(of_images[name], values, rtol=1e-4, atol=1e-4, equal_nan=True)
    for end in ("csv", "json"):
        assert (workspace / f"two.{end}").read_text() == (workspace / f"one.{end}").read_text()
    with np.load(workspace / "two.npz") as mine, np.load(workspace / "one.npz") as other:
        assert {*mine} == {*other}
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
