"""The posteriors that an autoencoder is given by name, with their options."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import nn

from flowvae.densities import FlowPosterior, GaussianPosterior, Posterior
from flowvae.errors import UserError, check_range
from flowvae.flows import Flow, InverseAutoregressive, Planar
from flowvae.models.couplings import CodeShape, Couplings, Normalization, chain
from flowvae.networks import MaskedDense
from flowvae.parts import DEEPEST, WIDEST, Part


@dataclass(frozen=True)
class GaussianOptions(Part):
    """A Gaussian posterior."""

    name = "gaussian"


@dataclass(frozen=True)
class FlowOptions(Part):
    """A Gaussian posterior that a flow transforms. To add one: subclass this, and `flow`."""

    transformations: int = 4
    """K, number of flow transformations after the Gaussian"""
    flow_of: Literal["code", "noise"] = "code"
    """what the flow transforms: the Gaussian's code, or its noise, before mean and scale"""
    context: bool = True
    """whether the flow's parameters depend on the encoder's embedding"""

    of_places: ClassVar[bool] = True
    """whether, of a code that is a map, each place has a context of its own, and not the whole code one"""

    def __post_init__(self) -> None:
        check_range("transformations", self.transformations, 1, DEEPEST)

    @abstractmethod
    def flow(self, code: CodeShape, blocks: int) -> Flow:
        """The flow of codes; ``blocks`` is how many residual blocks convolutional networks have.

        Raises:
            UserError: it does not transform such codes.
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
    """Affine transformations, whose scales and shifts networks compute: conditioners."""

    hidden: int = 128
    """number of hidden units, or channels, of the conditioners; of iaf at least D - 1"""
    flow_batch_norm: bool = False
    """batch normalization as a flow after each transformation"""
    bounded: bool = True
    """bound the log scale of the affine transformations"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("hidden", self.hidden, 1, WIDEST)


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
            raise UserError("iaf transforms vectors; for a code that is a map choose realnvp or planar")
        dimension = code.channels
        # Fewer, and some dimensions would see nothing of others.
        check_range("hidden", self.hidden, dimension - 1, WIDEST)
        orders = iter(range(self.transformations))

        def transformation() -> list[Flow]:
            reverse = next(orders) % 2 == 1
            conditioner = MaskedDense(dimension, self.hidden, context=self.context, reverse=reverse)
            return [InverseAutoregressive(conditioner, dimension, self.bounded)]

        return chain(self.transformations, transformation, dimension if self.flow_batch_norm else None)


PosteriorOptions = GaussianOptions | PlanarOptions | RealNVPOptions | InverseAutoregressiveOptions


def build_posterior(
    options: GaussianOptions | FlowOptions, code: CodeShape, features: int, full: bool, blocks: int
) -> Posterior:
    """q(z|x), from the encoder's ``features``: of each image, or of each place where the code is a map."""
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
    """Maps [B, features, H, W] to numbers [B, outputs] that are linear in their mean."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, outputs))
