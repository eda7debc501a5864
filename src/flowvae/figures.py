"""Pictures: grids, reconstructions, interpolations, training curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

GAP = 2  # pixels between images
GAP_SHADE = 0.85


def tile(images: Tensor, columns: int) -> np.ndarray:
    """Images [N, C, H, W] in [0, 1], row by row on one canvas [height, width, C], uint8.

    Images of one channel are shown as ink on paper: 1 is black.

    >>> import torch
    >>> tile(torch.zeros(5, 1, 8, 8), columns=3).shape
    (22, 32, 1)
    """
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), GAP_SHADE)
    for index, image in enumerate(images.detach().cpu().permute(0, 2, 3, 1).numpy()):
        top, left = (index // columns) * (height + GAP) + GAP, (index % columns) * (width + GAP) + GAP
        canvas[top : top + height, left : left + width] = 1 - image if channels == 1 else image
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8)


def save_grid(images: Tensor, path: Path, columns: int = 10, scale: int = 3) -> None:
    """Write a grid of images as PNG, each of their pixels ``scale`` pixels wide."""
    canvas = tile(images, columns).repeat(scale, 0).repeat(scale, 1)
    Image.fromarray(canvas.squeeze(2) if canvas.shape[2] == 1 else canvas).save(path)


def save_panels(panels: Mapping[str, Tensor], path: Path, columns: int) -> None:
    """Grids of images side by side, each under its title, as PNG or PDF by the file's name."""
    canvases = {title: tile(images, columns) for title, images in panels.items()}
    height, width = next(iter(canvases.values())).shape[:2]
    figure = Figure(figsize=(len(panels) * width / 70, height / 70 + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, canvas) in zip(
        np.ravel(figure.subplots(1, len(panels))), canvases.items(), strict=True
    ):
        axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.axis("off")
    figure.savefig(path, dpi=200)


def save_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """-ELBO over minutes of training, for the metrics of several runs: training faint, validation marked."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lowest = math.inf
    for index, (name, records) in enumerate(runs.items()):
        for split, style in (
            ("train", {"alpha": 0.45, "linewidth": 1}),
            ("valid", {"marker": "o", "markersize": 3}),
        ):
            chosen = [record for record in records if record["split"] == split]
            minutes = [record["seconds"] / 60 for record in chosen]
            values = [record["negative_elbo"] for record in chosen]
            label = name if split == "valid" else None
            axes.plot(minutes, values, color=f"C{index % 10}", label=label, **style)
            lowest = min([lowest, *values])
    if math.isfinite(lowest):
        # The first steps are hundreds of nats away; the end is what one compares.
        axes.set_ylim(lowest * 0.98, lowest * 1.25)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("-ELBO, nats (lower is better)")
    axes.grid(alpha=0.3)
    axes.legend(title="validation (training: faint)", fontsize=8, title_fontsize=8)
    figure.savefig(path, dpi=160)


def save_strips(panels: Mapping[str, Sequence[tuple[Tensor, str]]], path: Path) -> None:
    """Columns of strips of images [N, C, H, W], each over its caption, as PNG or PDF by the file's name."""
    rows = max(len(strips) for strips in panels.values())
    count, _, height, width = next(iter(panels.values()))[0][0].shape
    strip_width = 4.6
    strip_height = strip_width * (height + 2 * GAP) / (count * (width + GAP) + GAP)
    figure = Figure(
        figsize=(strip_width * len(panels), rows * (strip_height + 0.26) + 0.3), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, len(panels), squeeze=False)
    for column, (title, strips) in enumerate(panels.items()):
        grid[0, column].set_title(title, fontsize=11)
        for axes, (images, caption) in zip(grid[:, column], strips, strict=True):
            canvas = tile(images, len(images))
            axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_xlabel(caption, fontsize=7, labelpad=2)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=200)
