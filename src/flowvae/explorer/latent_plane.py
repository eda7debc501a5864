"""Flat slices of a latent space."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.models import Coded
from flowvae.noise import Noise


class Plane(NamedTuple):
    """The points ``origin + x across + y up``, each [D]."""

    origin: Tensor
    across: Tensor
    up: Tensor

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """Points [N, D] for coordinates [N]."""
        return self.origin + x.unsqueeze(1) * self.across + y.unsqueeze(1) * self.up

    def coordinates(self, codes: Tensor) -> Tensor:
        """Coordinates [N, 2] of the orthogonal projections of codes [N, D] onto the plane."""
        axes = torch.stack([self.across, self.up], 1)  # [D, 2]
        return torch.linalg.lstsq(axes, (codes - self.origin).T).solution.T


def principal_plane(codes: Tensor) -> Plane:
    """Plane through the mean of codes [N, D], along their two principal components, in standard deviations.

    In a latent space of one dimension, ``up`` is zero.
    """
    mean = codes.mean(0)
    _, deviations, directions = torch.linalg.svd(codes - mean, full_matrices=False)
    axes = directions * (deviations / max(1, len(codes) - 1) ** 0.5).unsqueeze(1)
    up = axes[1] if len(axes) > 1 else torch.zeros_like(mean)
    return Plane(mean, axes[0], up)


def plane_through(first: Tensor, second: Tensor, third: Tensor) -> Plane:
    """Plane in which ``first`` [D] lies at (0, 0), ``second`` at (1, 0) and ``third`` at (0, 1)."""
    return Plane(first, second - first, third - first)


def grid(low: float, high: float, steps: int) -> tuple[Tensor, Tensor]:
    """Coordinates x and y of steps x steps points, [steps^2] each: rows from the top, where y is largest.

    >>> x, y = grid(0, 1, 2)
    >>> x.tolist(), y.tolist()
    ([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0])
    """
    values = torch.linspace(low, high, steps)
    return values.repeat(steps), values.flip(0).repeat_interleave(steps)


@torch.no_grad()
def decode(model: Coded, codes: Tensor, noise: Noise = None) -> Tensor:
    """Decode codes [N, D] to images [N, C, H, W], 256 at a time."""
    return torch.cat([model.decode(few, noise) for few in codes.split(256)])


def nearest_labels(points: Tensor, labelled: Tensor, labels: Tensor) -> Tensor:
    """Labels [N] of the points [N, D]: each that of the nearest of the labelled points [M, D]."""
    return labels[torch.cdist(points, labelled).argmin(1)]
