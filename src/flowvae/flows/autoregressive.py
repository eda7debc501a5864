"""Inverse autoregressive flow."""

import torch
from torch import Tensor, nn

from flowvae.flows.affine import BoundedAffine
from flowvae.flows.flow import Flow
from flowvae.flows.steps import AffineStep, Step


class InverseAutoregressive(Flow):
    """``z'_i = z_i * exp(s_i(z_{<i})) + t_i(z_{<i})`` for all i at once, ``log|det| = sum s_i``.

    (Kingma et al. 2016, equations 10 and 11, with a bounded log scale in place of their gate.) Sampling
    takes one pass; the inverse takes D.

    Args:
        conditioner: autoregressive network from ``z`` [S, B, D] and context [B, context_features] to
            [S, B, 2 D], raw log scales and then shifts, whose i-th outputs depend only on the inputs before i
            in *its* order. Consecutive flows should have opposite orders.
        dimension: D.
        bounded: bound the log scale (see `BoundedAffine`).
    """

    def __init__(self, conditioner: nn.Module, dimension: int, bounded: bool = True) -> None:
        super().__init__()
        self.conditioner, self.dimension = conditioner, dimension
        self.context_features = int(getattr(conditioner, "context_features", 0))
        self.affine = BoundedAffine(dimension, bounded)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raw, shift = self.conditioner(z, context).chunk(2, dim=2)
        return self.affine(z, raw, shift)

    @torch.no_grad()
    def push_score(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            raw, shift = self.conditioner(z, context).chunk(2, dim=2)
            after, log_determinant = self.affine(z, raw, shift)
        ones = torch.ones_like(log_determinant)
        score = score - torch.autograd.grad(log_determinant, z, ones, retain_graph=True)[0]
        # J' is triangular up to the order, with the scales on its diagonal. Each sweep makes one more
        # dimension exact; few are needed, as the others converge as well.
        scale = self.affine(torch.ones_like(raw), raw, torch.zeros_like(shift))[0]
        solved = score / scale
        for _ in range(z.shape[2] - 1):
            left = (score - torch.autograd.grad(after, z, solved, retain_graph=True)[0]) / scale
            solved = solved + left
            if left.abs().max() <= 1e-6 * solved.abs().max():
                break
        return after.detach(), solved

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # Each sweep makes at least one more dimension exact, in the conditioner's order; the scale of the
        # last one depends only on the others.
        before, log_determinant = torch.zeros_like(z), z.new_zeros(z.shape[:2])
        for _ in range(z.shape[2]):
            raw, shift = self.conditioner(before, context).chunk(2, dim=2)
            before, log_determinant = self.affine.inverse(z, raw, shift)
        return before, log_determinant

    def steps(self, context: Tensor | None = None) -> list[Step]:
        def parameters(z: Tensor) -> tuple[Tensor, Tensor]:
            raw, shift = self.conditioner(z, context).chunk(2, dim=2)
            return self.affine.log_scale(raw), shift

        return [AffineStep(parameters, depth=self.dimension)]
