"""The table of modes of stacked MNIST that an adversarial network and a Bayesian one of its size cover."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae import figures, runs
from flowvae.commands.progress import reporting
from flowvae.commands.quality import draw_samples
from flowvae.config import Config
from flowvae.data import load_configured, stacked_mnist
from flowvae.errors import check_range
from flowvae.evaluation.modes import USUAL_SAMPLES, mode_statistics, modes_of, shares_of_modes
from flowvae.models.registry import build_model, preset
from flowvae.training import train_or_resume
from flowvae.training.loop import check_budget
from flowvae.training.repeated import check_unchanged

MOST_SEEDS = 1000
USUAL_EPOCHS = 5
SIZES: dict[str, Any] = {"channels": 16, "blocks": 0, "features": 64}
"""of generator and discriminator: so small that they cannot learn all modes"""
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "gan": ("gan-mnist", SIZES),
    "bayesian-gan-1": ("bayesian-gan-mnist", {**SIZES, "generators": 1}),
    "bayesian-gan-4": ("bayesian-gan-mnist", {**SIZES, "generators": 4, "share_batch": False}),
}
"""presets, and the options that change them"""
SHOWN = 16  # samples of a row in the picture
REAL = "training images"
MEASURES = {"modes": ".0f", "mode_divergence": ".2f"}


def reproduce_modes(
    folder: Path,
    *,
    rows: Sequence[str] = tuple(ROWS),
    seeds: int = 1,
    epochs: int | None = None,
    minutes: float | None = None,
    num_images: int = USUAL_SAMPLES,
) -> None:
    """Train rows with every seed, count modes of samples, and write table.json, table.md and samples.png.

    Finished runs are kept, and interrupted ones resumed.

    Args:
        folder: directory for ``ROW-seedN.json``, the table, the picture, and the runs under ``runs/``.
        rows: names of the rows.
        seeds: number of random seeds, 0 and up.
        epochs, minutes: training budget of a run; by default, 5 epochs, which are equal steps for all rows.
        num_images: number of samples to count modes of.

    Raises:
        UserError: if the budget is too short, options are out of range, or a run in the directory has other
            options or was trained for longer.
    """
    check_range("seeds", seeds, 1, MOST_SEEDS)
    check_range("images", num_images, 1, USUAL_SAMPLES)
    if epochs is None and minutes is None:
        epochs = USUAL_EPOCHS
    budget = {name: value for name, value in (("epochs", epochs), ("minutes", minutes)) if value is not None}
    configs = {row: _config(row, budget) for row in rows}
    dataset = load_configured(next(iter(configs.values())).data)
    for config in configs.values():  # raises before anything is trained
        assert config.model is not None
        check_budget(build_model(config.model, dataset.spec), dataset, config.training)
    for row, seed in itertools.product(rows, range(seeds)):
        check_unchanged(folder / "runs" / f"{row}-seed{seed}", configs[row].revised(seed=seed))
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    assert dataset.test.labels is not None
    shares = shares_of_modes(dataset.test.labels)
    real = mode_statistics(modes_of(dataset.batch("train", torch.arange(num_images)).images), shares)
    table: list[dict[str, Any]] = []
    pictures = {"test images": dataset.batch("test", torch.arange(SHOWN)).images}
    for row, config in configs.items():
        name, options = ROWS[row]
        asked = {"preset": name, "options": options, **budget, "images": num_images}
        found = [
            _measured(folder, f"{row}-seed{seed}", config.revised(seed=seed), asked, shares)
            for seed in range(seeds)
        ]
        table.append({"system": row, "seeds": seeds, "images": num_images, **_averaged(found)})
        first = folder / "runs" / f"{row}-seed0"
        if (first / runs.WEIGHTS).exists():  # it may be gone when its result is kept
            pictures[row] = _samples(runs.Run(first), SHOWN)
        runs.write_json(folder / "table.json", [*table, {"system": REAL, "images": num_images, **real}])
    (folder / "table.md").write_text(_markdown(table, real), encoding="utf-8")
    figures.save_groups({f"{stacked_mnist.NAME}, seed 0": pictures}, folder / "samples.png")


def _config(row: str, budget: Mapping[str, Any]) -> Config:
    name, options = ROWS[row]
    return preset(name).revised(
        **{"data": stacked_mnist.NAME, "track": "none", "minutes": None, **options, **budget}
    )


def _measured(
    folder: Path, name: str, config: Config, asked: Mapping[str, Any], shares: Tensor
) -> dict[str, Any]:
    """Return the measurements of a run: those that are kept, or new ones."""
    path = folder / f"{name}.json"
    kept = runs.read_kept(path, asked, (*MEASURES, "steps"))
    if kept is not None:
        return kept
    train_or_resume(folder / "runs" / name, config)
    run = runs.Run(folder / "runs" / name)
    found = mode_statistics(modes_of(_samples(run, asked["images"])), shares)
    found |= {"asked": asked, "steps": run.records[-1]["step"]}
    runs.write_json(path, found)
    return found


def _samples(run: runs.Run, number: int) -> Tensor:
    """Draw samples [N, 3, 28, 28] with seed 0."""
    with reporting(f"drawing samples of {run.name}") as report, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return draw_samples(run.model, number, report)[0]


def _averaged(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average over seeds; with several, the standard deviation of each measure and its values."""
    averaged: dict[str, Any] = {"steps": float(np.mean([each["steps"] for each in found]))}
    for name in MEASURES:
        values = [each[name] for each in found]
        averaged[name] = float(np.mean(values))
        if len(values) > 1:
            averaged |= {
                f"{name}_standard_deviation": float(np.std(values, ddof=1)),
                f"{name}_of_seeds": values,
            }
    return averaged


def _markdown(table: Sequence[Mapping[str, Any]], real: Mapping[str, Any]) -> str:
    """Write the rows, and training images in the place of samples, as a Markdown table."""
    lines = ["| | seeds | modes | KL of modes | steps |", "|:---|---:|---:|---:|---:|"]
    for row in table:
        measures = (_with_spread(row, name) for name in MEASURES)
        cells = [row["system"], row["seeds"], *measures, f"{row['steps']:,.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines.append(f"| {REAL} | | {real['modes']} | {real['mode_divergence']:.2f} | |")
    return "\n".join(lines) + "\n"


def _with_spread(row: Mapping[str, Any], name: str) -> str:
    spread = row.get(f"{name}_standard_deviation")
    form = MEASURES[name]
    return format(row[name], form) + ("" if spread is None else f" ± {spread:{form}}")
