"""Labels of the systems that use them: their classes, and the few that are drawn."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from flowvae.batch import Batch, DataSpec
from flowvae.errors import UserError


def classes_of(data: DataSpec) -> int:
    """Return the number of classes of the training images.

    Raises:
        UserError: if there are fewer than two.
    """
    if data.classes < 2:
        what = "no labels" if data.classes == 0 else "a single class"
        raise UserError(f"the training images have {what}; choose data with labels of several classes")
    return data.classes


def draw_labelled(batches: Iterable[Batch], number: int, noise: torch.Generator) -> Batch:
    """Draw ``number`` labelled images, the same number of each class, without replacement.

    Images with the label -1 are not drawn.

    Raises:
        UserError: if there are no labels, ``number`` is not a multiple of the number of classes, or a class
            has too few images.
    """
    kept: list[Tensor] = []  # images, index, labels and keys; the draw is the images with the smallest keys
    counts: Counter[int] = Counter()
    for batch in batches:
        if batch.labels is None:
            continue
        known = batch.labels >= 0
        counts.update(batch.labels[known].tolist())
        keys = torch.rand(len(known), generator=noise)
        new = [each[known] for each in (batch.images, batch.index, batch.labels, keys)]
        kept = [torch.cat(pair) for pair in zip(kept, new, strict=True)] if kept else new
        kept = _smallest(kept, max(1, number // len(counts))) if counts else kept
    if not counts:
        raise UserError("the training images have no labels; choose data with labels")
    if number % len(counts):
        raise UserError(
            f"labels_used is {number}; it must be a multiple of the number of classes, {len(counts)}"
        )
    label, fewest = min(counts.items(), key=lambda item: (item[1], item[0]))
    if fewest < number // len(counts):
        raise UserError(
            f"labels_used is {number}, {number // len(counts)} of each class, but class {label} has only "
            f"{fewest} labelled training images; choose at most --labels-used {fewest * len(counts)}"
        )
    images, index, labels, _ = _smallest(kept, number // len(counts))
    return Batch(images, index, labels)


def _smallest(kept: list[Tensor], of_each: int) -> list[Tensor]:
    """Keep the images with the smallest keys of each class."""
    *_, labels, keys = kept
    order = keys.argsort()
    places = torch.cat([order[labels[order] == label][:of_each] for label in labels.unique()])
    return [each[places] for each in kept]


def few_of(known: Batch, count: int, levels: int | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Draw images for one step, with their labels; binary pixels are drawn from intensities."""
    assert known.labels is not None
    places = torch.randint(len(known.images), (count,))
    images = known.images[places]
    images = torch.bernoulli(images) if levels == 2 else images
    return images.to(like.device), known.labels[places].to(like.device)
