"""Times of several candidates, measured in one run by turns."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]

SIDE = 2048
MATRIX_PRODUCT_FLOPS = 2 * SIDE**3
MATRIX_PRODUCT = "matrix product"


def by_turns(candidates: Mapping[str, Call], repeats: int, at_least: float = 0.02) -> dict[str, float]:
    """Median seconds of one call of each candidate.

    Every round gives each candidate one turn, and begins one candidate further on than the round before, so
    that a slow moment of the machine slows them all, and nobody always follows the same neighbour. A turn is
    one call that warms the caches, then as many calls as take about ``at_least`` seconds.
    """
    names = list(candidates)
    calls = {}
    for name in names:
        candidates[name]()  # what is made or compiled at the first use
        calls[name] = max(1, math.ceil(at_least / _seconds(candidates[name], 1)))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for turn in range(repeats):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                candidates[name]()
                seconds[name].append(_seconds(candidates[name], calls[name]))
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds(call: Call, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def matrix_product(precision: str = "float32") -> Call:
    """The product of two 2048 x 2048 matrices, which sets the machine's rate of arithmetic."""
    a, b, out = torch.randn(3, SIDE, SIDE).to(getattr(torch, precision))
    return lambda: torch.mm(a, b, out=out)


def floating_point_operations(call: Call) -> int:
    """Of the products and convolutions in one call (one multiply-add is two), as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(1e3 * value, 4) for name, value in seconds.items()}
