"""Memory, open files, threads and objects of trainings and evaluations that go on for long."""

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowvae.commands.evaluating import evaluate_run
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.models.registry import preset
from flowvae.training import Callback, TrainingProgress, train

MINUTES = 120
EVERY = 10.0  # seconds between samples
WARM_UP = 0.25  # share of the samples that growth is not measured on
TRAINED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "vae": ("realnvp-2", {"features": 32, "channels": 16, "hidden": 32, "binarization": "dynamic"}),
    "gan": ("gan-mnist", {"features": 32, "channels": 16}),
    "density": ("realnvp-density-mnist", {"hidden": 16, "transformations": 1}),
}
"""preset and options by what they are examples of"""

Sample = dict[str, float]


def sampled() -> Sample:
    """What this process holds now; on Linux only."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "objects": len(gc.get_objects()),
    }


class Watch(Callback):
    """Takes a sample every few seconds of training."""

    def __init__(self, every: float) -> None:
        self.samples: list[Sample] = []
        self._every, self._next = every, time.monotonic()

    def look(self) -> None:
        """Take a sample if it is time for one."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self.samples.append(sampled())

    def on_step(self, progress: TrainingProgress) -> None:
        self.look()


def growth(samples: Sequence[Sample]) -> dict[str, Any]:
    """Mean of the last quarter over that of the first one after the warm-up, in per cent, and the last value.

    >>> growth([{"memory": value} for value in (5.0, 10.0, 10.0, 11.0)])["memory"]
    {'last': 11.0, 'growth': 10.0}
    """
    kept = samples[int(WARM_UP * len(samples)) :]
    quarter = max(1, len(kept) // 4)
    found: dict[str, Any] = {}
    for name in samples[-1]:
        first, last = (
            sum(sample[name] for sample in some) / quarter for some in (kept[:quarter], kept[-quarter:])
        )
        found[name] = {"last": samples[-1][name], "growth": round(100 * (last / first - 1), 2)}
    return found


def write_images(path: Path) -> None:
    """Grey images of 28 x 28 with bright halves: few, so that there are many epochs, and saved states."""
    random = np.random.default_rng(0)
    splits: dict[str, Any] = {}
    for split, number in (("train", 640), ("valid", 64), ("test", 64)):
        bright = random.integers(0, 2, (number, 1, 1)) == (np.arange(28) >= 14)
        splits[split] = np.where(bright, 200, 20).astype(np.uint8) + random.integers(
            0, 50, (number, 28, 28), dtype=np.uint8
        )
    np.savez(path, **splits)


def watched(minutes: float, every: float = EVERY) -> Iterator[dict[str, Any]]:
    """Train each of the examples, then evaluate the first of them again and again, in equal times."""
    each = minutes / (len(TRAINED) + 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images.npz")
        for label, (of, options) in TRAINED.items():
            started = preset(of)
            config = Config(
                DataConfig(str(folder / "images.npz"), "none"),
                started.model,
                TrainingConfig(minutes=each, batch_size=64, patience=0.0, track="none"),
            ).revised(**options)
            watch = Watch(every)
            train(folder / label, config, callbacks=[watch])
            yield {"what": f"training: {of}", "minutes": each, "samples": len(watch.samples)} | growth(
                watch.samples
            )
        watch, ends, rounds = Watch(every), time.monotonic() + 60 * each, 0
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # warnings of few samples
            while time.monotonic() < ends:
                evaluate_run(folder / next(iter(TRAINED)), num_samples=20, num_images=64)
                rounds += 1
                watch.look()
        yield {
            "what": f"{rounds:,} evaluations",
            "minutes": each,
            "samples": len(watch.samples),
        } | growth(watch.samples)


def table(found: Mapping[str, Any]) -> str:
    """What was measured, as Markdown."""
    text = [
        "| in one process, one after the other | minutes | memory (MiB) | growth | open files | growth "
        "| threads | growth | objects | growth |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    ]
    for row in found["rows"]:
        numbers = " | ".join(
            f"{row[name]['last']:,.0f} | {row[name]['growth']:+.1f}%"
            for name in ("memory", "files", "threads", "objects")
        )
        text.append(f"| {row['what']} | {row['minutes']:.1f} | {numbers} |\n")
    return "".join(text)


def run(tries: int | None = None) -> dict[str, Any]:
    """All of them in ``tries`` minutes [120]."""
    minutes = tries or MINUTES
    return {"minutes": minutes, "rows": list(watched(minutes))}
