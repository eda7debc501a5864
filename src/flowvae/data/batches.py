"""Training batches as a pure function of (seed, step), the same in a resumed and in an uninterrupted run."""

from functools import lru_cache

import torch
from torch import Tensor

from flowvae.batch import Batch
from flowvae.data.binarization import bernoulli_thresholds
from flowvae.data.dataset import Dataset, as_float
from flowvae.data.seeding import Purpose, generator
from flowvae.errors import UserError


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return the number of full batches per epoch, at least 1; the partial last one is dropped.

    >>> steps_per_epoch(50_000, 128), steps_per_epoch(5, 128)
    (390, 1)
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}; give at least 1")
    return max(1, num_images // batch_size)


@lru_cache(maxsize=2)
def _epoch_order(num_images: int, seed: int, epoch: int) -> Tensor:
    """Return a permutation of the training images, int64 [N]. Cached for the steps of an epoch."""
    return torch.from_numpy(generator(seed, Purpose.EPOCH_ORDER, epoch).permutation(num_images))


def training_batch(
    dataset: Dataset, batch_size: int, seed: int, step: int, rank: int = 0, world_size: int = 1
) -> Batch:
    """Return the batch of training step ``step``, counted from 0 over all epochs.

    Every epoch goes through the images in a new order drawn from (seed, epoch); under dynamic
    binarization the pixels are drawn from (seed, step). B is ``batch_size``, or the number of images
    if there are fewer. With ``world_size`` processes, each gets every ``world_size``-th image of the same
    global batch.

    Raises:
        UserError: if B is less than ``world_size``.
    """
    images = dataset.train.images
    epoch, position = divmod(step, steps_per_epoch(len(images), batch_size))
    size = min(batch_size, len(images))
    if size < world_size:
        raise UserError(
            f"{world_size} processes cannot share a batch of {size} images; start fewer, or choose a larger "
            "batch size"
        )
    share = slice(rank, None, world_size)
    order = _epoch_order(len(images), seed, epoch)
    places = order[position * size : (position + 1) * size][share]
    chosen = dataset.train.take(places)
    if dataset.binarization == "dynamic":
        # Drawn for the whole batch, so that the images do not depend on the number of processes.
        shape = torch.Size((size, *images.shape[1:]))
        thresholds = bernoulli_thresholds(generator(seed, Purpose.BATCH_NOISE, step), shape)[share]
        pixels = (chosen.images > thresholds).to(torch.get_default_dtype())
    else:
        pixels = as_float(chosen.images, dataset.levels)
    return Batch(pixels, places, chosen.labels, chosen.observed)
