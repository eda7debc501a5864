"""Paths through the latent space, and how smooth and likely they are."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.evaluation.likelihood import log_marginal
from flowvae.models import Bounded, Coded, Scored
from flowvae.noise import Noise


@torch.no_grad()
def interpolate(model: Coded, first: Tensor, second: Tensor, steps: int = 10, noise: Noise = None) -> Tensor:
    """Images [B, steps, C, H, W] on the way from ``first`` to ``second``, each [B, C, H, W].

    The model says which way its codes go: see the ``path`` of each.
    """
    codes = model.path(first, second, steps)
    return model.decode(codes.flatten(0, 1), noise).unflatten(0, codes.shape[:2])


class PathQuality(NamedTuple):
    """Of each path, [B]."""

    largest_step: Tensor
    """Largest change between neighbours (sum over pixels of the absolute difference), as a multiple of the
    path's mean change: 1 for an even walk, the number of its steps for one single jump."""
    negative_log_marginal: Tensor
    """-log p(x) in nats, averaged over the path's images, each pixel at the level nearest to its mean."""


@torch.no_grad()
def path_quality(
    model: Bounded | Scored,
    paths: Tensor,
    levels: int | None,
    num_samples: int = 100,
    noise: Noise = None,
) -> PathQuality:
    """Judge the paths [B, steps, C, H, W] that `interpolate` gives, with S samples for each -log p(x).

    ``levels`` is how many values a pixel takes; None where it is any number.
    """
    changes = (paths[:, 1:] - paths[:, :-1]).abs().flatten(2).sum(2)  # [B, steps - 1]
    images = paths.flatten(0, 1)
    if levels is not None:
        images = (images * (levels - 1)).round() / (levels - 1)
    nll = -log_marginal(model, images, num_samples, noise=noise).unflatten(0, paths.shape[:2])
    return PathQuality(changes.amax(1) / changes.mean(1), nll.mean(1))
