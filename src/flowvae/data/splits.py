"""From arrays to the three splits of a data set, with the checks that every source shares."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from flowvae.data.dataset import Dataset, Split
from flowvae.data.seeding import Purpose, generator
from flowvae.errors import UserError, did_you_mean

SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test", "testing"),
}


def check_split(split: str, dataset: Dataset) -> None:
    """Make sure that the images of a split can be scored.

    Raises:
        UserError: if there is no such split, or its images are drawn anew for every batch.
    """
    if split not in SPLIT_NAMES:
        raise UserError(f"split is {split}; {did_you_mean(split, SPLIT_NAMES)}")
    if split == "train" and dataset.binarization == "dynamic":
        raise UserError(
            "with dynamic binarization, training images are redrawn for every batch; choose valid or test"
        )


def split_called(name: str) -> str | None:
    """Return the split that a directory or an array of this name contains, in any case; None for other names.

    >>> split_called("Training"), split_called("VAL"), split_called("cats")
    ('train', 'valid', None)
    """
    return next((split for split, names in SPLIT_NAMES.items() if name.casefold() in names), None)


def make_split(
    where: str, images: np.ndarray, labels: np.ndarray | None = None, observed: np.ndarray | None = None
) -> Split:
    """Make a split from uint8 [N, C, H, W], integers [N] or [N, 1], and bool [N, C, H, W] or [N, 1, H, W].

    Errors name the source ``where``.
    """
    if 0 in images.shape:
        raise UserError(f"{where} contains no images (its shape is {images.shape}); give at least one")
    pixels, known = torch.from_numpy(images), None
    if observed is not None and not observed.all():
        if nothing := np.flatnonzero(~observed.any((1, 2, 3))).tolist():
            raise UserError(f"{where} has no known pixel in image {nothing[0]}, counted from 0; leave it out")
        known = torch.from_numpy(observed)
        pixels, known = pixels * known, known.expand(pixels.shape)
    if labels is None:
        return Split(pixels, None, known)
    of_each = labels.ndim > 0 and labels.size == len(labels)
    if not np.issubdtype(labels.dtype, np.integer) or not of_each:
        raise UserError(
            f"the labels of {where} are {labels.dtype} of shape {labels.shape}; give one integer per image"
        )
    if len(labels) != len(images):
        raise UserError(f"{where} has {len(images)} images but {len(labels)} labels; give one per image")
    return Split(pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64)), known)


def make_dataset(
    path: Path,
    train: Split,
    valid: Split,
    test: Split,
    name: str | None = None,
    classes: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Make a data set of unbinarized splits, named after its path unless ``name`` is given."""
    dataset = Dataset(name or path.resolve().stem, "none", train, valid, test, classes=classes, notes=notes)
    for other, split in (("valid", valid), ("test", test)):
        if split.images.shape[1:] != train.images.shape[1:]:
            raise UserError(
                f"{path} has train images of shape {tuple(train.images.shape[1:])} and {other} images of "
                f"shape {tuple(split.images.shape[1:])} (channels, height, width); give all of them one shape"
            )
    return dataset


def hold_out(path: Path, train: Split, share: Fraction = Fraction(1, 6)) -> tuple[Split, Split]:
    """Return (train, valid): the last ``share`` of train becomes valid; by default a sixth, as for MNIST."""
    count = len(train.images)
    if count < 2:
        raise UserError(
            f"{path} has no validation images and too few training images to hold some out; add images"
        )
    held_out = max(1, int(count * share))
    return train.take(slice(count - held_out)), train.take(slice(count - held_out, count))


def shuffled(split: Split) -> Split:
    """Put the images into a random order that is always the same.

    It does not depend on the user's seed: another seed must not move test images into train.
    """
    order = generator(0, Purpose.SPLIT_ORDER).permutation(len(split.images))
    return split.take(torch.from_numpy(order))


def split_at_random(path: Path, everything: Split) -> tuple[Split, Split, Split]:
    """Return (train, valid, test) in the order of ``shuffled``: valid and test are a tenth each.

    From ten images on they are at least two, enough for an interpolation and a standard error.
    """
    count = len(everything.images)
    if count < 3:
        raise UserError(f"{path} has {count} images, too few for train, valid and test; add some")
    tenth = max(1, count // 10, min(2, count // 5))
    everything = shuffled(everything)
    return (
        everything.take(slice(count - 2 * tenth)),
        everything.take(slice(count - 2 * tenth, count - tenth)),
        everything.take(slice(count - tenth, count)),
    )
