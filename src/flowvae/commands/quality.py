"""The command that compares samples of a run with the test images of its data."""

import dataclasses
import importlib.metadata
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvae import runs
from flowvae.commands.evaluating import training_of
from flowvae.commands.progress import reporting
from flowvae.data import Dataset, as_float, load_configured
from flowvae.devices import device
from flowvae.errors import UserError, check_range
from flowvae.evaluation.sample_quality import DATA_SETS, check_comparable, feature_network, sample_quality
from flowvae.models import Model, Sampler
from flowvae.models.base import evaluating
from flowvae.parts import LARGEST_SEED, MOST
from flowvae.runs import Run
from flowvae.runs.capability import needs

MOST_COMPARED = 10_000
AT_ONCE = 250
SHOWN = {
    "frechet_distance": ".2f",
    "kernel_distance": ".4f",
    "density": ".3f",
    "coverage": ".3f",
    "class_coverage": ".2f",
    "nearest_training_distance": ".2f",
}


def compare_samples(
    path: Path,
    num_images: int | None = None,
    seed: int = 0,
    data: str | None = None,
    on: str = "auto",
    features: str | None = None,
) -> dict[str, Any]:
    """Compare samples with test images (see `sample_quality`), and write quality.json into the run.

    Args:
        path: directory of the run.
        num_images: N, number of samples, of test images, and of validation images that stand in for samples;
            by default, as many as all three allow, up to 10,000.
        seed: random seed for the samples and the choice of images.
        data: another data set or path to compare with.
        on: device to draw samples on.
        features: data set whose classifier computes the features that are compared; by default, that of the
            images, or mnist.

    Returns:
        What quality.json holds; ``seconds_per_sample`` is that of the fastest batch of up to 250 samples.
        Numbers of another source, ``data``, and of a bundled model are not written.

    Raises:
        UserError: if the model draws no samples, or the images cannot be compared.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    run = Run(path)
    sampler = needs(Sampler, run)
    check_comparable(run.spec.shape)
    # With --hide, the model is of images of which pixels are hidden only from it.
    complete = dataclasses.replace(run.config.data, hide=None)
    dataset = run.read_dataset(data) if run.config.data.hide is None else load_configured(complete, data)
    available = min(MOST_COMPARED, len(dataset.test.images), len(dataset.valid.images))
    number = available if num_images is None else num_images
    check_range("images", number, 1, MOST)
    if number > available:
        raise UserError(
            f"{number} images are to be compared; {dataset.name} has {len(dataset.test.images)} test and "
            f"{len(dataset.valid.images)} validation images, and {MOST_COMPARED:,} is the most: choose fewer "
            "--images"
        )
    chosen = features or (dataset.name if dataset.name in DATA_SETS else "mnist")
    network = feature_network(chosen)
    model = run.model.to(device(on))
    with reporting(f"drawing samples of {run.name}") as report, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        test, valid = (_random(dataset, split, number) for split in ("test", "valid"))
        train = _random(dataset, "train", len(dataset.train.images))
        parts: list[Tensor] = []
        seconds = math.inf
        with evaluating(model):
            while (done := sum(map(len, parts))) < number:
                began = time.perf_counter()
                parts.append(_drawn(model, min(AT_ONCE, number - done)))
                seconds = min(seconds, (time.perf_counter() - began) / len(parts[-1]))
                report((done + len(parts[-1])) / number)
    measured = sample_quality(torch.cat(parts), test, valid, train, network)
    found = {
        **measured,
        "seconds_per_sample": seconds,
        "threads": torch.get_num_threads(),
        "images": number,
        "samples": "draws from p(x)" if sampler.draws or sampler.draws_pixels else "means of p(x|z)",
        "features": f"{network.features} features of flowvae's classifier of {chosen}, images as they are",
        "dataset": dataset.name,
        "binarization": dataset.binarization,
        "seed": seed,
        "version": importlib.metadata.version("flowvae"),
        **training_of(run),
    }
    if data in (None, run.config.data.data) and not run.bundled:
        runs.write_json(run.path / runs.QUALITY, found)
    return found


def _drawn(model: Model, number: int) -> Tensor:
    assert isinstance(model, Sampler)
    return model.draw(number).float().cpu()


def _random(dataset: Dataset, split: str, number: int) -> Tensor:
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
        for title, suffix in ((name, ""), ("validation images", "_of_real"))
    ]
    table = [["", *titles], ["---", *["---:"] * len(titles)], *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    on = f"{found['images']:,} {found['samples']}; {found['features']}; {found['dataset']}, test images"
    return "\n".join([*lines, "", on, ""])
