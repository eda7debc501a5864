"""The encoder and the decoder of images."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4
"""Images are worked on at a quarter of their height and width, where convolutions are cheap on a CPU."""


def space_to_depth(images: Tensor, factor: int) -> Tensor:
    """Blocks of ``factor x factor`` pixels as channels: [N, C, H, W] to [N, factor^2 C, H/factor, W/factor].

    As `torch.nn.functional.pixel_unshuffle`, with the channels in another order and last in memory, which
    spares the convolution that follows a copy.
    """
    number, channels, height, width = images.shape
    blocks = images.permute(0, 2, 3, 1).reshape(
        number, height // factor, factor, width // factor, factor, channels
    )
    return blocks.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


def depth_to_space(maps: Tensor, factor: int) -> Tensor:
    """Undo `space_to_depth`.

    >>> images = torch.rand(2, 3, 8, 12)
    >>> torch.equal(depth_to_space(space_to_depth(images, 4), 4), images)
    True
    """
    number, channels, height, width = maps.shape
    blocks = maps.permute(0, 2, 3, 1).reshape(number, height, width, factor, factor, channels // factor**2)
    return blocks.transpose(2, 3).reshape(number, height * factor, width * factor, -1).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """``x + conv(relu(conv(relu(x))))`` with 3x3 convolutions; close to the identity at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _kaiming(nn.Conv2d(channels, channels, 3, padding=1))
        self.second = _kaiming(nn.Conv2d(channels, channels, 3, padding=1), gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x)), inplace=True))


class Encoder(nn.Module):
    """Images [N, C, H, W] to an embedding [N, features].

    Blocks of 4x4 pixels become channels, and a convolution and residual blocks work on the quarter-sized map
    (a convolution of stride 4 whose kernels overlap); a dense layer makes the embedding of it.

    Args:
        shape: (C, H, W) of the images; 4 divides the sides.
        features: width of the embedding.
        channels: width of the convolutions.
        blocks: residual blocks.
    """

    def __init__(self, shape: tuple[int, int, int], features: int, channels: int, blocks: int) -> None:
        super().__init__()
        image_channels, height, width = shape
        self.first = _kaiming(nn.Conv2d(image_channels * STRIDE**2, channels, 3, padding=1))
        self.blocks = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.last = _kaiming(nn.Linear(channels * (height // STRIDE) * (width // STRIDE), features))

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.blocks(self.first(space_to_depth(images, STRIDE))))
        return F.relu(self.last(x.permute(0, 2, 3, 1).flatten(1)))  # the order that is in memory


class Decoder(nn.Module):
    """Codes [N, D] to maps of numbers [N, C, H, W], such as logits of pixels: the encoder in reverse.

    Two dense layers make a quarter-sized map, residual blocks and a convolution work on it, and its channels
    become blocks of 4x4 pixels (the same as a transposed convolution of stride 4).

    Args:
        dimension: D.
        shape: (C, H, W) of the output; 4 divides the sides.
        features: width of the first dense layer.
        channels: width of the convolutions.
        blocks: residual blocks.
    """

    def __init__(
        self, dimension: int, shape: tuple[int, int, int], features: int, channels: int, blocks: int
    ) -> None:
        super().__init__()
        image_channels, height, width = shape
        self.map = (height // STRIDE, width // STRIDE, channels)
        self.first = _kaiming(nn.Linear(dimension, features))
        self.second = _kaiming(nn.Linear(features, math.prod(self.map)))
        self.blocks = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.last = _kaiming(nn.Conv2d(channels, image_channels * STRIDE**2, 3, padding=1), gain=0.5)

    def forward(self, z: Tensor) -> Tensor:
        x = self.second(F.relu(self.first(z))).unflatten(1, self.map).permute(0, 3, 1, 2)
        return depth_to_space(self.last(F.relu(self.blocks(x))), STRIDE)


Layer = TypeVar("Layer", bound=nn.Module)


def _kaiming(layer: Layer, gain: float = 1.0) -> Layer:
    """Normal weights that keep the variance through a ReLU (He et al. 2015), times ``gain``; zero biases.

    PyTorch's own start shrinks the signal at every layer, and nothing here normalizes it: -ELBO stood still
    for the first epoch.
    """
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    nn.init.kaiming_normal_(weight)
    nn.init.zeros_(bias)
    with torch.no_grad():
        weight.mul_(gain)
    return layer
