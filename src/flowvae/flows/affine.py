"""The element-wise affine map of coupling layers and autoregressive flows."""

import torch
from torch import Tensor, nn

from flowvae.flows.precision import at_least_float32


class BoundedAffine(nn.Module):
    """``z' = z * exp(s) + t`` with ``s = bound * tanh(raw)``, and ``log|det| = sum s``.

    ``bound`` is learned, one number per feature (the axis after S and B), and keeps a single input from
    making ``exp(s)`` explode (Dinh et al. 2017, section 4.1). With ``bounded=False``, ``s = raw``.
    """

    def __init__(self, features: int, bounded: bool = True) -> None:
        super().__init__()
        self.bound = nn.Parameter(torch.ones(features)) if bounded else None

    def log_scale(self, raw: Tensor) -> Tensor:
        """Compute s from the raw log scale [S, B, features, ...]."""
        raw = at_least_float32(raw)
        if self.bound is None:
            return raw
        return torch.tanh(raw) * self.bound.view(-1, *[1] * (raw.ndim - 3))

    def forward(self, z: Tensor, raw: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """``z``, ``raw`` and ``shift`` are [S, B, features, ...]; returns ``z'`` and [S, B]."""
        log_scale = self.log_scale(raw)
        return torch.addcmul(at_least_float32(shift), z, log_scale.exp()), log_scale.flatten(2).sum(2)

    def inverse(self, z: Tensor, raw: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self.log_scale(raw)
        return (z - shift) * (-log_scale).exp(), -log_scale.flatten(2).sum(2)
