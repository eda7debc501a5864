"""Orders of the positions for autoregressive networks: the image is rotated, reflected and shifted."""

from collections.abc import Callable

import torch
from torch import Tensor

TURNS = 8
"""number of rotations and reflections of a square image; the first four apply to any image"""
ORDERS = 4 * TURNS
"""number of orders of a square image: its turns, then those of the image shifted by a pixel in three ways"""


def turn(maps: Tensor, order: int) -> Tensor:
    """Turn maps [..., H, W] such that the order ``order`` becomes raster order; 0 leaves them unchanged.

    A shift is cyclic, and so loses nothing: the last row becomes the first.

    >>> turn(torch.tensor([[1, 2], [3, 4]]), 1)
    tensor([[4, 3],
            [2, 1]])
    >>> turn(torch.tensor([[1, 2, 3], [4, 5, 6]]), 16)
    tensor([[3, 1, 2],
            [6, 4, 5]])
    """
    maps = maps.roll(_shift(order), (-2, -1)) if order >= TURNS else maps
    if order & 4:
        maps = maps.mT
    return maps.flip(_flipped(order))


def turn_back(maps: Tensor, order: int) -> Tensor:
    """Invert `turn`."""
    maps = maps.flip(_flipped(order))
    if order & 4:
        maps = maps.mT
    rows, columns = _shift(order)
    return maps.roll((-rows, -columns), (-2, -1)) if order >= TURNS else maps


def _shift(order: int) -> tuple[int, int]:
    """Return by how many rows and columns an order shifts an image before it is turned."""
    return ((0, 0), (1, 1), (0, 1), (1, 0))[order // TURNS]


def _flipped(order: int) -> list[int]:
    # The first two orders are opposites of each other, and so the most different.
    return [side for side, both in ((-1, order & 1 ^ order >> 1 & 1), (-2, order & 1)) if both]


def each_by_its_order(change: Callable[[Tensor, int], Tensor], maps: Tensor, orders: Tensor) -> Tensor:
    """Apply ``change``, `turn` or `turn_back`, to maps [N, C, H, W], each with its own order of [N]."""
    present = orders.unique().tolist() or [0]  # of no maps as well
    rows = [(orders == order).nonzero()[:, 0] for order in present]
    changed = [change(maps[few], order) for order, few in zip(present, rows, strict=True)]
    return torch.cat(changed)[torch.cat(rows).argsort()]
