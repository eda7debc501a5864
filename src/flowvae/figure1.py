"""The published figure: latent interpolations of several runs between the same images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowvae import figures, runs
from flowvae.commands.picturing import test_images
from flowvae.evaluation import interpolate, path_quality
from flowvae.models import Inferring
from flowvae.runs.capability import needs


def reproduce_figure(
    compared: Sequence[Path],
    out: Path,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    num_samples: int = 500,
) -> list[Path]:
    """Draw latent interpolations of several runs between the same test images, each with its quality.

    Returns:
        The paths of the PNG, the PDF and the JSON with the numbers, named after ``out``.
    """
    panels: dict[str, list[tuple[Tensor, str]]] = {}
    numbers: dict[str, list[dict[str, float]]] = {}
    noise = torch.Generator().manual_seed(seed)
    for run in map(runs.Run, compared):
        model, ends = needs(Inferring, run), test_images(run, 2 * pairs, seed, None).images
        paths = interpolate(model, ends[:pairs], ends[pairs:], steps, noise)
        quality = path_quality(model, paths, run.spec.levels, num_samples, noise)
        panels[run.name], numbers[run.name] = [], []
        for path, largest, nll in zip(paths, *(values.tolist() for values in quality), strict=True):
            panels[run.name].append((path, f"largest step {largest:.2f}   -log p(x) {nll:.1f}"))
            numbers[run.name].append({"largest_step": largest, "mean_nll": nll})
    files = [out.with_suffix(suffix) for suffix in (".png", ".pdf", ".json")]
    for file in files[:2]:
        figures.save_strips(panels, file)
    runs.write_json(files[2], numbers)
    return files
