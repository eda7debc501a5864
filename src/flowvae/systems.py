"""The table of all systems, trained for equal times and measured alike, and a picture of their samples."""

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvae import figures, runs
from flowvae.commands.evaluating import anneal_run, training_of
from flowvae.commands.picturing import test_images
from flowvae.commands.quality import MOST_COMPARED, compare_samples
from flowvae.data import load_dataset
from flowvae.data.load import read_source
from flowvae.data.summary import values_of
from flowvae.errors import UserError, check_range
from flowvae.evaluation import Annealing, evaluate_annealed
from flowvae.evaluation.sample_quality import LEAST_IMAGES, check_comparable
from flowvae.models import Bounded, Generating, Scored
from flowvae.models.base import evaluating
from flowvae.parts import MOST
from flowvae.reproduce import Budget, Row, reproduce_table
from flowvae.runs import Run
from flowvae.runs.table import markdown, read_measured
from flowvae.tables import Variant

BINARY = {
    name: Variant(name)
    for name in (
        *("vae", "planar-10", "realnvp-5", "iaf-4", "semi-supervised"),
        *("density-small", "pixelcnn", "pixelrnn-row", "pixelrnn-diagonal"),
    )
}
GREY = {
    "vae-grey": Variant("vae", "--likelihood logistic-mixture --binarization none"),
    "cifar10-realnvp": Variant("cifar10-realnvp"),
    **{
        name: Variant(name)
        for name in ("realnvp-density-mnist", "glo-mnist", "gan-mnist", "bayesian-gan-mnist")
    },
}
ROWS = (*BINARY, *GREY)
SHOWN = 12  # samples per system in the picture
USUAL_ANNEALED = 50  # images
CHAINS, SIMULATED = 16, 16
VARIANCES = (0.005, 0.01, 0.02, 0.04, 0.08)
"""of pixels around a generated image; the best one on validation images is used"""
CHOSEN_ON, CHAINS_TO_CHOOSE = 8, 4  # images, and chains for each, by which it is chosen

LOG_DENSITIES = (
    *("negative_elbo", "nll", "nll_standard_error", "annealed_nll", "annealed_nll_standard_error"),
    *("annealed_difference", "annealed_difference_standard_error", "gap", "gap_standard_error"),
)
OF_SAMPLES = {
    **dict.fromkeys(("frechet_distance", "frechet_distance_of_real"), ".2f"),
    **dict.fromkeys(("density", "coverage"), ".3f"),
}
COSTS = {"seconds_per_sample": ".5f", "minutes": ".1f", "parameters": ",d"}
PROTOCOL = (
    *("dataset", "binarization", "samples", "images", "annealed_images", "chains", "distributions"),
    *("variance", "compared", "training_steps"),
)
NOT_PRINTED = ("annealed_difference_standard_error", "gap_standard_error")


def reproduce_systems(
    folder: Path,
    budget: Budget,
    rows: Sequence[str] = (),
    data: str | None = None,
    workers: int = 1,
    num_samples: int = 500,
    num_images: int = 500,
    annealed: int | None = None,
    distributions: int = 100,
    drawn: int = MOST_COMPARED,
) -> None:
    """Train every system for the same time, measure likelihood and samples, and write table and picture.

    What is finished is kept, and runs are resumed, as by `flowvae.reproduce.reproduce_table`.

    Args:
        folder: directory for ``table.json``, ``table.md``, ``samples.png``, and the runs under ``training/``,
            which also hold the measurements.
        budget: training budget per row.
        rows: names of the rows; by default, all.
        data: data set of the binary rows, in place of MNIST; also of the others, if its pixels are grey.
        workers: number of rows to train in parallel.
        num_samples: S, number of posterior samples per image for -log p(x).
        num_images: number of random test images to score.
        annealed: number of these to score by annealed importance sampling, by default up to 50; none if 0.
        distributions: T, number of distributions of annealed importance sampling.
        drawn: number of samples to compare with as many test images; fewer if there are fewer.

    Raises:
        UserError: if a row failed, or samples on these data cannot be compared with images.
    """
    annealed = min(USUAL_ANNEALED, num_images) if annealed is None else annealed
    check_range("annealed", annealed, 0, num_images)
    check_range("distributions", distributions, 2, MOST)
    check_range("drawn", drawn, LEAST_IMAGES, MOST_COMPARED)
    check_comparable(load_dataset(data or "mnist").shape)
    grey = data if data and values_of(read_source(data))[1] > 1 else "mnist"
    variants = {
        name: BINARY[name] if name in BINARY else replace(GREY[name], data=grey) for name in rows or ROWS
    }
    training = folder / "training"
    scored = {"num_samples": num_samples, "num_images": num_images}
    reproduce_table(training, budget, variants=variants, data=data, workers=workers, **scored)
    table: list[dict[str, Any]] = []
    pictures: dict[str, dict[str, Tensor]] = {}
    for name, variant in variants.items():
        row, pixels = Row(name, variant, 0, training), "binary" if name in BINARY else "8-bit"
        if row.read().get("diverged"):
            table.append({"system": name, "pixels": pixels, "diverged": True})
            continue
        run = runs.Run(row.run)
        _compare(run, drawn)
        if annealed and isinstance(run.model, Generating):
            _anneal(run, annealed, distributions)
        table.append({"system": name, "pixels": pixels, **_measured(run)})
        real = test_images(run, SHOWN, 0, None).images
        pictures.setdefault(f"{pixels} pixels", {"test images": real})[name] = _samples(run)
        runs.write_json(folder / "table.json", table)
    text = _markdown(table)
    (folder / "table.md").write_text(text, encoding="utf-8")
    figures.save_groups(pictures, folder / "samples.png")
    print(text, end="")


