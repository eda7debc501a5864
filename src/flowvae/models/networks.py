"""The networks of images that can be chosen by name, with their options."""

import re
from abc import abstractmethod
from dataclasses import dataclass

from torch import nn

from flowvae.errors import UserError, quoted
from flowvae.models.adversarial import DenseDiscriminator, Discriminator
from flowvae.models.couplings import CodeShape
from flowvae.networks import (
    Decoder,
    DenseDecoder,
    DenseEncoder,
    Downsampler,
    Encoder,
    MapCode,
    Upsampler,
    VectorCode,
)
from flowvae.parts import DEEPEST, WIDEST, Part, ranged


@dataclass(frozen=True)
class NetworksPart(Part):
    """A kind of networks between images and codes. To add one, subclass this class."""

    @abstractmethod
    def encoder(self, shape: tuple[int, int, int], features: int | None) -> nn.Module:
        """Build a network from images (C, H, W) to an embedding [N, features]; None for one that is a map."""

    @abstractmethod
    def decoder(
        self, code: CodeShape, features: int | None, outputs: int, sides: tuple[int, int]
    ) -> nn.Module:
        """Build a network from codes to [N, outputs, H, W], whose first layer has the width ``features``."""

    @abstractmethod
    def discriminator(
        self, shape: tuple[int, int, int], features: int, scale: float = 1.0, classes: int = 0
    ) -> nn.Module:
        """Build a discriminator (see `flowvae.models.adversarial.Discriminator`)."""

    def upsampler(self, code: CodeShape, features: int | None, sides: tuple[int, int]) -> Upsampler:
        """Build a network from codes to half-sized maps.

        Raises:
            UserError: if the networks have no maps.
        """
        raise UserError(
            f"{self.name} networks have no maps, which this likelihood needs; choose --networks "
            "convolutional, or another --likelihood"
        )


@dataclass(frozen=True)
class ConvolutionalOptions(NetworksPart):
    """Convolutions at half and quarter resolution."""

    name = "convolutional"
    channels: int = ranged(64, 2, WIDEST)
    """number of channels of the convolutions at quarter resolution; at half resolution, half as many"""
    blocks: int = ranged(1, 0, DEEPEST)
    """number of residual blocks per resolution, and in convolutional conditioners"""

    def encoder(self, shape, features) -> nn.Module:
        if features is None:
            return Downsampler(shape[0], self.channels, self.blocks)
        return Encoder(shape, features, self.channels, self.blocks)

    def decoder(self, code, features, outputs, sides) -> Decoder:
        return Decoder(self._first(code, features, sides), outputs, self.blocks, sides)

    def discriminator(self, shape, features, scale=1.0, classes=0) -> Discriminator:
        return Discriminator(shape, features, self.channels, self.blocks, scale, classes)

    def upsampler(self, code, features, sides) -> Upsampler:
        return Upsampler(self._first(code, features, sides), self.blocks, sides)

    def _first(self, code: CodeShape, features: int | None, sides: tuple[int, int]) -> VectorCode | MapCode:
        if code.sides is not None:
            return MapCode((code.channels, *code.sides), self.channels, code.classes)
        assert features is not None
        return VectorCode(code.channels, sides, features, self.channels, code.classes)


@dataclass(frozen=True)
class DenseOptions(NetworksPart):
    """Fully connected layers between pixels and codes."""

    name = "dense"
    widths: str = "256-256-1024"
    """widths of the decoder's hidden layers after the first, which has --features; encoders and
    discriminators have them in reverse order"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.hidden

    @property
    def hidden(self) -> list[int]:
        """The widths as numbers.

        Raises:
            UserError: if they are none.
        """
        found = self.widths.split("-") if self.widths else []
        if len(found) > DEEPEST or not all(re.fullmatch("[0-9]{1,5}", each) for each in found):
            raise UserError(f"widths is {quoted(self.widths)}; give numbers such as 256-256-1024")
        if not all(1 <= int(each) <= WIDEST for each in found):
            raise UserError(f"widths is {quoted(self.widths)}; each must be 1 to {WIDEST:,}")
        return [int(each) for each in found]

    def encoder(self, shape, features) -> DenseEncoder:
        return DenseEncoder(shape, [*reversed(self.hidden), self._width(features)])

    def decoder(self, code, features, outputs, sides) -> DenseDecoder:
        widths = [self._width(features), *self.hidden]
        return DenseDecoder(code.channels, widths, outputs, sides, code.classes)

    def discriminator(self, shape, features, scale=1.0, classes=0) -> DenseDiscriminator:
        return DenseDiscriminator(shape, [*reversed(self.hidden), features], scale, classes)

    def _width(self, features: int | None) -> int:
        if features is None:
            raise UserError("dense networks have codes that are vectors; choose --code vector")
        return features


NetworkOptions = ConvolutionalOptions | DenseOptions
