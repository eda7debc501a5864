"""How much of the latent space is used."""

import torch
from torch import Tensor

from flowvae.evaluation.likelihood import CHUNK
from flowvae.models import Inferring

THRESHOLD = 0.01


@torch.no_grad()
def active_units(model: Inferring, images: Tensor, num_samples: int = 32) -> int:
    """Dimensions whose posterior mean varies over images: ``Cov_x(E_q[z_i]) > 0.01`` (Burda et al. 2016, C).

    The mean under a flow posterior is known from samples alone; the covariance between the means of two
    independent halves of them is an estimate without their noise.
    """
    halves: list[Tensor] = []
    for few in images.split(max(1, CHUNK // (2 * num_samples))):
        z = model.encode(few, 2 * num_samples)
        halves.append(z.unflatten(0, (2, num_samples)).mean(1))
    first, second = torch.cat(halves, dim=1).cpu().double()
    covariance = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
    return int((covariance > THRESHOLD).sum())
