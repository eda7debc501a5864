"""Interpolations in the latent space, and how smooth and probable they are."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.batch import labelled
from flowvae.evaluation.likelihood import log_marginal
from flowvae.models import Bounded, Coded, Scored
from flowvae.noise import Noise


@torch.no_grad()
def interpolate(
    model: Coded,
    first: Tensor,
    second: Tensor,
    steps: int = 10,
    noise: Noise = None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Interpolate from ``first`` to ``second``, [B, C, H, W] each: images [B, steps, C, H, W].

    The model's ``path`` defines the path of the codes. ``labels``, [B] each: those of the first and of the
    second images, if the model is conditional. The first half of a path is decoded with the first label, the
    other with the second.
    """
    if labels is None:
        codes = model.path(first, second, steps)
        return model.decode(codes.flatten(0, 1), noise).unflatten(0, codes.shape[:2])
    codes = model.path(first, second, steps, labels=labels)
    start, end = (each.unsqueeze(1) for each in labels)
    of_steps = torch.where(torch.arange(steps, device=start.device) < steps / 2, start, end)
    images = model.decode(codes.flatten(0, 1), noise, labels=of_steps.flatten())
    return images.unflatten(0, codes.shape[:2])


class PathQuality(NamedTuple):
    """Quality of each path, [B]."""

    largest_step: Tensor
    """largest change between neighbours (sum over pixels of the absolute difference), as a multiple of the
    path's mean change: 1 if all are equal, the number of changes if only one is not 0"""
    negative_log_marginal: Tensor
    """-log p(x) in nats, averaged over the path's images, with each pixel rounded to the nearest level"""


@torch.no_grad()
def path_quality(
    model: Bounded | Scored,
    paths: Tensor,
    levels: int | None,
    num_samples: int = 100,
    noise: Noise = None,
    labels: Tensor | None = None,
) -> PathQuality:
    """Measure the quality of paths [B, steps, C, H, W] of `interpolate`, with S samples for each -log p(x).

    ``levels`` is the number of values that a pixel takes; None if any. ``labels``, [B, steps]: those of the
    images, if the model is conditional.
    """
    changes = (paths[:, 1:] - paths[:, :-1]).abs().flatten(2).sum(2)  # [B, steps - 1]
    images = paths.flatten(0, 1)
    if levels is not None:
        images = (images * (levels - 1)).round() / (levels - 1)
    given = labelled(None if labels is None else labels.flatten())
    nll = -log_marginal(model, images, num_samples, noise=noise, **given).unflatten(0, paths.shape[:2])
    return PathQuality(changes.amax(1) / changes.mean(1), nll.mean(1))
