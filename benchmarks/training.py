"""Training: the share of the machine's arithmetic that a step reaches, and where its time goes."""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import (
    MATRIX_PRODUCT,
    MATRIX_PRODUCT_FLOPS,
    by_turns,
    floating_point_operations,
    matrix_product,
)
from flowvae import runs
from flowvae.batch import Batch
from flowvae.config import Config
from flowvae.data import Dataset, load_dataset, training_batch
from flowvae.models.registry import preset
from flowvae.training import loop
from flowvae.training.players import updates
from flowvae.training.seeding import seed_everything

PRECISIONS = {"vae": "float32", "realnvp-5": "float32", "density-small": "bfloat16"}
PHASES = ("batch", "forward", "backward", "clipping", "optimizer", "averaging")


def measure(
    presets: Mapping[str, str] = PRECISIONS,
    repeats: int = 25,
    compiled: bool = True,
    loop_steps: int = 150,
    batch_size: int | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """One step of each preset; the first is the headline.

    Args:
        presets: the precision of each.
        compiled: those in float32 also with torch.compile, which takes a minute for each.
        loop_steps: of a run of the real loop, with its display, metrics and validation; 0 for none.
        batch_size: in place of the presets' own.
    """
    results = {}
    for name, precision in presets.items():
        config = preset(name).revised(precision=precision)
        if batch_size:
            config = config.revised(batch_size=batch_size)
        results[name] = _measure(config, repeats, compiled and precision == "float32", loop_steps)
    first = next(iter(presets))
    return {"training_share_of_matmul": results[first]["share_of_matmul"]}, {"presets": results}


class Step:
    """One step after the other as in `flowvae.training.loop`; ``seconds`` has what each phase took.

    The phases are its lines and those of the one player's move, from its own state and the model's own
    updates, without its display and records.
    """

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.dataset, self.settings = dataset, config.training
        self.state = loop._start(config, dataset, torch.device("cpu"))
        (self.player,) = self.state.players.values()
        self.seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}

    def __call__(self) -> None:
        marks = [time.perf_counter()]
        batch = self.batch()
        marks.append(time.perf_counter())
        loss = self.loss(batch)
        marks.append(time.perf_counter())
        loss.backward(inputs=self.player.parameters)
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.player.parameters, self.settings.gradient_clipping)
        marks.append(time.perf_counter())
        self.player.optimizer.step()
        self.player.optimizer.zero_grad()
        marks.append(time.perf_counter())
        self.state.average.update_parameters(self.state.model)
        marks.append(time.perf_counter())
        self.state.step += 1
        for phase, before, after in zip(PHASES, marks[:-1], marks[1:], strict=True):
            self.seconds[phase].append(after - before)

    def batch(self) -> Batch:
        seed_everything(self.settings.seed, self.state.step)
        return training_batch(self.dataset, self.settings.batch_size, self.settings.seed, self.state.step)

    def loss(self, batch: Batch) -> Tensor:
        half = self.settings.precision == "bfloat16"
        return next(updates(self.state.model, self.state.players, batch, self.state.step, half)).loss


def step_of(config: Config) -> Step:
    """Steps on the configured data."""
    return Step(config, load_dataset(config.data.data, config.data.binarization))


def _measure(config: Config, repeats: int, compiled: bool, loop_steps: int) -> dict[str, Any]:
    eager = step_of(config)
    batch = eager.batch()
    operations = floating_point_operations(lambda: eager.loss(batch).backward())
    eager.player.optimizer.zero_grad()
    steps = {"eager": eager}
    if compiled:
        steps["compiled"] = Step(config.revised(compile=True), eager.dataset)
    product = matrix_product(config.training.precision)
    seconds = by_turns({**steps, MATRIX_PRODUCT: product}, repeats)
    rate = MATRIX_PRODUCT_FLOPS / seconds[MATRIX_PRODUCT]
    kinds = {
        kind: {
            "milliseconds": 1e3 * seconds[kind],
            "images_per_second": config.training.batch_size / seconds[kind],
            "share_of_matmul": operations / seconds[kind] / rate,
            "phases": _phases(step),
        }
        for kind, step in steps.items()
    }
    per_image = operations / config.training.batch_size
    real = _real_loop(config, loop_steps)
    if real:
        real["share_of_matmul"] = per_image * real["images_per_second"] / rate
    return {
        # Compiling is an option that is off by default, so the headline is without.
        "share_of_matmul": kinds["eager"]["share_of_matmul"],
        "matmul_gflops": rate / 1e9,
        "gflop_per_image": per_image / 1e9,
        "batch_size": config.training.batch_size,
        "precision": config.training.precision,
        **kinds,
        "loop": real,
    }


def _phases(step: Step) -> dict[str, dict[str, float]]:
    """Of each phase its median milliseconds and its share of their sum."""
    # The first steps allocate, or compile.
    medians = {phase: statistics.median(values[2:] or values) for phase, values in step.seconds.items()}
    total = sum(medians.values())
    return {phase: {"milliseconds": 1e3 * value, "share": value / total} for phase, value in medians.items()}


def _real_loop(config: Config, steps: int) -> dict[str, float]:
    """Images per second of `flowvae.training.train`, as it reports them itself, without validation."""
    if not steps:
        return {}
    config = config.revised(steps=steps, track="none")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        loop.train(run, config)
        records = [json.loads(line) for line in (run / runs.METRICS).read_text().splitlines()]
    rates = [record["images_per_second"] for record in records if record["split"] == "train"]
    return {"images_per_second": statistics.median(rates[1:] or rates), "steps": steps}
