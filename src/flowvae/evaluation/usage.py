"""Use of the latent space."""

from typing import Unpack

import torch
from torch import Tensor

from flowvae.batch import Given
from flowvae.evaluation.likelihood import CHUNK, pieces
from flowvae.models import Inferring

THRESHOLD = 0.01


@torch.no_grad()
def active_units(model: Inferring, images: Tensor, num_samples: int = 32, **given: Unpack[Given]) -> int:
    """Count dimensions whose posterior mean varies over images: ``Cov_x(E_q[z_i]) > 0.01``.

    (Burda et al. 2016, appendix C.) The mean of a flow posterior is estimated from samples; the covariance of
    the means of two independent halves of them has no bias from their noise.
    """
    halves: list[Tensor] = []
    for few, rest in pieces(images, max(1, CHUNK // (2 * num_samples)), given):
        z = model.encode(few, 2 * num_samples, **rest)
        halves.append(z.unflatten(0, (2, num_samples)).mean(1))
    first, second = torch.cat(halves, dim=1).cpu().double()
    covariance = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
    return int((covariance > THRESHOLD).sum())
