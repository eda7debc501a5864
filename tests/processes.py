"""The command line in two processes on a CPU."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def of_rank(rank: int, launched: subprocess.Popen[str]) -> psutil.Process:
    """Return the process of this rank among those that were started."""
    for _ in range(600):
        for process in psutil.Process(launched.pid).children(recursive=True):
            with suppress(psutil.Error):
                if process.environ().get("RANK") == str(rank):
                    return process
        time.sleep(0.1)
    raise AssertionError(f"no process of rank {rank}")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def start(
    *words: Any,
    launcher: tuple[str, ...] = TORCHRUN,
    folder: Path | None = None,
    program: tuple[str, ...] = ("-m", "flowvae"),
) -> subprocess.Popen[str]:
    """Start ``flowvae``, or another program, with these arguments in two processes, of one thread each."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *program, *map(str, words)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: Any, **options: Any) -> Ended:
    """Run a program in two processes to its end, as `start`."""
    return end_of(start(*words, **options))


def end_of(process: subprocess.Popen[str], limit: float = 120) -> Ended:
    """Wait for the end, of an endless program for ``limit`` seconds."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its own processes then
        raise AssertionError(process.communicate()) from None
    return Ended(process.returncode, out, err)


BATCH_NORM = {"posterior": "realnvp", "normalization": "batch", "hidden": 8, "transformations": 1}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vamp": ("vae-vamp-of-maps", {}),
    "hidden": (
        "vae-realnvp-batch-norm",
        {"objective": "importance-weighted", "samples": 3, "hide": 0.3},
    ),
    "free-bits": ("vae-iaf-importance-weighted", {"objective": "elbo", "free_bits": 5.0, "samples": 2}),
    "conditional": ("vae-conditional", BATCH_NORM),
    "density": ("realnvp", {"normalization": "batch", "samples": 2}),
    "semi-supervised-batch-norm": ("semi-supervised", BATCH_NORM),
    "stacked-batch-norm": ("semi-supervised-stacked", BATCH_NORM),
    "more-generators-than-images": ("bayesian-gan", {"generators": 40}),
    "own-batches-few-labels": ("bayesian-gan-few-labels", {"share_batch": False, "gamma": 0.5}),
}
"""rows of the table of systems with other options; those with one loss also with dropout, as in `ROWS`"""

ROWS = """
import sys
from pathlib import Path
import torch
from processes import OTHERS
from system_table import TABLE
from flowvae.networks.dropout import Dropout
from flowvae.processes import end
from flowvae.training import Callback, train
torch.set_default_dtype(torch.float64)
data, folder, last, *names = sys.argv[1:]

class Stop(Callback):
    def on_step(self, progress):
        return progress.step == int(last)

for name in names:
    row, options = OTHERS.get(name, (name, {}))
    regularized = name in OTHERS and TABLE[row].best != "energy_score"
    # In all networks, as if validation had stopped improving.
    Dropout.__init__.__defaults__ = (0.3 if regularized else 0.0, 0)
    run, config = Path(folder) / name, TABLE[row].config(Path(data), batch_size=31).revised(**options)
    train(run, config, resume=run.exists(), callbacks=[Stop()])
end()
"""
"""a program that trains rows of the table of systems, or resumes them, in batches of an odd number of images

Its arguments: file of the images, folder of the runs, step after which each stops or 0, and names of rows.
It computes in float64, as some systems enlarge rounding: so a difference is one of what is computed.
"""
