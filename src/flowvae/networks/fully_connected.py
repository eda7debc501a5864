"""Fully connected encoders and decoders of images."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowvae.networks.convolutional import kaiming
from flowvae.networks.dropout import Dropout


def fully_connected(widths: Sequence[int]) -> nn.Sequential:
    """Build linear layers from each of the ``widths`` to the next, with SiLU and `Dropout` after each.

    SiLU is smooth, as Hamiltonian moves of a decoder's codes need.

    >>> fully_connected([784, 64, 10])(torch.zeros(3, 784)).shape
    torch.Size([3, 10])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [kaiming(nn.Linear(inputs, outputs)), nn.Sequential(nn.SiLU(), Dropout())]
    return nn.Sequential(*layers)


class DenseEncoder(nn.Module):
    """Maps images [N, C, H, W] to an embedding [N, F] by fully connected layers.

    Args:
        shape: (C, H, W) of the images.
        widths: of all layers; the last is F.
    """

    def __init__(self, shape: tuple[int, int, int], widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = fully_connected([math.prod(shape), *widths])

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(2 * images.flatten(1) - 1)


class DenseDecoder(nn.Module):
    """Maps codes [N, D] to [N, outputs, H, W], such as logits of pixels, by fully connected layers.

    Args:
        dimension: D.
        widths: of the hidden layers.
        outputs: number of outputs per pixel.
        sides: (H, W) of the images.
        classes: K; if any, codes [N, D + K] end with the one-hot label, which has no effect at first.
    """

    def __init__(
        self, dimension: int, widths: Sequence[int], outputs: int, sides: tuple[int, int], classes: int = 0
    ) -> None:
        super().__init__()
        self.layers = fully_connected([dimension + classes, *widths])
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            first.weight[:, dimension:] = 0
        pixels = math.prod(sides)
        self.last = kaiming(nn.Linear(widths[-1], outputs * pixels), gain=0.5)
        self.shape = (outputs, *sides)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.layers(z)).unflatten(1, self.shape)
