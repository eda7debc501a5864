"""The table of all systems, trained for equal times and measured alike."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flowvae.data import load_dataset
from flowvae.data.load import read_source
from flowvae.data.summary import values_of
from flowvae.evaluation.sample_quality import check_comparable
from flowvae.reproduce import Budget, Variant, reproduce_table

BINARY = {
    name: Variant(name)
    for name in (
        "vae",
        "planar-10",
        "realnvp-5",
        "iaf-4",
        "semi-supervised",
        "density-small",
        "pixelcnn",
        "pixelrnn-row",
        "pixelrnn-diagonal",
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


def reproduce_systems(
    folder: Path,
    budget: Budget,
    rows: Sequence[str] = (),
    data: str | None = None,
    workers: int = 1,
    num_samples: int = 1000,
    num_images: int = 2000,
) -> None:
    """Train every system for the same time.

    Args:
        folder: directory for the runs, under ``training/``.
        budget: training budget per row.
        rows: names of the rows; by default, all.
        data: data set of the binary rows, in place of MNIST; also of the others, if its pixels are grey.
        workers: number of rows to train in parallel.
        num_samples: S, number of posterior samples per image for -log p(x).
        num_images: number of random test images to score.

    Raises:
        UserError: if a row failed, or samples on these data cannot be compared with images.
    """
    chosen = rows or ROWS
    check_comparable(load_dataset(data or "mnist").shape)
    grey = data if data and values_of(read_source(data))[1] > 1 else "mnist"
    variants = {name: BINARY[name] if name in BINARY else replace(GREY[name], data=grey) for name in chosen}
    reproduce_table(
        folder / "training",
        budget,
        variants=variants,
        data=data,
        workers=workers,
        num_samples=num_samples,
        num_images=num_images,
    )
