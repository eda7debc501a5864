"""What the Real NVP posterior, prior and density share: the options of affine couplings, and their parts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from flowvae.errors import UserError
from flowvae.flows import (
    AffineCoupling,
    BatchNormFlow,
    Chain,
    Checkerboard,
    Flattened,
    Flow,
    RealNVP,
)
from flowvae.networks import ConvolutionalConditioner, Dense

Normalization = Literal["none", "weight", "batch", "act"]


class CodeShape(NamedTuple):
    """What a code is: D numbers, or maps at a quarter of the images' sides."""

    channels: int
    """D, or how many maps"""
    sides: tuple[int, int] | None = None
    """(H/4, W/4) of the maps"""

    @property
    def dimension(self) -> int:
        """How many numbers a code has."""
        return self.channels * math.prod(self.sides or ())


@dataclass(frozen=True)
class Couplings:
    """K transformations of two affine couplings each, with what their conditioners are."""

    transformations: int
    hidden: int
    normalization: Normalization = "none"
    flow_batch_norm: bool = False
    bounded: bool = True
    context: bool = False
    blocks: int = 1
    """residual blocks of convolutional conditioners"""
    prefix: str = ""
    """of the options' names, where errors say them"""

    def flow(self, code: CodeShape) -> Flow:
        """The flow of codes: coupled halves of a vector, or checkerboards and channels of maps."""
        if code.channels < 2 and code.sides is None:
            raise UserError("latent is 1; a coupling layer needs at least 2 dimensions")
        if code.sides is not None:
            return self._of_maps(code.channels, *code.sides)
        if self.normalization in ("none", "weight") and not self.flow_batch_norm:
            return RealNVP(
                code.channels,
                self.transformations,
                self.hidden,
                context=self.context,
                bounded=self.bounded,
                weight_norm=self.normalization == "weight",
            )

        def pair() -> list[Flow]:
            return [self._dense(code.channels, swap) for swap in (False, True)]

        return chain(self.transformations, pair, code.channels if self.flow_batch_norm else None)

    def _dense(self, dimension: int, swap: bool) -> Flow:
        transformed = AffineCoupling.transformed_features(dimension, swap)
        conditioner = Dense(
            dimension - transformed,
            self.hidden,
            2 * transformed,
            context=self.context,
            normalization=self.normalization,
        )
        return AffineCoupling(conditioner, dimension, swap, self.bounded)

    def convolutional(self, channels: int, hidden: int, swap: bool, alternate: bool = False) -> Flow:
        """A coupling of the channels of maps, by a convolutional conditioner of ``hidden`` channels."""
        moved = AffineCoupling.transformed_features(channels, swap)
        conditioner = ConvolutionalConditioner(
            channels - moved,
            hidden,
            2 * moved,
            self.blocks,
            context=self.context,
            normalization=self.normalization,
        )
        return AffineCoupling(conditioner, channels, swap, self.bounded, alternate)

    def _of_maps(self, channels: int, height: int, width: int) -> Flow:
        """The flow of a code that is a map.

        Every other transformation, the first among them, couples the fields of a checkerboard, as long as
        the sides of the map are even; those between them couple halves of the channels.
        """
        if self.hidden % 4:
            raise UserError(
                f"{self.prefix}hidden is {self.hidden}; the conditioners of maps take a multiple of 4"
            )
        turns = iter(range(self.transformations))

        def pair(channels: int) -> list[Flow]:
            return [self.convolutional(channels, self.hidden, swap) for swap in (False, True)]

        def transformation() -> list[Flow]:
            if next(turns) % 2 == 0 and height % 2 == 0 and width % 2 == 0:
                return [Checkerboard(Chain(pair(4 * channels)))]
            return pair(channels)

        normalized = channels if self.flow_batch_norm else None
        return Flattened(chain(self.transformations, transformation, normalized), (channels, height, width))


def chain(
    transformations: int, transformation: Callable[[], list[Flow]], normalized: int | None = None
) -> Chain:
    """K transformations, each followed by batch normalization of so many features, or of None."""
    flows: list[Flow] = []
    for _ in range(transformations):
        flows += transformation()
        if normalized is not None:
            flows.append(BatchNormFlow(normalized))
    return Chain(flows)
