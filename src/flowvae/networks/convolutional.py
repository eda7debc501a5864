"""Encoders and decoders of images."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.networks.dropout import Dropout

STRIDE = 4
"""factor between the sides of images and of the smallest maps; convolutions are at half and quarter size"""

NECK = 16
"""channels of the quarter-sized map next to the dense layers, few since these have most of the weights"""


def fewer(sides: tuple[int, int], factor: int) -> tuple[int, int]:
    """Return the height and width of maps that are smaller by ``factor``, rounded up.

    >>> fewer((30, 45), 4)
    (8, 12)
    """
    height, width = sides
    return -(-height // factor), -(-width // factor)


def padded(images: Tensor, factor: int) -> Tensor:
    """Append zeros below and to the right of images [..., H, W], up to multiples of ``factor``.

    >>> padded(torch.rand(2, 3, 30, 45), 4).shape
    torch.Size([2, 3, 32, 48])
    """
    height, width = images.shape[-2:]
    if height % factor == width % factor == 0:
        return images
    return F.pad(images, (0, -width % factor, 0, -height % factor))


def cropped(maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """Return the top left part of maps [..., H, W] that has these sides; it undoes `padded`."""
    height, width = sides
    return maps[..., :height, :width]


def space_to_depth(images: Tensor, factor: int) -> Tensor:
    """Turn blocks of pixels into channels: [N, C, H, W] to [N, factor^2 C, H/factor, W/factor].

    Like `torch.nn.functional.pixel_unshuffle`, but with another order of channels, which are last in memory:
    the convolution that follows needs no copy.
    """
    number, channels, height, width = images.shape
    blocks = images.permute(0, 2, 3, 1).reshape(
        number, height // factor, factor, width // factor, factor, channels
    )
    return blocks.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


def depth_to_space(maps: Tensor, factor: int) -> Tensor:
    """Invert `space_to_depth`.

    >>> images = torch.rand(2, 3, 8, 12)
    >>> torch.equal(depth_to_space(space_to_depth(images, 4), 4), images)
    True
    """
    number, channels, height, width = maps.shape
    remaining = channels // factor**2
    blocks = maps.permute(0, 2, 3, 1).reshape(number, height, width, factor, factor, remaining)
    pixels = blocks.transpose(2, 3).reshape(number, height * factor, width * factor, remaining)
    return pixels.permute(0, 3, 1, 2)


class Residual(nn.Module):
    """``x + conv(hardswish(conv(hardswish(x))))`` with 3x3 convolutions; starts close to the identity.

    With `Dropout`, at first of nothing, before the second convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = kaiming(nn.Conv2d(channels, channels, 3, padding=1))
        self.second = kaiming(nn.Conv2d(channels, channels, 3, padding=1), gain=0.3)
        self.dropout = Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.dropout(F.hardswish(self.first(F.hardswish(x)))))


class Downsampler(nn.Module):
    """Maps images [N, C, H, W] of any size to quarter-sized maps [N, channels, H/4, W/4], rounded up.

    A convolution and residual blocks on the half-sized map, a convolution to the quarter-sized one, and
    residual blocks there. `space_to_depth` halves the sides, of images that are padded with zeros to
    multiples of 4.

    Args:
        image_channels: C.
        channels: number of channels of the quarter-sized map; half as many on the half-sized one.
        blocks: number of residual blocks per size.
    """

    def __init__(self, image_channels: int, channels: int, blocks: int) -> None:
        super().__init__()
        wide = channels // 2
        self.first = kaiming(nn.Conv2d(4 * image_channels, wide, 3, padding=1))
        self.on_half = nn.Sequential(*(Residual(wide) for _ in range(blocks)))
        self.down = kaiming(nn.Conv2d(4 * wide, channels, 1))
        self.on_quarter = nn.Sequential(*(Residual(channels) for _ in range(blocks)))

    def forward(self, images: Tensor) -> Tensor:
        x = F.hardswish(self.on_half(self.first(space_to_depth(padded(images, STRIDE), 2))))
        return F.hardswish(self.on_quarter(self.down(space_to_depth(x, 2))))


