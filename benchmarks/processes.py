"""Several processes: what two of one thread gain over one of one thread, and a model of what more would."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.machine import REPOSITORY
from benchmarks.timing import floating_point_operations
from benchmarks.training import step_of
from flowvae.models.registry import preset
from flowvae.runs import METRICS, WEIGHTS

PROCESSES = (1, 2)
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")

ALL_REDUCE = """
import json, os, sys, time
import torch, torch.distributed as distributed

distributed.init_process_group("gloo")
values = torch.zeros(int(sys.argv[1]))
seconds = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    distributed.all_reduce(values)
    seconds.append(time.perf_counter() - began)
if distributed.get_rank() == 0:
    print(json.dumps(sorted(seconds)[len(seconds) // 2]), flush=True)
os._exit(0)  # Gloo's threads end an interpreter that goes the usual way with an error
"""


class Cost(NamedTuple):
    """Seconds of a training step: ``fixed + per_image B / P + exchange``.

    With one ring of P processes, the exchange of gradients of M bytes takes 2 (P - 1) messages of M / P bytes
    (Patarasuk & Yuan 2009): ``2 (P - 1) (latency + M / P / bandwidth)``.
    """

    fixed: float
    """seconds of a step without any images: of launching its operations"""
    per_image: float
    """seconds of an image"""
    gradient_bytes: float
    latency: float
    """seconds of an empty message"""
    bandwidth: float
    """bytes a second between neighbours"""

    def seconds(self, batch: int, processes: int) -> float:
        messages = 2 * (processes - 1)
        exchange = messages * (self.latency + self.gradient_bytes / processes / self.bandwidth)
        return self.fixed + self.per_image * batch / processes + exchange

    def speedup(self, batch: int, processes: int) -> float:
        """Images a second of P processes over those of one, for the same whole batch."""
        return self.seconds(batch, 1) / self.seconds(batch, processes)


# Not measured: an operation takes 5 microseconds to launch; 10% of 50 TFLOP/s in float32 is reached; NCCL's
# messages take 10 microseconds within a machine, at 100 GB/s, and 20 between machines, at 12 GB/s.
LAUNCH, RATE = 5e-6, 5e12
CLUSTERS = {"8 GPUs": (8, 10e-6, 100e9), "64 machines of 8 GPUs": (512, 20e-6, 12e9)}
CLUSTER_BATCHES = (128, 4096, 32_768)


def measure(
    names: Sequence[str] = ("vae",),
    batches: Sequence[int] = (128, 256, 512, 1024),
    steps: int = 150,
    images: tuple[int, int] = (50, 250),
    rounds: int = 1,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train and evaluate each preset with one and with two processes of one thread, by turns.

    Args:
        batches: B of all processes together; the last is the headline's.
        steps: of each training.
        images: N of a short and of a long evaluation, whose difference is without the start of the program.
    """
    details: dict[str, Any] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            details[name] = _measure(name, Path(folder), batches, steps, images, rounds)
    of_first = details[names[0]]
    headlines = {
        "processes_training_speedup": of_first["training"][-1]["speedup"],
        "processes_scoring_speedup": of_first["scoring"]["speedup"],
    }
    operations = _operations(names[0])
    clusters = _clusters(operations, of_first["gradient_bytes"])
    return headlines, {"presets": details, "operations": operations, "clusters": clusters}


def _measure(
    name: str, folder: Path, batches: Sequence[int], steps: int, images: tuple[int, int], rounds: int
) -> dict[str, Any]:
    numbers = itertools.count()
    # Half of a batch by one process tells what an image costs, and what a step does without any.
    cases = [(1, batches[0] // 2), *itertools.product(PROCESSES, batches)]
    rates: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for processes, batch in cases:
            run = folder / f"run-{next(numbers)}"
            rates[processes, batch].append(_training_rate(name, run, processes, batch, steps))
    best = {case: max(values) for case, values in rates.items()}
    with ThreadPoolExecutor(2) as threads:  # which only wait
        runs = [folder / f"alone-{place}" for place in range(2)]
        both = threads.map(lambda run: _training_rate(name, run, 1, batches[-1], steps), runs)
        alone = sum(both)
    gradient_bytes = 4 * _parameters(run)
    exchange = _exchange(gradient_bytes // 4)
    small, large = batches[0] // 2, batches[-1]
    seconds = {batch: batch / best[1, batch] for batch in (small, large)}
    per_image = (seconds[large] - seconds[small]) / (large - small)
    cost = Cost(
        seconds[small] - per_image * small, per_image, gradient_bytes, exchange / 2, float("inf")
    )  # the measured exchange of all gradients between two is two messages
    scoring = {processes: [] for processes in PROCESSES}
    for _ in range(rounds):
        for processes in PROCESSES:
            took = []
            for number in images:
                began = time.perf_counter()
                _flowvae(processes, "evaluate", run, "--images", number, "--samples", 100)
                took.append(time.perf_counter() - began)
            scoring[processes].append((images[1] - images[0]) / (took[1] - took[0]))
    fastest = {processes: max(values) for processes, values in scoring.items()}
    return {
        "training": [
            {
                "batch": batch,
                "images_per_second": [best[processes, batch] for processes in PROCESSES],
                "speedup": best[2, batch] / best[1, batch],
                "predicted": cost.speedup(batch, 2),
            }
            for batch in batches
        ],
        "independent_speedup": alone / best[1, batches[-1]],
        "scoring": {
            "images_per_second": [fastest[processes] for processes in PROCESSES],
            "speedup": fastest[2] / fastest[1],
        },
        "fixed_milliseconds": 1e3 * cost.fixed,
        "image_milliseconds": 1e3 * cost.per_image,
        "exchange_milliseconds": 1e3 * exchange,
        "gradient_bytes": gradient_bytes,
    }


def _training_rate(name: str, run: Path, processes: int, batch: int, steps: int) -> float:
    """Images a second of a training."""
    _flowvae(
        processes, "train", name, "--steps", steps, "--batch-size", batch, "--validation-images", 64,
        "--out", run, "--track", "none",
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    found = [line["images_per_second"] for line in lines if line["split"] == "train"]
    return statistics.median(found[1:] or found)


def _flowvae(processes: int, *arguments: object) -> None:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += [*TORCHRUN, str(processes), "-m"]
    command = [*start, "flowvae", *map(str, arguments), "--device", "cpu"]
    subprocess.run(command, env=_environment(), check=True, capture_output=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}


def _parameters(run: Path) -> int:
    with safe_open(run / WEIGHTS, "pt") as weights:
        return sum(weights.get_tensor(key).numel() for key in weights.keys())  # noqa: SIM118  # not a mapping


def _exchange(numbers: int, repeats: int = 50) -> float:
    """Median seconds in which two processes add up as many float32 numbers."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "all_reduce.py"
        script.write_text(ALL_REDUCE)
        done = subprocess.run(
            [sys.executable, "-m", *TORCHRUN, "2", str(script), str(numbers), str(repeats)],
            env=_environment(),
            check=True,
            capture_output=True,
            text=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


class _Counting(TorchDispatchMode):
    """Counts the operations of PyTorch that are called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.calls += 1
        return function(*arguments, **(options or {}))


def _operations(name: str) -> dict[str, float]:
    """Calls of PyTorch's operations in a training step, and floating-point operations of one image."""
    config = preset(name)
    step = step_of(config)
    batch = step.batch()
    flops = floating_point_operations(lambda: step.loss(batch).backward())
    with _Counting() as counting:
        step()
    return {"calls": counting.calls, "flops": flops / len(batch.images)}


def _clusters(operations: dict[str, float], gradient_bytes: float) -> list[dict[str, Any]]:
    """What the model says of machines that were not measured."""
    rows = []
    for name, (processes, latency, bandwidth) in CLUSTERS.items():
        fixed, per_image = operations["calls"] * LAUNCH, operations["flops"] / RATE
        cost = Cost(fixed, per_image, gradient_bytes, latency, bandwidth)
        speedups = {str(batch): cost.speedup(batch, processes) for batch in CLUSTER_BATCHES}
        rows.append({"machines": name, "processes": processes, "speedups": speedups})
    return rows
