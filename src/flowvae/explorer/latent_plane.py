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
        """Where the codes [N, D] come to lie when they are dropped onto the plane, [N, 2]."""
        axes = torch.stack([self.across, self.up], 1)  # [D, 2]
        return torch.linalg.lstsq(axes, (codes - self.origin).T).solution.T


def principal_plane(codes: Tensor) -> Plane:
    """Through the mean of codes [N, D], along the two directions in which they vary most; of unit deviation.

    In a latent space of one dimension, up leads nowhere.
    """
    mean = codes.mean(0)
    _, deviations, directions = torch.linalg.svd(codes - mean, full_matrices=False)
    axes = directions * (deviations / max(1, len(codes) - 1) ** 0.5).unsqueeze(1)
    up = axes[1] if len(axes) > 1 else torch.zeros_like(mean)
    return Plane(mean, axes[0], up)


def plane_through(first: Tensor, second: Tensor, third: Tensor) -> Plane:
    """The plane in which ``first`` [D] lies at (0, 0), ``second`` at (1, 0) and ``third`` at (0, 1)."""
    return Plane(first, second - first, third - first)


def grid(low: float, high: float, steps: int) -> tuple[Tensor, Tensor]:
    """x and y of steps x steps points, row by row from the top left, each [steps^2]: y falls as rows go down.

    >>> x, y = grid(0, 1, 2)
    >>> x.tolist(), y.tolist()
    ([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0])
    """
    values = torch.linspace(low, high, steps)
    return values.repeat(steps), values.flip(0).repeat_interleave(steps)


@torch.no_grad()
def decode(model: Coded, codes: Tensor, noise: Noise = None) -> Tensor:
    """Images [N, C, H, W] for codes [N, D], a few at a time."""
    return torch.cat([model.decode(few, noise) for few in codes.split(256)])


def nearest_labels(points: Tensor, labelled: Tensor, labels: Tensor) -> Tensor:
    """For each of the points [N, D], the label [N] of the nearest of the labelled ones [M, D]."""
    return labels[torch.cdist(points, labelled).argmin(1)]
