"""The base class of flows."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowvae.flows.steps import Step


class NotInvertibleError(Exception):
    """The flow has no inverse in closed form."""


class Flow(nn.Module, ABC):
    """A differentiable bijection of ``z``, with the log-determinant of its Jacobian.

    ``forward`` is the sampling direction, ``z_k = f_k(z_{k-1}; context)``. Values have the shape
    ``[S, B, *event]``: posterior samples, images, event dimensions. The context, [B, context_features], is
    shared by the S samples of an image; a flow with ``context_features = 0`` ignores it.
    """

    context_features: int = 0

    @property
    def pushes_scores(self) -> bool:
        """Whether ``push_score`` works: the flow has its own, or an inverse."""
        return type(self).push_score is not Flow.push_score or type(self).inverse is not Flow.inverse

    @abstractmethod
    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map ``z`` [S, B, *event] to ``z'`` of the same shape; also ``log|det dz'/dz|`` [S, B]."""

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return the value after each of the flow's steps, with that step's ``log|det|``.

        The last value is that of ``forward``, and the log-determinants sum to its own. By default, the flow
        is one step.
        """
        return [self(z, context)]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Invert ``forward``; also return ``log|det|`` of the inverse map [S, B].

        Raises:
            NotInvertibleError: if the inverse has no closed form.
        """
        raise NotInvertibleError(f"{type(self).__name__} has no inverse in closed form")

    def steps(self, context: Tensor | None = None) -> list[Step]:
        """Return ``forward`` as a sequence of affine maps, by which codes are compressed.

        Raises:
            NotInvertibleError: if it is not such a sequence.
        """
        raise NotInvertibleError(f"{type(self).__name__} is not a sequence of affine maps")

    @torch.no_grad()
    def push_score(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Transform values and the score of their density, both [S, B, *event].

        If ``score = d log q(z)/dz`` is the score before the flow, the score after it is
        ``J'^-1 (score - d log|det J|/dz)`` (Vaitl et al. 2024). Both results are detached.

        This implementation differentiates ``log q(f^-1(z')) + log|det|`` of the inverse map.

        Raises:
            NotInvertibleError: if the inverse has no closed form.
        """
        after = self(z, context)[0]
        with torch.enable_grad():
            before, log_determinant = self.inverse(after.requires_grad_(), context)
            density = (before * score).sum() + log_determinant.sum()
        return after.detach(), torch.autograd.grad(density, after)[0]
