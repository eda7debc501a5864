"""Affine couplings as the Real NVP posterior, prior and density share them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from flowvae.errors import UserError
from flowvae.flows import AffineCoupling, BatchNormFlow, Chain, Checkerboard, Flattened, Flow, RealNVP
from flowvae.networks import ConvolutionalConditioner, Dense
from flowvae.networks.normalization import Normalization


class CodeShape(NamedTuple):
    """The shape of a code: D numbers, or maps at a quarter of the images' height and width."""

    channels: int
    """D, or the number of maps"""
    sides: tuple[int, int] | None = None
    """(H/4, W/4) of the maps"""
    classes: int = 0
    """number of classes that the prior and the decoder are conditional on; 0 if they are not"""

    @property
    def dimension(self) -> int:
        """Number of values in a code."""
        return self.channels * math.prod(self.sides or ())


@dataclass(frozen=True)
class Couplings:
    """K transformations of two affine couplings each, and their conditioners."""

    transformations: int
    hidden: int
    normalization: Normalization = "none"
    flow_batch_norm: bool = False
    bounded: bool = True
    context: bool = False
    blocks: int = 1
    """number of residual blocks in convolutional conditioners"""
    prefix: str = ""
    """prefix of the options' names in error messages"""

    def flow(self, code: CodeShape) -> Flow:
        """Build the flow of codes: it couples halves of a vector, or checkerboards and channels of maps."""
        if code.channels < 2:
            raise UserError("latent is 1; it must be at least 2 for coupling layers")
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

        def pair(_: int) -> list[Flow]:
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
        """Build a coupling of the channels of maps, with a conditioner of ``hidden`` channels."""
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
        """Build the flow of a code that is a map.

        The first, third, ... transformations couple the fields of a checkerboard if height and width of the
        map are even; the others couple halves of the channels.
        """
        if self.hidden % 4:
            raise UserError(
                f"{self.prefix}hidden is {self.hidden}; it must be a multiple of 4 if the code is a map"
            )

        def pair(channels: int) -> list[Flow]:
            return [self.convolutional(channels, self.hidden, swap) for swap in (False, True)]

        def transformation(k: int) -> list[Flow]:
            if k % 2 == 0 and height % 2 == 0 and width % 2 == 0:
                return [Checkerboard(Chain(pair(4 * channels)))]
            return pair(channels)

        normalized = channels if self.flow_batch_norm else None
        return Flattened(chain(self.transformations, transformation, normalized), (channels, height, width))


def chain(
    transformations: int, transformation: Callable[[int], list[Flow]], normalized: int | None = None
) -> Chain:
    """Chain K transformations, each followed by batch normalization of ``normalized`` features, if any."""
    flows: list[Flow] = []
    for k in range(transformations):
        flows += transformation(k)
        if normalized is not None:
            flows.append(BatchNormFlow(normalized))
    return Chain(flows)
