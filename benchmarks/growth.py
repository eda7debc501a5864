"""How the cost of a posterior grows with K, D, S and B."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.machine import REPOSITORY
from benchmarks.posteriors import our_step
from benchmarks.timing import by_turns
from flowvae.models.posteriors import FlowOptions, PlanarOptions, RealNVPOptions

FEATURES = 64
FAMILIES: tuple[type[FlowOptions], ...] = (PlanarOptions, RealNVPOptions)
PICTURE = REPOSITORY / "docs" / "images" / "growth.png"


@dataclass(frozen=True)
class Size:
    """K transformations of D dimensions, S samples of each of B images."""

    K: int = 10
    D: int = 40
    S: int = 1
    B: int = 256


SIZES: dict[str, list[Size]] = {
    "K": [Size(K=k) for k in (4, 8, 16, 32, 64)],
    "D": [Size(D=d) for d in (16, 32, 64, 128, 256, 512)],
    # Of one image.
    "S": [Size(S=s, B=1) for s in (1, 5, 20, 100, 500, 1500, 5000)],
    "B": [Size(B=b) for b in (1, 4, 16, 64, 256, 1024)],
}
NAMES = {
    "K": "K, transformations",
    "D": "D, latent dimensions",
    "S": "S, samples of one image",
    "B": "B, images",
}


def measure(
    sizes: dict[str, list[Size]] = SIZES, repeats: int = 5, picture: Path = PICTURE
) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of forward and backward for each size, one of the four varied at a time, and the picture of it.

    Everything else is as in `Size`, with 64 features. The slope is that of log seconds over log size between
    the largest three sizes, where the fixed costs of a call no longer hide it.
    """
    torch.manual_seed(0)
    curves: dict[str, dict[str, Any]] = {}
    for varied, along in sizes.items():
        values = [getattr(size, varied) for size in along]
        curves[varied] = {}
        for family in FAMILIES:
            calls = {str(value): _call(family, size) for value, size in zip(values, along, strict=True)}
            seconds = list(by_turns(calls, repeats, at_least=0.01).values())
            curves[varied][family.name] = {
                "sizes": values,
                "seconds": seconds,
                "slope": _slope(values[-3:], seconds[-3:]),
            }
    _draw(curves, picture)
    return {}, {"curves": curves}


def _call(family: type[FlowOptions], size: Size):
    return our_step(family(size.K), size.B, FEATURES, size.D, size.S)


def _slope(sizes: list[int], seconds: list[float]) -> float:
    """Of the least-squares line through (log size, log seconds)."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def _draw(curves: dict[str, dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2, squeeze=False).ravel()
    for axes, (varied, families) in zip(grid, curves.items(), strict=False):
        for index, (family, curve) in enumerate(families.items()):
            milliseconds = [1e3 * value for value in curve["seconds"]]
            label = f"{family}, slope {curve['slope']:.2f}"
            axes.loglog(curve["sizes"], milliseconds, marker="o", color=f"C{index}", label=label)
        # To compare with: a line of slope 1 along the largest sizes, under all curves.
        sizes = next(iter(families.values()))["sizes"]
        lowest = 0.6e3 * min(curve["seconds"][-1] for curve in families.values())
        line = [lowest * size / sizes[-1] for size in sizes[-3:]]
        axes.loglog(sizes[-3:], line, color="0.5", linestyle="--", label="slope 1")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(NAMES[varied])
        axes.set_ylabel("milliseconds")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle("Forward and backward of a posterior; K = 10, D = 40, S = 1, B = 256 unless varied")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
