"""Blocks of 2 x 2 pixels as channels, ordered so that halves of the channels are a checkerboard."""

import torch
from torch import Tensor

from flowvae.flows.flow import Flow
from flowvae.flows.steps import Step


def squeeze(z: Tensor) -> Tensor:
    """[S, B, C, H, W] to [S, B, 4 C, H/2, W/2] (Dinh et al. 2017, section 3.6).

    The order of the pixels of a block is upper left, lower right, upper right, lower left. So the first half
    of the channels are the black fields of a checkerboard over the original pixels, and the second half the
    white ones: a coupling of these halves is the paper's checkerboard coupling, without masked arithmetic.

    >>> squeeze(torch.arange(4.0).view(1, 1, 1, 2, 2)).flatten().tolist()
    [0.0, 3.0, 1.0, 2.0]
    """
    pixels = z.movedim(2, -1)  # channels last in memory as well, the fastest format for convolutions on a CPU
    upper, lower = pixels[:, :, 0::2], pixels[:, :, 1::2]
    fields = (upper[..., 0::2, :], lower[..., 1::2, :], upper[..., 1::2, :], lower[..., 0::2, :])
    return torch.cat(fields, dim=-1).movedim(-1, 2)


def unsqueeze(z: Tensor) -> Tensor:
    """Invert `squeeze`.

    >>> z = torch.rand(2, 3, 5, 4, 6)
    >>> torch.equal(unsqueeze(squeeze(z)), z)
    True
    """
    upper_left, lower_right, upper_right, lower_left = z.movedim(2, -1).chunk(4, dim=-1)
    upper = torch.stack([upper_left, upper_right], dim=4)  # [S, B, H/2, W/2, 2, C]
    lower = torch.stack([lower_left, lower_right], dim=4)
    return torch.stack([upper, lower], dim=3).flatten(4, 5).flatten(2, 3).movedim(-1, 2)


class Checkerboard(Flow):
    """A flow of squeezed maps as a flow of the maps themselves.

    With a coupling of channels, the halves are the fields of a checkerboard (see `squeeze`). Maps of context
    [B, context_features, H, W] are squeezed along with ``z``.

    Args:
        flow: flow of maps [S, B, 4 C, H/2, W/2]; its ``context_features`` must be a multiple of 4.
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.context_features = flow.context_features // 4

    def _context(self, context: Tensor | None) -> Tensor | None:
        return None if context is None else squeeze(context.unsqueeze(0)).squeeze(0)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_determinant = self.flow(squeeze(z), self._context(context))
        return unsqueeze(z), log_determinant

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        steps = self.flow.unroll(squeeze(z), self._context(context))
        return [(unsqueeze(value), log_determinant) for value, log_determinant in steps]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_determinant = self.flow.inverse(squeeze(z), self._context(context))
        return unsqueeze(z), log_determinant

    def steps(self, context: Tensor | None = None) -> list[Step]:
        return [step.reshaped(squeeze, unsqueeze) for step in self.flow.steps(self._context(context))]
