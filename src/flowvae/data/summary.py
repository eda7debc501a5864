"""The line that says what was read, and warnings about likely mistakes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from flowvae.data.dataset import Dataset, Split

LOOKED_AT = 2000
"""largest number of training images that are examined"""
MOST_NOISE = 0.35
"""share of noise above which there is a warning; 0.16 in MNIST, 0.27 in Omniglot, 0.75 in CIFAR-10"""
LARGEST_OF_SCALES = {*range(2, 33), 63, 64, 100, 127, 128}
"""largest values that suggest another scale than 0 to 255"""
MOST_CLASSES = 10
"""largest number of classes that the line names"""


def describe(dataset: Dataset) -> str:
    """Return one line: images of each split, their size, channels and values, binarization, classes."""
    splits = (dataset.train, dataset.valid, dataset.test)
    counts = " + ".join(f"{len(split.images):,}" for split in splits)
    channels, height, width = dataset.shape
    low, high = dataset.values
    said = [
        f"{dataset.name}: {counts} images (train + valid + test) of {height} x {width}",
        "grey" if channels == 1 else f"{channels} channels",
        f"values {low} to {high}",
        f"binarization {dataset.binarization}",
    ]
    labels = [split.labels for split in splits if split.labels is not None]
    masks = [split.observed for split in splits if split.observed is not None]
    if masks:
        missing = sum(int((~mask).sum()) for mask in masks)
        share = missing / sum(split.images.numel() for split in splits)
        said.append(f"{100 * share:.2g}% of pixels missing")
    if labels:
        said.append(_classes(dataset.classes, torch.cat(labels)))
    return ", ".join(said)


def _classes(names: tuple[str, ...], labels: Tensor) -> str:
    known = labels[labels >= 0]
    found, counts = known.unique(return_counts=True)
    said = f"{len(found)} classes"
    if names and len(names) <= MOST_CLASSES:
        counted = dict(zip(found.tolist(), counts.tolist(), strict=True))
        listed = ", ".join(f"{name} ({counted.get(number, 0)})" for number, name in enumerate(names))
        said = f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {listed}"
    unknown = len(labels) - len(known)
    return f"{said}, {unknown:,} images without a label" if unknown else said


def values_of(dataset: Dataset) -> tuple[int, int]:
    """Return the smallest and the largest value of all known pixels."""
    low, high = 255, 0
    # In parts: the first one nearly always has both ends, and all of them may be gigabytes on disk.
    splits = (dataset.train, dataset.valid, dataset.test)
    for part in (split.take(places) for split in splits for places in _portions(split)):
        known = part.images if part.observed is None else part.images[part.observed]
        if known.numel():
            low, high = min(low, int(known.min())), max(high, int(known.max()))
        if (low, high) == (0, 255):
            break
    return low, high


def _portions(split: Split) -> Iterator[slice]:
    return (slice(start, start + 1000) for start in range(0, len(split.images), 1000))


def oddities(dataset: Dataset, binarization: str) -> Iterator[str]:
    """Yield a line for each likely mistake with 8-bit images under a binarization."""
    high = dataset.values[1]
    few = dataset.train.take(slice(None, None, max(1, len(dataset.train.images) // LOOKED_AT)))
    images = few.images
    known = images if few.observed is None else images[few.observed]
    if dataset.shape[0] == 3 and bool((images == images[:, :1]).all()):
        yield "the three channels of every image are equal; --grey reads them as one"
    if high in LARGEST_OF_SCALES:
        yield (
            f"no pixel is larger than {high}, and pixels are taken as 0 to 255; if {high} is white, "
            f"--value-range 0 {high} scales it to 255"
        )
    elif high > 1 and binarization in ("static", "dynamic") and (share := noise_share(known)) > MOST_NOISE:
        yield (
            f"{share:.0%} of the variance of the binarized pixels is noise, as for photographs; keep 8 bits "
            "with --binarization none --likelihood logistic-mixture, or cut at 128 with --binarization "
            "threshold"
        )


def noise_share(images: Tensor) -> float:
    """Return the share of the draw in the variance of pixels drawn from Bernoulli(intensity / 255).

    It is 0 for black and white images. With p the intensity, the variance is mean(p) (1 - mean(p)), of which
    mean(p (1 - p)) is within pixels.

    >>> noise_share(torch.tensor([0, 255, 255], dtype=torch.uint8))
    0.0
    """
    p = images.double() / 255
    total = p.mean() * (1 - p.mean())
    return float((p * (1 - p)).mean() / total) if total > 0 else 0.0
