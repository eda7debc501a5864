"""The encoder and the decoder of images."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4
"""Images are never worked on at full size: half of their height and width, then a quarter."""

NECK = 16
"""Channels of the quarter-sized map that meets the dense layers, where most weights would be otherwise."""


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
    """``x + conv(hardswish(conv(hardswish(x))))`` with 3x3 convolutions; at first close to the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = kaiming(nn.Conv2d(channels, channels, 3, padding=1))
        self.second = kaiming(nn.Conv2d(channels, channels, 3, padding=1), gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.hardswish(self.first(F.hardswish(x))))


class Downsampler(nn.Module):
    """Images [N, C, H, W] to quarter-sized maps [N, channels, H/4, W/4].

    Convolutions and residual blocks on the half-sized map, a convolution of stride 2 to the quarter-sized
    one, and residual blocks there. Strides are `space_to_depth` and a convolution.

    Args:
        image_channels: C.
        channels: width of the convolutions on the quarter-sized map; half as many on the half-sized one.
        blocks: residual blocks on either.
    """

    def __init__(self, image_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        wide = channels // 2
        self.first = kaiming(nn.Conv2d(4 * image_channels, wide, 3, padding=1))
        self.on_half = nn.Sequential(*(Residual(wide) for _ in range(blocks)))
        self.down = kaiming(nn.Conv2d(4 * wide, channels, 1))
        self.on_quarter = nn.Sequential(*(Residual(channels) for _ in range(blocks)))

    def forward(self, images: Tensor) -> Tensor:
        x = F.hardswish(self.on_half(self.first(space_to_depth(images, 2))))
        return F.hardswish(self.on_quarter(self.down(space_to_depth(x, 2))))


class Encoder(nn.Module):
    """Images [N, C, H, W] to an embedding [N, features]: a `Downsampler`, and dense layers over its map.

    Both dense activations are normalized, image by image. Without it they shrink in training, to a
    fiftieth with some posteriors, where hardswish is a straight line and the layers are one.

    Args:
        shape: (C, H, W) of the images; 4 divides the sides.
        features: width of the embedding.
        channels, blocks: of the `Downsampler`.
    """

    def __init__(self, shape: tuple[int, int, int], features: int, channels: int, blocks: int) -> None:
        super().__init__()
        image_channels, height, width = shape
        self.downsampler = Downsampler(image_channels, channels, blocks)
        self.neck = kaiming(nn.Conv2d(channels, NECK, 1))
        inputs = NECK * (height // STRIDE) * (width // STRIDE)
        self.neck_norm = nn.LayerNorm(inputs)
        self.last = kaiming(nn.Linear(inputs, features))
        self.last_norm = nn.LayerNorm(features)

    def forward(self, images: Tensor) -> Tensor:
        x = self.neck(self.downsampler(images)).permute(0, 2, 3, 1).flatten(1)  # the order that is in memory
        return F.hardswish(self.last_norm(self.last(F.hardswish(self.neck_norm(x)))))


class VectorCode(nn.Module):
    """Codes [N, D] to quarter-sized maps [N, channels, H/4, W/4], by two dense layers.

    Args:
        dimension: D.
        sides: (H, W) of the images; 4 divides them.
        features: width of the first dense layer.
        channels: of the maps.
    """

    def __init__(self, dimension: int, sides: tuple[int, int], features: int, channels: int) -> None:
        super().__init__()
        height, width = sides
        self.channels = channels
        self.map = (height // STRIDE, width // STRIDE, NECK)
        self.first = kaiming(nn.Linear(dimension, features))
        self.second = kaiming(nn.Linear(features, math.prod(self.map)))
        self.neck = kaiming(nn.Conv2d(NECK, channels, 1))

    def forward(self, z: Tensor) -> Tensor:
        x = F.hardswish(self.second(F.hardswish(self.first(z))))
        return self.neck(x.unflatten(1, self.map).permute(0, 3, 1, 2))


class MapCode(nn.Module):
    """Codes [N, D] that are maps of ``shape`` (c, H/4, W/4), flat, to maps [N, channels, H/4, W/4].

    >>> MapCode((2, 7, 5), channels=16)(torch.zeros(3, 70)).shape
    torch.Size([3, 16, 7, 5])
    """

    def __init__(self, shape: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.shape, self.channels = shape, channels
        self.first = kaiming(nn.Conv2d(shape[0], channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        return self.first(z.unflatten(1, self.shape))


class Upsampler(nn.Module):
    """Codes [N, D] to half-sized maps [N, channels / 2, H/2, W/2]: the `Downsampler` in reverse.

    A convolution with `depth_to_space`, which is a transposed convolution of stride 2, doubles the sides of
    the quarter-sized map.

    Args:
        code: to quarter-sized maps, whose channels are the width of the convolutions there; half as many are
            that of those on the half-sized map.
        blocks: residual blocks on either.
    """

    def __init__(self, code: VectorCode | MapCode, blocks: int) -> None:
        super().__init__()
        channels, wide = code.channels, code.channels // 2
        self.code = code
        self.on_quarter = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.up = kaiming(nn.Conv2d(channels, 4 * wide, 1))
        self.on_half = nn.Sequential(*(Residual(wide) for _ in range(blocks)))

    def forward(self, z: Tensor) -> Tensor:
        x = F.hardswish(self.on_quarter(self.code(z)))
        return F.hardswish(self.on_half(depth_to_space(self.up(x), 2)))


class Decoder(nn.Module):
    """Codes [N, D] to maps of numbers [N, outputs, H, W], such as logits of pixels.

    An `Upsampler`, a convolution and another `depth_to_space`.

    Args:
        code, blocks: of the `Upsampler`.
        outputs: numbers a pixel.
    """

    def __init__(self, code: VectorCode | MapCode, outputs: int, blocks: int) -> None:
        super().__init__()
        self.upsampler = Upsampler(code, blocks)
        self.last = kaiming(nn.Conv2d(code.channels // 2, 4 * outputs, 3, padding=1), gain=0.5)

    def forward(self, z: Tensor) -> Tensor:
        return depth_to_space(self.last(self.upsampler(z)), 2)


Layer = TypeVar("Layer", bound=nn.Module)


def kaiming(layer: Layer, gain: float = 1.0) -> Layer:
    """Normal weights that keep the variance from layer to layer (He et al. 2015), times ``gain``; no biases.

    PyTorch's own start shrinks the signal at every layer, and no convolution here is normalized: -ELBO stood
    still for the first epoch.
    """
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    nn.init.kaiming_normal_(weight)
    nn.init.zeros_(bias)
    with torch.no_grad():
        weight.mul_(gain)
    return layer
