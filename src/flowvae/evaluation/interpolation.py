"""Paths through the latent space."""

import torch
from torch import Tensor

from flowvae.models import VAE


@torch.no_grad()
def interpolate(model: VAE, first: Tensor, second: Tensor, steps: int = 10) -> Tensor:
    """Mean images [B, steps, C, H, W] on the way from ``first`` to ``second``, each [B, C, H, W].

    The encoder's embedding moves in a straight line, and each point of it goes the way of any embedding:
    through the base's mean and the flow with its context. For a Gaussian posterior that is a straight line
    between the two means; a flow bends it to where the prior has its mass.
    """
    start, end = model.encoder(first), model.encoder(second)
    weights = torch.linspace(0, 1, steps, device=start.device)
    path = torch.lerp(start.unsqueeze(1), end.unsqueeze(1), weights.view(-1, 1))  # [B, steps, F]
    images = model.decode(model.posterior.center(path.flatten(0, 1))).mean[0]
    return images.unflatten(0, path.shape[:2])
