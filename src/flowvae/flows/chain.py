"""Several flows, one after the other."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from flowvae.flows.checkpointing import perhaps_checkpointed
from flowvae.flows.flow import Flow
from flowvae.flows.steps import Step


class Chain(Flow):
    """The composition ``f_K o ... o f_1``; log-determinants add up.

    The context is split among the flows, each of which takes its ``context_features``, in order. So one
    matrix product computes the context of all of them, once per image.

    >>> import torch
    >>> from flowvae.flows import Planar
    >>> chain = Chain([Planar(dimension=2, transformations=1), Planar(dimension=2, transformations=3)])
    >>> z, log_determinant = chain(torch.zeros(5, 7, 2))
    >>> z.shape, log_determinant.shape
    (torch.Size([5, 7, 2]), torch.Size([5, 7]))
    """

    checkpointed = False
    """whether only the values between the flows are stored: see `checkpoint_transformations`"""

    def __init__(self, flows: Iterable[Flow]) -> None:
        super().__init__()
        flows = list(flows)
        self.flows = nn.ModuleList(flows)
        self.sizes = [flow.context_features for flow in flows]
        self.context_features = sum(self.sizes)

    def _with_contexts(self, context: Tensor | None) -> list[tuple[Flow, Tensor | None]]:
        flows = cast("Iterable[Flow]", self.flows)
        if context is None or not self.context_features:
            return [(flow, None) for flow in flows]
        return list(zip(flows, context.split(self.sizes, dim=1), strict=True))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[:2])
        for flow, own in self._with_contexts(context):
            z, log_determinant = perhaps_checkpointed(self.checkpointed, flow, z, own)
            total = total + log_determinant
        return z, total

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        steps: list[tuple[Tensor, Tensor]] = []
        for flow, own in self._with_contexts(context):
            steps += flow.unroll(steps[-1][0] if steps else z, own)
        return steps

    def push_score(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        for flow, own in self._with_contexts(context):
            z, score = flow.push_score(z, score, own)
        return z, score

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[:2])
        for flow, own in reversed(self._with_contexts(context)):
            z, log_determinant = perhaps_checkpointed(self.checkpointed, flow.inverse, z, own)
            total = total + log_determinant
        return z, total

    def steps(self, context: Tensor | None = None) -> list[Step]:
        return [step for flow, own in self._with_contexts(context) for step in flow.steps(own)]
