"""The command line in two processes on a CPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def start(
    *words: Any, launcher: tuple[str, ...] = TORCHRUN, folder: Path | None = None
) -> subprocess.Popen[str]:
    """Start ``flowvae`` with these arguments in two processes, of one thread each."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "flowvae", *map(str, words)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: Any, launcher: tuple[str, ...] = TORCHRUN, folder: Path | None = None) -> Ended:
    """Run ``flowvae`` in two processes to its end."""
    process = start(*words, launcher=launcher, folder=folder)
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its own processes then
        raise AssertionError(process.communicate()) from None
    return Ended(process.returncode, out, err)
