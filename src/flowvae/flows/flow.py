"""The contract of every flow."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class NotInvertibleError(Exception):
    """The flow has no inverse in closed form."""


class Flow(nn.Module, ABC):
    """A differentiable bijection of ``z`` that knows the log-determinant of its Jacobian.

    ``forward`` is the sampling direction, ``z_k = f_k(z_{k-1}; context)``. Values have the shape
    ``[S, B, *event]``: posterior samples, images, event dimensions. The context holds ``context_features``
    numbers for each image, ``[B, context_features]``, shared by the image's S samples; a flow that takes
    none has ``context_features = 0`` and ignores it.
    """

    context_features: int = 0

    @property
    def pushes_scores(self) -> bool:
        """Whether ``push_score`` is at hand: of its own, or by an inverse."""
        return type(self).push_score is not Flow.push_score or type(self).inverse is not Flow.inverse

    @abstractmethod
    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map ``z`` [S, B, *event] to ``z'`` of the same shape; also ``log|det dz'/dz|`` [S, B]."""

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """The value after each of the flow's steps, and that step's ``log|det|``, as ``forward`` gives them.

        The last value is that of ``forward``, and the log-determinants add up to its own. A flow that is not
        made of steps is one step.
        """
        return [self(z, context)]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo ``forward``: the value before it, and ``log|det|`` of this inverse map [S, B].

        Raises:
            NotInvertibleError: where the inverse has no closed form.
        """
        raise NotInvertibleError(f"{type(self).__name__} has no inverse in closed form")

    @torch.no_grad()
    def push_score(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the flow makes of values and of the score of their density, both [S, B, *event].

        Where ``score = d log q(z)/dz`` belongs to the density before the flow, that of the values after it is
        ``J'^-1 (score - d log|det J|/dz)`` (Vaitl et al. 2024). Both results are cut off from parameters,
        ``z`` and context.

        Here it is the gradient of ``log q(f^-1(z')) + log|det|`` of the inverse map.

        Raises:
            NotInvertibleError: where the inverse has no closed form, and no other way is at hand.
        """
        after = self(z, context)[0]
        with torch.enable_grad():
            before, log_determinant = self.inverse(after.requires_grad_(), context)
            density = (before * score).sum() + log_determinant.sum()
        return after.detach(), torch.autograd.grad(density, after)[0]
