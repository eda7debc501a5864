"""The orders in which an autoregressive network can go through an image: its turns and mirror images."""

from collections.abc import Callable

import torch
from torch import Tensor

ORDERS = 8
"""Of a square image; the first four keep the sides of any."""


def turn(maps: Tensor, order: int) -> Tensor:
    """Maps [..., H, W], as the raster order of ``order`` meets them: 0 leaves them as they are.

    >>> turn(torch.tensor([[1, 2], [3, 4]]), 1)
    tensor([[4, 3],
            [2, 1]])
    """
    if order & 4:
        maps = maps.mT
    return maps.flip(_flipped(order))


def turn_back(maps: Tensor, order: int) -> Tensor:
    """Undo `turn`."""
    maps = maps.flip(_flipped(order))
    return maps.mT if order & 4 else maps


def _flipped(order: int) -> list[int]:
    # The first two orders are the opposites of each other: they have the most to tell each other.
    return [side for side, both in ((-1, order & 1 ^ order >> 1 & 1), (-2, order & 1)) if both]


def each_by_its_order(change: Callable[[Tensor, int], Tensor], maps: Tensor, orders: Tensor) -> Tensor:
    """``change(maps, order)`` of `turn` or `turn_back` on maps [N, C, H, W], each with its order of [N]."""
    rows = [(orders == order).nonzero()[:, 0] for order in range(ORDERS)]
    changed = [change(maps[few], order) for order, few in enumerate(rows) if len(few)]
    return torch.cat(changed)[torch.cat(rows).argsort()]
