"""Images of continuous densities: noise within the pixels' intervals is popped, and gets its bits back."""

import numpy as np
import torch
from torch import Tensor

from flowvae.compression.codes import CELL_BITS, do, pop_normal, push_normal, undo
from flowvae.compression.stack import Integers, Stack
from flowvae.models import Normalizing


def push_values(stack: Stack, model: Normalizing, images: Tensor, levels: int) -> None:
    """Push images, int64 [B, C, H, W] of levels from 0 on."""
    low, sizes = _intervals(model, images, levels)
    values = low + stack.pop_uniform(sizes)
    noise = undo(stack, do(stack, values[None], [model.to_real()]), model.from_noise())
    push_normal(stack, noise)


def pop_values(stack: Stack, model: Normalizing, number: int, levels: int) -> Tensor:
    """Undo `push_values`."""
    noise = pop_normal(stack, (1, number, *model.value_shape))
    values = undo(stack, do(stack, noise, model.from_noise()), [model.to_real()])[0]
    height, width = model.image_sides
    found = np.searchsorted(_edges(levels), values[:, :, :height, :width], side="right") - 1
    images = torch.from_numpy(found)
    low, sizes = _intervals(model, images, levels)
    stack.push_uniform(values - low, sizes)
    return images


def _edges(levels: int) -> Integers:
    """Return where the interval of each level begins, in cells, and where the last one ends."""
    return -(-(np.arange(levels + 1) << CELL_BITS) // levels)


def _intervals(model: Normalizing, images: Tensor, levels: int) -> tuple[Integers, Integers]:
    """Return the beginnings and sizes of the pixels' intervals, in cells; those of the padding are [0, 1)."""
    edges, number = _edges(levels), len(images)
    low = np.zeros((number, *model.value_shape), np.int64)
    high = np.full_like(low, 1 << CELL_BITS)
    height, width = model.image_sides
    low[:, :, :height, :width], high[:, :, :height, :width] = edges[images.numpy()], edges[images.numpy() + 1]
    return low, high - low
