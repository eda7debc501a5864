"""Interpolations in the latent space, and how smooth and probable they are."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.batch import Given, Labelled, labelled
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
    given: tuple[Given, Given] | None = None,
) -> Tensor:
    """Interpolate from ``first`` to ``second``, [B, C, H, W] each: images [B, steps, C, H, W].

    The model's ``path`` defines the path of the codes. ``given``: labels, or which pixels are observed, of
    the first and of the second images, if the model takes them (see `Model.given`). The first half of a path
    is decoded with the first label, the other with the second.
    """
    codes = model.path(first, second, steps) if given is None else model.path(first, second, steps, given)
    own = Labelled()
    if given is not None and "labels" in given[0] and "labels" in given[1]:
        start, end = given[0]["labels"].unsqueeze(1), given[1]["labels"].unsqueeze(1)
        of_steps = torch.where(torch.arange(steps, device=start.device) < steps / 2, start, end)
        own["labels"] = of_steps.flatten()
    return model.decode(codes.flatten(0, 1), noise, **own).unflatten(0, codes.shape[:2])


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
