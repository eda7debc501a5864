"""The posteriors that can be chosen by name, with their options."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from flowvae.densities import FlowPosterior, GaussianPosterior, Posterior
from flowvae.errors import UserError, check_range
from flowvae.flows import Flow, InverseAutoregressive, Planar
from flowvae.models.couplings import CodeShape, Couplings, chain
from flowvae.networks import MaskedDense
from flowvae.networks.normalization import Normalization
from flowvae.parts import DEEPEST, WIDEST, Part, ranged


@dataclass(frozen=True)
class GaussianOptions(Part):
    """A Gaussian posterior."""

    name = "gaussian"


@dataclass(frozen=True)
class FlowOptions(Part):
    """A Gaussian posterior transformed by a flow. To add one, subclass this class and implement `flow`."""

    transformations: int = ranged(4, 1, DEEPEST)
    """K, number of flow transformations after the Gaussian"""
    flow_of: Literal["code", "noise"] = "code"
    """input of the flow: the Gaussian's sample, or its standard normal noise, before mean and scale"""
    context: bool = True
    """make the flow's parameters depend on the encoder's embedding"""

    of_places: ClassVar[bool] = True
    """whether each position of a code that is a map has its own context, rather than the code as a whole"""

    @abstractmethod
    def flow(self, code: CodeShape, blocks: int) -> Flow:
        """Build the flow of codes; ``blocks`` is the number of residual blocks in convolutional networks.

        Raises:
            UserError: if it cannot transform such codes.
        """


@dataclass(frozen=True)
class PlanarOptions(FlowOptions):
    """Planar transformations after the Gaussian (Rezende & Mohamed 2015)."""

    name = "planar"
    of_places = False

    def flow(self, code: CodeShape, blocks: int) -> Flow:
        return Planar(code.dimension, self.transformations, amortized=self.context)


@dataclass(frozen=True)
class AffineOptions(FlowOptions):
    """Affine transformations whose scales and shifts are computed by networks, the conditioners."""

    hidden: int = ranged(128, 1, WIDEST)
    """number of hidden units, or channels, of the conditioners; at least D - 1 for iaf"""
    flow_batch_norm: bool = False
    """add batch normalization as a flow after each transformation"""
    bounded: bool = True
    """bound the log scale of the affine transformations by tanh"""


@dataclass(frozen=True)
class RealNVPOptions(AffineOptions):
    """Pairs of affine couplings after the Gaussian (Dinh et al. 2017)."""

    name = "realnvp"
    normalization: Normalization = "none"
    """normalization inside the conditioners: none, weight, batch or activation normalization"""

    def flow(self, code: CodeShape, blocks: int) -> Flow:
        return Couplings(
            self.transformations,
            self.hidden,
            self.normalization,
            self.flow_batch_norm,
            self.bounded,
            self.context,
            blocks,
        ).flow(code)


@dataclass(frozen=True)
class InverseAutoregressiveOptions(AffineOptions):
    """Inverse autoregressive transformations after the Gaussian (Kingma et al. 2016)."""

    name = "iaf"

    def flow(self, code: CodeShape, blocks: int) -> Flow:
        if code.sides is not None:
            raise UserError("iaf needs a code that is a vector; choose --posterior realnvp or planar")
        dimension = code.channels
        # With fewer, some dimensions could not depend on others.
        check_range("hidden", self.hidden, dimension - 1, WIDEST)

        def transformation(k: int) -> list[Flow]:
            reverse = k % 2 == 1
            conditioner = MaskedDense(dimension, self.hidden, context=self.context, reverse=reverse)
            return [InverseAutoregressive(conditioner, dimension, self.bounded)]

        return chain(self.transformations, transformation, dimension if self.flow_batch_norm else None)


PosteriorOptions = GaussianOptions | PlanarOptions | RealNVPOptions | InverseAutoregressiveOptions


def build_posterior(
    options: GaussianOptions | FlowOptions, code: CodeShape, features: int, full: bool, blocks: int
) -> Posterior:
    """Build q(z|x) from the encoder's ``features``, per image or, if the code is a map, per position."""
    linear, to_context = nn.Linear, nn.Linear
    if code.sides is not None:
        linear = partial(nn.Conv2d, kernel_size=1)
        to_context = _of_mean if isinstance(options, FlowOptions) and not options.of_places else linear
    base = GaussianPosterior(features, code.channels, linear, full=full)
    if isinstance(options, GaussianOptions):
        return base
    flow = options.flow(code, blocks)
    return FlowPosterior(base, flow, features, to_context, of_noise=options.flow_of == "noise")


def _of_mean(features: int, outputs: int) -> nn.Module:
    """Build a linear map from the spatial mean of maps [B, features, H, W] to [B, outputs]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, outputs))
