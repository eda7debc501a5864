"""Flows of maps, for codes that are vectors."""

from torch import Tensor

from flowvae.flows.flow import Flow
from flowvae.flows.steps import Step


class Flattened(Flow):
    """A flow of maps as a flow of flattened maps.

    Everything except the flow, which transforms maps, sees codes as vectors. The context is passed unchanged.

    Args:
        flow: flow of maps [S, B, C, H, W].
        shape: (C, H, W); D = C H W.

    >>> import torch
    >>> from flowvae.flows import ActNorm
    >>> z, log_determinant = Flattened(ActNorm(2), (2, 3, 4))(torch.zeros(5, 7, 24))
    >>> z.shape, log_determinant.shape
    (torch.Size([5, 7, 24]), torch.Size([5, 7]))
    """

    def __init__(self, flow: Flow, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.flow, self.shape = flow, shape
        self.context_features = flow.context_features

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps, log_determinant = self.flow(z.unflatten(2, self.shape), context)
        return maps.flatten(2), log_determinant

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        return [(maps.flatten(2), own) for maps, own in self.flow.unroll(z.unflatten(2, self.shape), context)]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps, log_determinant = self.flow.inverse(z.unflatten(2, self.shape), context)
        return maps.flatten(2), log_determinant

    def steps(self, context: Tensor | None = None) -> list[Step]:
        def there(z: Tensor) -> Tensor:
            return z.unflatten(2, self.shape)

        return [step.reshaped(there, lambda z: z.flatten(2)) for step in self.flow.steps(context)]
