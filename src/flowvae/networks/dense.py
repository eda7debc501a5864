"""The dense conditioner of coupling layers."""

import torch
from torch import Tensor, nn

from flowvae.networks.normalization import Normalization, normalization_layer, normalized, zeroed


class Dense(nn.Module):
    """A perceptron with one hidden layer, ``relu(x W_1 + context + b_1) W_2 + b_2``, over the last axis.

    The last layer starts at zero. The context is a bias of the hidden layer per image, [B, hidden], shared by
    the S samples.

    Args:
        inputs, hidden, outputs: widths.
        context: take a context; ``context_features`` is then ``hidden``, otherwise 0.
        normalization: ``"weight"`` on both layers; ``"batch"`` or ``"act"`` on the hidden one.

    >>> network = Dense(3, 16, 4, context=True)
    >>> network(torch.zeros(2, 7, 3), torch.zeros(7, 16)).shape
    torch.Size([2, 7, 4])
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        context: bool = False,
        normalization: Normalization = "none",
    ) -> None:
        super().__init__()
        self.context_features = hidden if context else 0
        self.first = normalized(nn.Linear(inputs, hidden), normalization)
        self.last = zeroed(nn.Linear(hidden, outputs), normalization)
        self.norm = normalization_layer(normalization, hidden)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``x`` [S, B, inputs], context [B, hidden]; returns [S, B, outputs]."""
        hidden = self.first(x)
        if self.context_features and context is not None:
            hidden = hidden + context
        if self.norm is not None:
            hidden = self.norm(hidden.flatten(0, -2)).view_as(hidden)
        return self.last(torch.relu(hidden))
