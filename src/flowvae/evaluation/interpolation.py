"""Paths through the latent space, and how smooth and likely they are."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.evaluation.likelihood import log_marginal
from flowvae.models import VAE, RealNVPDensity


@torch.no_grad()
def interpolate(model: VAE | RealNVPDensity, first: Tensor, second: Tensor, steps: int = 10) -> Tensor:
    """Mean images [B, steps, C, H, W] on the way from ``first`` to ``second``, each [B, C, H, W].

    An autoencoder's embedding moves in a straight line, and each point of it goes the way of any embedding:
    through the base's mean and the flow with its context. For a Gaussian posterior that is a straight line
    between the two means; a flow bends it to where the prior has its mass.

    The noise that Real NVP turns images into moves on the arc ``cos(a) z_1 + sin(a) z_2`` (Dinh et al. 2017,
    section 4.2), where it stays as long as normal noise is; a straight line would pass the middle too close
    to zero.
    """
    if isinstance(model, RealNVPDensity):
        angles = torch.linspace(0, 0.5 * math.pi, steps, device=first.device).view(-1, 1)
        start, end = model.encode(first).unsqueeze(1), model.encode(second).unsqueeze(1)
        path = angles.cos() * start + angles.sin() * end  # [B, steps, D]
        return model.decode(path.flatten(0, 1)).unflatten(0, path.shape[:2])
    start, end = model.encoder(first), model.encoder(second)
    weights = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
    weights = weights.view(-1, *[1] * (start.ndim - 1))
    path = torch.lerp(start.unsqueeze(1), end.unsqueeze(1), weights)  # [B, steps, F, ...]
    images = model.decode(model.posterior.center(path.flatten(0, 1))).mean[0]
    return images.unflatten(0, path.shape[:2])


class PathQuality(NamedTuple):
    """Of each path, [B]."""

    largest_step: Tensor
    """Largest change between neighbours (sum over pixels of the absolute difference), as a multiple of the
    path's mean change: 1 for an even walk, the number of its steps for one single jump."""
    negative_log_marginal: Tensor
    """-log p(x) in nats, averaged over the path's images, each pixel at the level nearest to its mean."""


@torch.no_grad()
def path_quality(model: VAE, paths: Tensor, num_samples: int = 100) -> PathQuality:
    """Judge the paths [B, steps, C, H, W] that `interpolate` gives, with S samples for each -log p(x)."""
    changes = (paths[:, 1:] - paths[:, :-1]).abs().flatten(2).sum(2)  # [B, steps - 1]
    images = paths.flatten(0, 1)
    if model.levels is not None:
        images = (images * (model.levels - 1)).round() / (model.levels - 1)
    nll = -log_marginal(model, images, num_samples).unflatten(0, paths.shape[:2])
    return PathQuality(changes.amax(1) / changes.mean(1), nll.mean(1))
