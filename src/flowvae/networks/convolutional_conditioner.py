"""The convolutional conditioner of coupling layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.networks.convolutional import kaiming
from flowvae.networks.normalization import Normalization, normalization_layer, normalized, zeroed


class ConvolutionalConditioner(nn.Module):
    """A residual network of maps: a 3x3 convolution, residual blocks, a 1x1 convolution that starts at zero.

    A block is ``x + conv_1x1(relu(conv_3x3(relu(x))))`` (Dinh et al. 2017, section 4.1, with a smaller second
    convolution). The context is a bias of the first convolution per image, a map [B, hidden, H, W], shared by
    the S samples.

    Args:
        inputs, hidden, outputs: numbers of channels.
        blocks: number of residual blocks.
        context: take a context; ``context_features`` is then ``hidden``, otherwise 0.
        normalization: ``"weight"`` on all convolutions; ``"batch"`` and ``"act"`` after all but the last.

    >>> import torch
    >>> network = ConvolutionalConditioner(6, 16, 12, blocks=1, context=True)
    >>> network(torch.zeros(2, 7, 6, 4, 4), torch.zeros(7, 16, 4, 4)).shape
    torch.Size([2, 7, 12, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        blocks: int = 1,
        *,
        context: bool = False,
        normalization: Normalization = "none",
    ) -> None:
        super().__init__()
        self.context_features = hidden if context else 0
        self.first = normalized(kaiming(nn.Conv2d(inputs, hidden, 3, padding=1)), normalization)
        self.first_norm = normalization_layer(normalization, hidden, maps=True)
        self.blocks = nn.ModuleList(_Block(hidden, normalization) for _ in range(blocks))
        self.last = zeroed(nn.Conv2d(hidden, outputs, 1), normalization)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``x`` [S, B, inputs, H, W], context [B, hidden, H, W]; returns [S, B, outputs, H, W]."""
        samples_and_images = x.shape[:2]
        hidden = self.first(x.flatten(0, 1))
        if self.context_features and context is not None:
            hidden = (hidden.unflatten(0, samples_and_images) + context).flatten(0, 1)
        if self.first_norm is not None:
            hidden = self.first_norm(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.last(F.relu(hidden)).unflatten(0, samples_and_images)


class _Block(nn.Module):
    def __init__(self, channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.first = normalized(kaiming(nn.Conv2d(channels, channels, 3, padding=1)), normalization)
        self.first_norm = normalization_layer(normalization, channels, maps=True)
        self.second = normalized(kaiming(nn.Conv2d(channels, channels, 1), gain=0.3), normalization)
        self.second_norm = normalization_layer(normalization, channels, maps=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(F.relu(x))
        if self.first_norm is not None:
            hidden = self.first_norm(hidden)
        hidden = self.second(F.relu(hidden))
        return x + (hidden if self.second_norm is None else self.second_norm(hidden))