class Encoder(nn.Module):
    """Maps images [N, C, H, W] to an embedding [N, features]: a `Downsampler` and two dense layers.

    The activations of both dense layers are normalized per image. Without this they shrink in training, with
    some posteriors to a fiftieth, where hardswish is linear and the layers act as one.

    Args:
        shape: (C, H, W) of the images.
        features: width of the embedding.
        channels, blocks: as in `Downsampler`.
    """

    def __init__(self, shape: tuple[int, int, int], features: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.downsampler = Downsampler(shape[0], channels, blocks)
        self.neck = kaiming(nn.Conv2d(channels, NECK, 1))
        inputs = NECK * math.prod(fewer(shape[1:], STRIDE))
        self.neck_norm = nn.LayerNorm(inputs)
        self.last = kaiming(nn.Linear(inputs, features))
        self.last_norm = nn.LayerNorm(features)
        self.dropout = Dropout()

    def forward(self, images: Tensor) -> Tensor:
        x = self.neck(self.downsampler(images)).permute(0, 2, 3, 1).flatten(1)  # the order in memory
        return F.hardswish(self.last_norm(self.last(self.dropout(F.hardswish(self.neck_norm(x))))))


class VectorCode(nn.Module):
    """Maps codes [N, D] to quarter-sized maps [N, channels, H/4, W/4], rounded up, by two dense layers.

    Args:
        dimension: D.
        sides: (H, W) of the images.
        features: width of the first dense layer.
        channels: number of channels of the maps.
        classes: K; if any, codes [N, D + K] end with the one-hot label, which has no effect at first.
    """

    def __init__(
        self, dimension: int, sides: tuple[int, int], features: int, channels: int, classes: int = 0
    ) -> None:
        super().__init__()
        self.dimension, self.channels = dimension, channels
        self.of_label = nn.Parameter(torch.zeros(features, classes)) if classes else None
        self.map = (*fewer(sides, STRIDE), NECK)
        self.first = kaiming(nn.Linear(dimension, features))
        self.second = kaiming(nn.Linear(features, math.prod(self.map)))
        self.neck = kaiming(nn.Conv2d(NECK, channels, 1))
        self.dropout = Dropout()

    def forward(self, z: Tensor) -> Tensor:
        x = self.first(z[:, : self.dimension])
        if self.of_label is not None:
            x = x + F.linear(z[:, self.dimension :], self.of_label)
        x = F.hardswish(self.second(self.dropout(F.hardswish(x))))
        return self.neck(x.unflatten(1, self.map).permute(0, 3, 1, 2))


class MapCode(nn.Module):
    """Maps codes [N, D], flattened maps of ``shape`` (c, H/4, W/4), to maps [N, channels, H/4, W/4].

    ``classes``: as in `VectorCode`.

    >>> MapCode((2, 7, 5), channels=16)(torch.zeros(3, 70)).shape
    torch.Size([3, 16, 7, 5])
    """

    def __init__(self, shape: tuple[int, int, int], channels: int, classes: int = 0) -> None:
        super().__init__()
        self.shape, self.channels = shape, channels
        self.of_label = nn.Parameter(torch.zeros(channels, classes)) if classes else None
        self.first = kaiming(nn.Conv2d(shape[0], channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        dimension = math.prod(self.shape)
        x = self.first(z[:, :dimension].unflatten(1, self.shape))
        if self.of_label is None:
            return x
        return x + F.linear(z[:, dimension:], self.of_label)[:, :, None, None]


class Upsampler(nn.Module):
    """Maps codes [N, D] to half-sized maps [N, channels / 2, H/2, W/2], rounded up.

    The `Downsampler` in reverse. A convolution with `depth_to_space`, which is a transposed convolution of
    stride 2, doubles the sides of the quarter-sized map; what this has beyond the image is cut off.

    Args:
        code: layer from codes to quarter-sized maps; half-sized maps have half as many channels.
        blocks: number of residual blocks per size.
        sides: (H, W) of the images.
    """

    def __init__(self, code: VectorCode | MapCode, blocks: int, sides: tuple[int, int]) -> None:
        super().__init__()
        channels, wide = code.channels, code.channels // 2
        self.code, self.sides = code, fewer(sides, 2)
        self.on_quarter = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.up = kaiming(nn.Conv2d(channels, 4 * wide, 1))
        self.on_half = nn.Sequential(*(Residual(wide) for _ in range(blocks)))

    def forward(self, z: Tensor) -> Tensor:
        x = F.hardswish(self.on_quarter(self.code(z)))
        return F.hardswish(self.on_half(cropped(depth_to_space(self.up(x), 2), self.sides)))


class Decoder(nn.Module):
    """Maps codes [N, D] to [N, outputs, H, W], such as logits of pixels.

    An `Upsampler`, a convolution and another `depth_to_space`.

    Args:
        code, blocks, sides: as in `Upsampler`.
        outputs: number of outputs per pixel.
    """

    def __init__(self, code: VectorCode | MapCode, outputs: int, blocks: int, sides: tuple[int, int]) -> None:
        super().__init__()
        self.sides = sides
        self.upsampler = Upsampler(code, blocks, sides)
        self.last = kaiming(nn.Conv2d(code.channels // 2, 4 * outputs, 3, padding=1), gain=0.5)

    def forward(self, z: Tensor) -> Tensor:
        return cropped(depth_to_space(self.last(self.upsampler(z)), 2), self.sides)


Layer = TypeVar("Layer", bound=nn.Module)


def kaiming(layer: Layer, gain: float = 1.0) -> Layer:
    """Initialize weights to keep the variance across layers (He et al. 2015), times ``gain``; biases to 0.

    PyTorch's own initialization shrinks the signal at every layer: as no convolution here is normalized,
    -ELBO did not improve in the first epoch.
    """
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    nn.init.kaiming_normal_(weight)
    nn.init.zeros_(bias)
    with torch.no_grad():
        weight.mul_(gain)
    return layer
