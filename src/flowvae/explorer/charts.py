"""Charts as SVG that follow the page's width."""

import html
from collections.abc import Sequence

import numpy as np


def histogram(values: Sequence[float], mark: float, title: str, flagged: bool = False, bins: int = 30) -> str:
    """Draw a histogram of values with a line at ``mark``, which may lie outside their range."""
    width, height, foot = 600, 180, 24
    low, high = min(*values, mark), max(*values, mark)
    span = (high - low) or 1.0
    low, high = low - 0.03 * span, high + 0.03 * span
    counts, edges = np.histogram(values, bins, (low, high))

    def across(value: float) -> float:
        return (value - low) / (high - low) * width

    tallest = max(1, counts.max())
    bars = "".join(
        f"<rect x='{across(left) + 0.5:.1f}' width='{across(right) - across(left) - 1:.1f}'"
        f" y='{(height - foot) * (1 - 0.92 * count / tallest):.1f}'"
        f" height='{(height - foot) * 0.92 * count / tallest:.1f}' class='fv-bar'/>"
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True)
    )
    ticks = "".join(
        f"<text x='{across(tick):.1f}' y='{height - 6}' text-anchor='middle' class='fv-tick'>{tick:g}</text>"
        for tick in _ticks(low, high)
    )
    anchor, side = ("end", -6) if across(mark) > 0.7 * width else ("start", 6)
    line = (
        f"<g class='{'fv-mark fv-flagged' if flagged else 'fv-mark'}'>"
        f"<line x1='{across(mark):.1f}' x2='{across(mark):.1f}' y1='0' y2='{height - foot}'/>"
        f"<text x='{across(mark) + side:.1f}' y='14' text-anchor='{anchor}'>this image: {mark:.1f}</text></g>"
    )
    said = html.escape(title)
    return (
        f"<figure class='fv-figure'><svg viewBox='0 0 {width} {height}' role='img' aria-label='{said}'>"
        f"{bars}<line x1='0' x2='{width}' y1='{height - foot}' y2='{height - foot}' class='fv-axis'/>"
        f"{ticks}{line}"
        f"</svg><figcaption>{said}</figcaption></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Choose four to nine round numbers between low and high.

    >>> _ticks(57.0, 143.0)
    [60.0, 80.0, 100.0, 120.0, 140.0]
    """
    rough = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [float(tick) for tick in np.arange(np.ceil(low / step), high / step) * step]