def _compare(run: Run, drawn: int) -> None:
    """Compare samples of a run with test images, unless that is done."""
    number = min(drawn, len(run.dataset.test.images), len(run.dataset.valid.images))
    if not _is_measured(run, runs.QUALITY, {"images": number}):
        compare_samples(run.path, number)


def _anneal(run: Run, images: int, distributions: int) -> None:
    """Score a run by annealed importance sampling, unless that is done; say so if that is not possible."""
    protocol = {"chains": CHAINS, "distributions": distributions, "images": images, "simulated": SIMULATED}
    if _is_measured(run, runs.ANNEALED_EVALUATION, protocol):
        return
    model: Any = run.model
    try:
        variance = _variance(run, distributions) if model.needs_variance else None
        anneal_run(run.path, Annealing(CHAINS, distributions, variance=variance), images, SIMULATED)
    except UserError as error:
        print(f"flowvae: note: {run.name} has no annealed -log p(x): {error}", file=sys.stderr)


def _is_measured(run: Run, name: str, protocol: dict[str, Any]) -> bool:
    """Tell whether a file of the run has measurements of its present weights by this protocol."""
    if not (run.path / name).exists():
        return False
    found = runs.read_json(run.path / name)
    return all(found.get(key) == value for key, value in {**protocol, **training_of(run)}.items())


def _variance(run: Run, distributions: int) -> float:
    """Choose the variance of pixels by which a few validation images are most probable."""
    found: dict[float, float] = {}
    for variance in VARIANCES:
        annealing = Annealing(CHAINS_TO_CHOOSE, distributions, variance=variance)
        with contextlib.suppress(UserError):  # chains that hardly move
            scores = evaluate_annealed(run.model, run.dataset, annealing, "valid", CHOSEN_ON)
            found[variance] = scores["nll"]
    if not found:
        raise UserError("chains hardly move with any variance; give more --distributions")
    return min(found, key=found.__getitem__)


def _samples(run: Run) -> Tensor:
    model: Any = run.model
    with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(model):
        torch.manual_seed(0)
        return model.draw(SHOWN)


def _measured(run: Run) -> dict[str, Any]:
    """Return what table.json has of a run: nats, and of 8-bit pixels also bits per dimension."""
    found = read_measured(run)
    found["minutes"] = found["training_seconds"] / 60
    if isinstance(run.model, Scored | Bounded):
        found["likelihood"] = "exact" if isinstance(run.model, Scored) else "bound"
    wanted = ("likelihood", *LOG_DENSITIES, *OF_SAMPLES, *COSTS, *PROTOCOL)
    kept = {key: found[key] for key in wanted if key in found}
    return kept if run.spec.levels == 2 else kept | _in_bits(kept, math.prod(run.spec.shape))


def _in_bits(row: Mapping[str, Any], dimensions: int) -> dict[str, float]:
    """Convert log densities of 8-bit images to bits per dimension, under names that end in ``bits_per_dim``.

    With a variance, annealing gives a density of pixels in [0, 1]. Times the distance of two levels, 1 / 255,
    it is the probability of a level, as the Gaussian is much wider than that.
    """
    nats = {key: row[key] for key in LOG_DENSITIES if key in row}
    if "variance" in row and "annealed_nll" in nats:
        nats["annealed_nll"] += dimensions * math.log(255)
    return {f"{key}_bits_per_dim": value / (dimensions * math.log(2)) for key, value in nats.items()}


def _markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Write a table for each kind of pixels, in nats or in bits per dimension."""
    parts: list[str] = []
    for pixels, suffix, unit, digits in (
        ("binary", "", "nats per image", ".2f"),
        ("8-bit", "_bits_per_dim", "bits per dimension", ".4f"),
    ):
        of_group = [row for row in table if row["pixels"] == pixels]
        densities = [key for key in LOG_DENSITIES if key not in NOT_PRINTED]
        columns = {"likelihood": "", **dict.fromkeys(densities, digits), **OF_SAMPLES, **COSTS}
        rows = [
            {
                "name": row["system"] + (" (diverged)" if row.get("diverged") else ""),
                **{key: row.get(key + suffix * (key in densities)) for key in columns},
            }
            for row in of_group
        ]
        if rows:
            names = ", ".join(dict.fromkeys(row["dataset"] for row in of_group if "dataset" in row))
            parts.append(f"{pixels.capitalize()} pixels, {names}; {unit}:\n\n{markdown(rows, columns)}")
    return "\n".join(parts)
