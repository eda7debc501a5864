"""Pictures: grids of images, latent interpolations, training curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from torch import Tensor

from flowvae.colours import TEN
from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.runs import judged_by, replacing
from flowvae.titles import title_with_unit

GAP = 2  # pixels between images
GAP_SHADE = 0.85
FORMATS = (".png", ".pdf")
DPI = 200
MOST_PIXELS = 2**16  # per side, limit of matplotlib
FONT_SIZE = 9
LINE_STYLES = ("solid", "dashed", "dashdot", "dotted")
LABEL_GAP = 0.055  # between labels of curves, as a share of the height of a panel
PLAIN: dict[str, Any] = {"parse_math": False}
"""of a text with the name of a run, in which $ is a character"""


def tile(images: Tensor, columns: int, together: int | None = None) -> np.ndarray:
    """Arrange images [N, C, H, W] in [0, 1] row by row on one canvas [height, width, C], uint8.

    Images of one channel are shown as ink on paper: 1 is black. NaN is left blank. Every ``together`` rows,
    the gap is wider.

    >>> import torch
    >>> tile(torch.zeros(5, 1, 8, 8), columns=3).shape
    (22, 32, 1)
    """
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    wider = [row // together if together else 0 for row in range(rows)]
    tops = [GAP + row * (height + GAP) + 2 * GAP * gaps for row, gaps in enumerate(wider)]
    canvas = np.full((tops[-1] + height + GAP, columns * (width + GAP) + GAP, channels), GAP_SHADE)
    for index, image in enumerate(images.detach().cpu().permute(0, 2, 3, 1).numpy()):
        top, left = tops[index // columns], (index % columns) * (width + GAP) + GAP
        canvas[top : top + height, left : left + width] = 1 - image if channels == 1 else image
    return (np.nan_to_num(canvas, nan=GAP_SHADE).clip(0, 1) * 255).round().astype(np.uint8)


def save_panels(panels: Mapping[str, Tensor], path: Path, columns: int, together: int | None = None) -> None:
    """Save grids of images side by side, each centered below its title (which may be empty), as PNG or PDF.

    In a PNG, an image pixel is a square of whole pixels.

    Raises:
        UserError: if the file's suffix is neither .png nor .pdf, or the picture is too large.
    """
    canvases = {title: tile(images, columns, together) for title, images in panels.items()}
    # An image is about 84 pixels wide, so that most titles fit above a grid.
    scale = max(1, 84 // next(iter(panels.values())).shape[3])
    widths = [scale * canvas.shape[1] for canvas in canvases.values()]
    heights = [scale * canvas.shape[0] for canvas in canvases.values()]
    between, above = DPI // 10, DPI // 4 if any(panels) else 0
    full = [max(wide, _width(title)) for wide, title in zip(widths, panels, strict=True)]
    width, height = sum(full) + between * (len(panels) - 1), max(heights) + above
    if max(width, height) >= MOST_PIXELS:
        raise UserError(f"a picture of {width:,} x {height:,} pixels is too large; give fewer images")
    figure = Figure(figsize=(width / DPI, height / DPI))
    begin = 0
    for column, wide, high, (title, canvas) in zip(full, widths, heights, canvases.items(), strict=True):
        left = begin + (column - wide) // 2
        axes = figure.add_axes((left / width, (height - above - high) / height, wide / width, high / height))
        colours = np.broadcast_to(canvas, (*canvas.shape[:2], 3))  # a colour map would round grey levels
        axes.imshow(colours, interpolation="nearest", aspect="auto")
        axes.set_title(title, fontsize=FONT_SIZE, **PLAIN)
        axes.axis("off")
        begin += column + between
    _save(figure, path)


def _width(title: str) -> int:
    """Return the width of a title above a grid in pixels, with some space at its sides."""
    if not title:
        return 0
    path = TextPath((0, 0), title.replace("$", r"\$"), size=FONT_SIZE)  # it has no option like PLAIN
    return math.ceil((path.get_extents().width + FONT_SIZE) * DPI / 72)


Unit = Literal["minutes", "epochs"]


def save_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, over: Unit = "minutes") -> None:
    """Save the figure of `draw_curves`, as PNG or PDF.

    Raises:
        UserError: if the file's suffix is neither .png nor .pdf.
    """
    _save(draw_curves(runs, over), path)


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], over: Unit = "minutes") -> Figure:
    """Draw the runs' validation scores over minutes or epochs of training, one panel per kind of score.

    Training is faint, validation marked. Runs differ in colour and line style, and a curve's name stands
    at its end. Minutes compare costs if all runs had the same machine.
    """
    kinds: dict[str, dict[str, Sequence[Mapping[str, Any]]]] = {}
    for name, records in runs.items():
        kinds.setdefault(judged_by(records) or "negative_elbo", {})[name] = records
    figure = Figure(figsize=(6.5, 3.6 * max(1, len(kinds))), layout="constrained")
    panels = figure.subplots(max(1, len(kinds)), squeeze=False)[:, 0]
    for axes, (number, chosen) in zip(panels, kinds.items(), strict=False):
        _draw_panel(axes, number, chosen, over)
    return figure


def save_over_images(scores: Mapping[str, Mapping[int, float]], number: str, path: Path) -> None:
    """Save a curve per name of test scores over numbers of training images, as PNG or PDF."""
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    ends: dict[str, tuple[Line2D, float, float]] = {}
    for index, (name, found) in enumerate(scores.items()):
        counts = sorted(found)
        look: dict[str, Any] = {
            "color": TEN[index % len(TEN)],
            "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        }
        (line,) = axes.plot(counts, [found[count] for count in counts], linewidth=1.2, marker="o", **look)
        ends[name] = (line, counts[-1], found[counts[-1]])
    counts = sorted({count for found in scores.values() for count in found})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xticks([], minor=True)
    _style(axes, "training images", title_with_unit(number))
    _label(axes, ends)
    _save(figure, path)


def _style(axes: Axes, of_x: str, of_y: str) -> None:
    axes.set_xlabel(of_x, fontsize=FONT_SIZE)
    axes.set_ylabel(of_y, fontsize=FONT_SIZE)
    axes.tick_params(labelsize=FONT_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, linewidth=0.6)


def _draw_panel(axes: Axes, number: str, runs: Mapping[str, Sequence[Mapping[str, Any]]], over: Unit) -> None:

    def spent(record: Mapping[str, Any]) -> float:
        return record["seconds"] / 60 if over == "minutes" else record["epoch"]

    compared: list[float] = []
    ends: dict[str, tuple[Line2D, float, float]] = {}
    """the last validation of each run: its curve, x and y"""
    for index, (name, records) in enumerate(runs.items()):
        end = max((spent(record) for record in records), default=0.0)
        for split in ("train", "valid"):
            chosen = [record for record in records if record["split"] == split and number in record]
            spendings, values = [spent(record) for record in chosen], [record[number] for record in chosen]
            look: dict[str, Any] = {
                "color": TEN[index % len(TEN)],
                "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
            }
            if split == "valid":
                (line,) = axes.plot(
                    spendings, values, label=name, linewidth=1.2, marker="o", markersize=3, **look
                )
                finite = [at for at in zip(spendings, values, strict=True) if math.isfinite(at[1])]
                x, y = finite[-1] if finite else (0.0, math.nan)
                ends[name] = (line, x, y)
            else:
                axes.plot(spendings, values, alpha=0.4, linewidth=0.8, **look)
            # The first steps, hundreds of nats away, would flatten the rest of the curves.
            compared += [record[number] for record in chosen if spent(record) > 0.15 * end]
    compared = [value for value in compared if math.isfinite(value)]
    if compared:
        margin = 0.05 * (max(compared) - min(compared)) or 1.0
        axes.set_ylim(min(compared) - margin, max(compared) + margin)
    axes.set_xlim(left=0)
    _style(axes, f"training, {over}", title_with_unit(number))
    training = any(record["split"] == "train" for records in runs.values() for record in records)
    title = "validation (faint: training)" if training else "validation"
    axes.set_title(title, fontsize=FONT_SIZE, loc="left")
    _label(axes, ends)


def _label(axes: Axes, ends: Mapping[str, tuple[Line2D, float, float]]) -> None:
    """Write the name of each curve beside the panel, with a line in the curve's style from its last point.

    The names stand in the order of the curves' ends, and are moved apart where they would overlap.
    """
    low, high = axes.get_ylim()

    def share(name: str) -> float:
        y = ends[name][2]
        return min(1.0, max(0.0, (y - low) / (high - low))) if math.isfinite(y) else 0.0

    names = sorted(ends, key=share)
    for name, height in zip(names, _apart([share(name) for name in names], LABEL_GAP), strict=True):
        line, x, y = ends[name]
        look = {"color": line.get_color(), "linestyle": line.get_linestyle()}
        # A run without a validation has a name, but no point to lead to.
        inside = (x, min(high, max(low, y))) if math.isfinite(y) else (axes.get_xlim()[1], low)
        axes.annotate(
            name,
            inside,
            (1.06, height),
            textcoords="axes fraction",
            fontsize=FONT_SIZE,
            verticalalignment="center",
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "linewidth": 1.0,
                "shrinkA": 1,
                "shrinkB": 3,
                **look,
            },
            **PLAIN,
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move increasing heights apart, by at least ``gap``, as little as possible.

    >>> [round(height, 2) for height in _apart([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    groups: list[list[float]] = []
    """of heights that touch: their sum and number"""
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1:
            (one, few), (other, many) = groups[-2:]
            if other / many - one / few >= gap * (few + many) / 2:
                break
            groups[-2:] = [[one + other, few + many]]
    return [
        total / count + gap * (place - (count - 1) / 2)
        for total, count in groups
        for place in range(int(count))
    ]


def save_groups(groups: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Save rows of images [N, C, H, W], each beside its name, in groups below their titles, as PNG or PDF."""
    count, _, high, wide = next(iter(next(iter(groups.values())).values())).shape
    scale = max(1, 84 // wide)
    names = max(_width(name) for rows in groups.values() for name in rows)
    row, title, between = scale * (high + GAP), DPI // 4, DPI // 8
    width = names + scale * (count * (wide + GAP) + GAP)
    height = sum(title + row * len(rows) + scale * GAP for rows in groups.values()) + between * (
        len(groups) - 1
    )
    figure = Figure(figsize=(width / DPI, height / DPI))
    top = 0
    for heading, rows in groups.items():
        canvas = tile(torch.cat(list(rows.values())), count)
        tall = scale * canvas.shape[0]
        at = (names / width, 1 - (top + title + tall) / height, 1 - names / width, tall / height)
        axes = figure.add_axes(at)
        axes.imshow(np.broadcast_to(canvas, (*canvas.shape[:2], 3)), interpolation="nearest", aspect="auto")
        axes.set_title(heading, fontsize=FONT_SIZE, loc="left", **PLAIN)
        axes.axis("off")
        for place, name in enumerate(rows):
            middle = 1 - (top + title + row * (place + 0.5)) / height
            figure.text(
                (names - FONT_SIZE) / width,
                middle,
                name,
                fontsize=FONT_SIZE,
                ha="right",
                va="center",
                **PLAIN,
            )
        top += title + tall + between
    _save(figure, path)


def save_strips(panels: Mapping[str, Sequence[tuple[Tensor, str]]], path: Path) -> None:
    """Save columns of strips of images [N, C, H, W], each above its caption, as PNG or PDF."""
    rows = max(len(strips) for strips in panels.values())
    count, _, height, width = next(iter(panels.values()))[0][0].shape
    strip_width = 4.6
    strip_height = strip_width * (height + 2 * GAP) / (count * (width + GAP) + GAP)
    figure = Figure(
        figsize=(strip_width * len(panels), rows * (strip_height + 0.26) + 0.3), layout="constrained"
    )
    grid = figure.subplots(rows, len(panels), squeeze=False)
    for column, (title, strips) in enumerate(panels.items()):
        grid[0, column].set_title(title, fontsize=11, **PLAIN)
        for axes, (images, caption) in zip(grid[:, column], strips, strict=True):
            canvas = tile(images, len(images))
            axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_xlabel(caption, fontsize=7, labelpad=2, **PLAIN)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in {quoted(path.suffix)}; {did_you_mean(path.suffix, FORMATS)}")
    # 42: TrueType fonts in PDF; publishers reject matplotlib's default.
    with replacing(path) as partial, matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(partial, format=path.suffix[1:], dpi=DPI)
