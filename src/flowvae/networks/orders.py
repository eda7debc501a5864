"""Orders of the positions for autoregressive networks, from rotations and reflections of the image."""

from collections.abc import Callable

import torch
from torch import Tensor

ORDERS = 8
"""number of orders of a square image; the first four apply to any image"""


def turn(maps: Tensor, order: int) -> Tensor:
    """Turn maps [..., H, W] such that the order ``order`` becomes raster order; 0 leaves them unchanged.

    >>> turn(torch.tensor([[1, 2], [3, 4]]), 1)
    tensor([[4, 3],
            [2, 1]])
    """
    if order & 4:
        maps = maps.mT
    return maps.flip(_flipped(order))


def turn_back(maps: Tensor, order: int) -> Tensor:
    """Invert `turn`."""
    maps = maps.flip(_flipped(order))
    return maps.mT if order & 4 else maps


def _flipped(order: int) -> list[int]:
    # The first two orders are opposites of each other, and so the most different.
    return [side for side, both in ((-1, order & 1 ^ order >> 1 & 1), (-2, order & 1)) if both]


def each_by_its_order(change: Callable[[Tensor, int], Tensor], maps: Tensor, orders: Tensor) -> Tensor:
    """Apply ``change``, `turn` or `turn_back`, to maps [N, C, H, W], each with its own order of [N]."""
    rows = [(orders == order).nonzero()[:, 0] for order in range(ORDERS)]
    changed = [change(maps[few], order) for order, few in enumerate(rows) if len(few)]
    return torch.cat(changed)[torch.cat(rows).argsort()]
