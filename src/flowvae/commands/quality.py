"""The command that compares samples of a run with the test images of its data."""

import importlib.metadata
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvae import runs
from flowvae.commands.evaluating import training_of, warn_of_validation
from flowvae.commands.progress import reporting
from flowvae.data import Dataset, as_float, stacked_mnist
from flowvae.devices import device
from flowvae.errors import UserError, check_range
from flowvae.evaluation.modes import USUAL_SAMPLES, mode_statistics, modes_of, shares_of_modes
from flowvae.evaluation.sample_quality import DATA_SETS, check_comparable, feature_network, sample_quality
from flowvae.models import Model, Sampler
from flowvae.models.base import evaluating
from flowvae.parts import LARGEST_SEED, MOST
from flowvae.runs import Run
from flowvae.runs.capability import needs
from flowvae.runs.files import check_place

MOST_COMPARED = 10_000
AT_ONCE = 250
SHOWN = {
    "frechet_distance": ".2f",
    "kernel_distance": ".4f",
    "density": ".3f",
    "coverage": ".3f",
    "class_coverage": ".2f",
    "nearest_training_distance": ".2f",
    "modes": ",d",
    "mode_divergence": ".3f",
}


def compare_samples(
    path: Path,
    num_images: int | None = None,
    seed: int = 0,
    data: str | None = None,
    on: str = "auto",
    features: str | None = None,
) -> dict[str, Any]:
    """Compare samples with test images, and write quality.json into the run.

    By `sample_quality`; of stacked-mnist, by the modes that are found (`flowvae.evaluation.modes`).

    Args:
        path: directory of the run.
        num_images: N, number of samples, of test images, and of validation images that stand in for samples;
            by default, as many as all three allow, up to 10,000. Of stacked-mnist, of samples and of training
            images that stand in for them, by default 26,000.
        seed: random seed for the samples and the choice of images.
        data: another data set or path to compare with.
        on: device to draw samples on.
        features: data set whose classifier computes the features that are compared; by default, that of the
            images, or mnist.

    Returns:
        What quality.json holds; ``seconds_per_sample`` is that of the fastest batch of up to 250 samples.
        Numbers of another source, ``data``, and of a bundled model are not written.

    Raises:
        UserError: if the model draws no samples, the images cannot be compared, or there are fewer.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    run = Run(path)
    kept = data in (None, run.config.data.data) and not run.bundled
    if kept:
        check_place(run.path / runs.QUALITY)
    sampler = needs(Sampler, run)
    source = data or run.config.data.data
    counting = source == stacked_mnist.NAME and run.spec.shape == stacked_mnist.SHAPE
    if not counting:
        check_comparable(run.spec.shape)
    elif features is not None:
        raise UserError(f"modes of {stacked_mnist.NAME} are counted by one classifier; remove --features")
    # With --hide, the model is of images of which pixels are hidden only from it.
    dataset = run.read_dataset(data, complete=True)
    number = _number_of(dataset, num_images, counting)
    if data in (None, run.config.data.data) and not counting:
        warn_of_validation(run)
    chosen = features or (dataset.name if dataset.name in DATA_SETS else "mnist")
    network = feature_network(chosen)
    model = run.model.to(device(on))
    with reporting(f"drawing samples of {run.name}") as report, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wanted = {"train": number} if counting else {"test": number, "valid": number, "train": None}
        real = {split: _random(dataset, split, most) for split, most in wanted.items()}
        samples, seconds = draw_samples(model, number, report)
    if counting:
        measured = _count_modes(samples, real["train"], dataset)
        compared = "digits of the channels, found by"
    else:
        measured = sample_quality(samples, **real, network=network)
        compared = f"{network.features} features of"
    found = {
        **measured,
        "seconds_per_sample": seconds,
        "threads": torch.get_num_threads(),
        "images": number,
        "samples": "draws from p(x)" if sampler.draws or sampler.draws_pixels else "means of p(x|z)",
        "features": f"{compared} flowvae's classifier of {chosen}, images as they are",
        "real": f"{'training' if counting else 'validation'} images",
        "dataset": dataset.name,
        "binarization": dataset.binarization,
        "seed": seed,
        "version": importlib.metadata.version("flowvae"),
        **training_of(run),
    }
    if kept:
        runs.write_json(run.path / runs.QUALITY, found)
    return found


def _number_of(dataset: Dataset, wanted: int | None, counting: bool) -> int:
    """Return the number of images to compare: as many as ``wanted``, or as there are."""
    splits = {"train": "training"} if counting else {"test": "test", "valid": "validation"}
    counts = {split: len(getattr(dataset, split).images) for split in splits}
    most = USUAL_SAMPLES if counting else MOST_COMPARED
    available = min(most, *counts.values())
    number = available if wanted is None else wanted
    check_range("images", number, 1, MOST)
    if number > available:
        has = " and ".join(f"{counts[split]} {name}" for split, name in splits.items())
        raise UserError(
            f"{number} images are to be compared; {dataset.name} has {has} images, and {most:,} is the most: "
            "choose fewer --images"
        )
    return number


def _count_modes(samples: Tensor, train: Tensor, dataset: Dataset) -> dict[str, Any]:
    """Count modes of samples and, with the suffix ``_of_real``, of training images in their place."""
    assert dataset.test.labels is not None
    shares = shares_of_modes(dataset.test.labels)
    found = {}
    for suffix, images in (("", samples), ("_of_real", train)):
        statistics = mode_statistics(modes_of(images), shares)
        found |= {name + suffix: value for name, value in statistics.items()}
    return found


@torch.no_grad()
def draw_samples(model: Model, number: int, report: Callable[[float], None]) -> tuple[Tensor, float]:
    """Draw samples [N, C, H, W]; return also the seconds for one, in the fastest batch of up to 250."""
    assert isinstance(model, Sampler)
    parts: list[Tensor] = []
    seconds = math.inf
    with evaluating(model):
        while (done := sum(map(len, parts))) < number:
            began = time.perf_counter()
            parts.append(model.draw(min(AT_ONCE, number - done)).float().cpu())
            seconds = min(seconds, (time.perf_counter() - began) / len(parts[-1]))
            report((done + len(parts[-1])) / number)
    return torch.cat(parts), seconds


def _random(dataset: Dataset, split: str, number: int | None) -> Tensor:
    """Return images of a split in random order, at most ``number`` of them."""
    places = torch.randperm(len(getattr(dataset, split).images))[:number]
    chosen = getattr(dataset, split).take(places)
    if chosen.observed is not None:
        raise UserError(
            f"pixels of {dataset.name} are missing; name complete images to compare samples with, by --data"
        )
    # With dynamic binarization, training images are intensities.
    return as_float(chosen.images, dataset.training_levels if split == "train" else dataset.levels)


def report_of(name: str, found: dict[str, Any]) -> str:
    """Write the numbers of samples and of real images, and what they were measured on, as Markdown."""
    columns = [column for column in SHOWN if column in found]
    titles = [column.replace("_", " ") for column in columns]
    rows = [
        [f"{title}", *(format(found[column + suffix], SHOWN[column]) for column in columns)]
        for title, suffix in ((name, ""), (found["real"], "_of_real"))
    ]
    table = [["", *titles], ["---", *["---:"] * len(titles)], *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    on = f"{found['images']:,} {found['samples']}; {found['features']}; {found['dataset']}, test images"
    return "\n".join([*lines, "", on, ""])
