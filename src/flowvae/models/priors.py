"""The priors that can be chosen by name, with their options."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from flowvae.densities import (
    FlowPosterior,
    FlowPrior,
    GaussianPosterior,
    NormalPerClass,
    Posterior,
    Prior,
    StandardNormal,
    VampPrior,
)
from flowvae.errors import UserError
from flowvae.models.couplings import CodeShape, Couplings
from flowvae.parts import DEEPEST, WIDEST, Part, ranged


@dataclass(frozen=True)
class PriorPart(Part):
    """A kind of prior. To add one, subclass this class and implement `prior`."""

    @abstractmethod
    def prior(
        self,
        code: CodeShape,
        blocks: int,
        shape: tuple[int, int, int],
        encoder: nn.Module,
        posterior: Posterior,
    ) -> Prior:
        """Build p(z) for ``code``; ``shape``, encoder and posterior are for pseudo-inputs."""


@dataclass(frozen=True)
class NormalOptions(PriorPart):
    """A standard normal prior; with labels, a mean and a scale per class and dimension."""

    name = "normal"

    def prior(self, code, blocks, shape, encoder, posterior) -> Prior:
        if code.classes:
            return NormalPerClass(code.dimension, code.classes)
        return StandardNormal(code.dimension)


@dataclass(frozen=True)
class RealNVPPriorOptions(PriorPart):
    """A standard normal transformed by pairs of affine couplings (Xu et al. 2019)."""

    name = "realnvp"
    prior_transformations: int = ranged(4, 1, DEEPEST)
    """number of Real NVP transformations of the prior"""
    prior_hidden: int = ranged(128, 1, WIDEST)
    """number of hidden units, or channels, of the prior's conditioners"""
    # No batch norm: the density of a code must not depend on the rest of its batch.
    prior_normalization: Literal["none", "weight", "act"] = "none"
    """normalization inside the prior's conditioners: none, weight or activation normalization"""
    prior_bounded: bool = True
    """bound the log scale of the prior's transformations by tanh"""

    def prior(self, code, blocks, shape, encoder, posterior) -> Prior:
        couplings = Couplings(
            self.prior_transformations,
            self.prior_hidden,
            self.prior_normalization,
            bounded=self.prior_bounded,
            context=code.classes > 0,
            blocks=blocks,
            prefix="prior_",
        )
        return FlowPrior(code.dimension, couplings.flow(code), code.classes, code.sides)


@dataclass(frozen=True)
class VampOptions(PriorPart):
    """A mixture of the posteriors of learned pseudo-inputs (Tomczak & Welling 2018)."""

    name = "vamp"
    pseudo_inputs: int = ranged(100, 1, WIDEST)
    """number of pseudo-inputs"""

    def prior(self, code, blocks, shape, encoder, posterior) -> Prior:
        if code.classes:
            raise UserError("the vamp prior does not depend on labels; choose --prior normal or realnvp")
        base = posterior.base if isinstance(posterior, FlowPosterior) else posterior
        return VampPrior(encoder, cast(GaussianPosterior, base), shape, self.pseudo_inputs)


PriorOptions = NormalOptions | RealNVPPriorOptions | VampOptions
