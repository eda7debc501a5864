"""Nearest images in a set."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.data import as_float


class Nearest(NamedTuple):
    """For each image, the nearest ones of the set, nearest first, [N, count]."""

    indices: Tensor
    """positions in the set"""
    distances: Tensor
    """squared Euclidean distances over all pixels: between binary images, how many pixels differ"""


@torch.no_grad()
def nearest(
    images: Tensor, among: Tensor, count: int = 1, *, levels: int | None = None, chunk: int = 10_000
) -> Nearest:
    """Find the ``count`` images of ``among`` [M, C, H, W] nearest to each of ``images`` [N, C, H, W].

    Samples of a model that memorized its training images have distances near 0 from them. The set is searched
    ``chunk`` images at a time. If ``levels`` is given, the set contains grey levels below it, as a `Dataset`
    does, and each chunk is converted to numbers in [0, 1].

    Raises:
        ValueError: if the set has fewer than ``count`` images.

    >>> among = torch.eye(4).view(4, 1, 2, 2)
    >>> nearest(among[2:3], among).indices
    tensor([[2]])
    """
    if not 1 <= count <= len(among):
        raise ValueError(f"count is {count}; the set has 1 to {len(among)}")
    points = images.flatten(1)
    distances = points.new_empty(len(points), 0)
    indices = torch.empty(len(points), 0, dtype=torch.int64, device=points.device)
    for start in range(0, len(among), chunk):
        others = among[start : start + chunk]
        others = (others if levels is None else as_float(others, levels)).flatten(1)
        # The square, expanded; rounding can make an exact 0 negative.
        square = torch.addmm(others.square().sum(1), points, others.t(), alpha=-2)
        square = (square + points.square().sum(1, keepdim=True)).clamp(min=0)
        places = torch.arange(start, start + len(others), device=points.device).expand(len(points), -1)
        distances, indices = torch.cat([distances, square], 1), torch.cat([indices, places], 1)
        distances, order = distances.topk(min(count, distances.shape[1]), largest=False)
        indices = indices.gather(1, order)
    return Nearest(indices, distances)
