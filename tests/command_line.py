"""The command line in the process of a test, and small runs for it to work on."""

import contextlib
import io
import shutil
import sys
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pytest

from flowvae import cli, reproduce

SMALL = ["--features", "8", "--channels", "4", "--latent", "3", "--batch-size", "16"]
SMALL_FLOW = [*SMALL, "--hidden", "8"]
"""of a preset whose posterior has conditioners"""
NUM_TEST = 30


class Result(NamedTuple):
    code: int
    out: str
    err: str


def flowvae(*words: Any) -> Result:
    """Run a command in this process."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["flowvae", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


class InThisProcess:
    """What `subprocess.Popen` does with ``python -m flowvae WORDS``, without another process."""

    one = threading.Lock()
    """held by a command: words and streams are those of the whole process"""

    def __init__(self, command: list[str], stdout: IO[bytes], stderr: IO[bytes], env: dict[str, str]) -> None:
        assert (command[1:3], stdout) == (["-m", "flowvae"], stderr)
        with self.one:
            result = flowvae(*command[3:])
        stdout.write((result.out + result.err).encode())
        self.code = result.code

    def wait(self) -> int:
        return self.code


@pytest.fixture
def rows_in_this_process(monkeypatch) -> None:
    """Train and score the rows of a table in the process of the test: starting others takes seconds."""
    monkeypatch.setattr(reproduce.subprocess, "Popen", InThisProcess)


def succeeds(*words: Any) -> str:
    """Standard output of a command that is expected to work."""
    result = flowvae(*words)
    assert result.code == 0, result.err
    return result.out


def is_refusal(result: Result, *parts: str) -> None:
    """One line on standard error that says all the parts, exit code 2, and nothing else."""
    assert result.code == 2, result.err
    assert result.out == ""
    assert result.err.startswith("flowvae: ")
    assert result.err.count("\n") == 1, result.err
    assert result.err.endswith("\n")
    for part in parts:
        assert part in result.err, result.err


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file under a folder, and the folders (as None)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def write_images(path: Path, num_test: int = NUM_TEST, side: int = 8, levels: int = 2) -> None:
    """Images of bright left or right halves, with noise."""
    random = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        bright = random.integers(0, 2, (count, 1, 1)) == (np.arange(side) >= side // 2)
        on = random.random((count, side, side)) < np.where(bright, 0.9, 0.1)
        return (on * (levels - 1)).astype(np.uint8)

    np.savez(path, train=draw(48), valid=draw(20), test=draw(num_test))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with data and two trained runs, one of them evaluated. Nothing may change it."""
    folder = tmp_path_factory.mktemp("workspace")
    write_images(folder / "images.npz")
    write_images(folder / "larger.npz", side=12)
    for preset, out, small in (("realnvp-2", "flow", SMALL_FLOW), ("vae", "plain", SMALL)):
        data = ["--data", folder / "images.npz", "--steps", 6]
        succeeds("train", preset, *small, *data, "--out", folder / out, "--track", "none")
    succeeds("evaluate", folder / "flow", "--samples", 3, "--images", 10)
    return folder


@pytest.fixture
def workspace(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished folder, as the working directory."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
