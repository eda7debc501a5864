"""The likelihoods that can be chosen by name, with their options."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from flowvae.densities import (
    BernoulliLikelihood,
    CausalLikelihood,
    DiscretizedLogisticLikelihood,
    Likelihood,
    LogisticMixtureLikelihood,
)
from flowvae.models.causal import CausalOptions
from flowvae.networks import Decoder, MapCode, Upsampler, VectorCode
from flowvae.parts import WIDEST, Part, ranged


@dataclass(frozen=True)
class LikelihoodPart(Part):
    """A kind of likelihood. To add one, subclass this class and implement `likelihood`."""

    @abstractmethod
    def likelihood(self, code: VectorCode | MapCode, blocks: int, shape: tuple[int, int, int]) -> Likelihood:
        """Build p(x|z) for images of ``shape``, with a decoder that starts with ``code``."""


@dataclass(frozen=True)
class BernoulliOptions(LikelihoodPart):
    """Binary pixels, independent given the code."""

    name = "bernoulli"

    def likelihood(self, code, blocks, shape) -> Likelihood:
        return BernoulliLikelihood(Decoder(code, shape[0], blocks, shape[1:]), shape)


@dataclass(frozen=True)
class CausalLikelihoodOptions(CausalOptions, LikelihoodPart):
    """Binary pixels, autoregressive over 2x2 patches given the code (Gulrajani et al. 2017)."""

    name: ClassVar[str] = "causal"

    def likelihood(self, code, blocks, shape) -> Likelihood:
        upsampler = Upsampler(code, blocks, shape[1:])
        return CausalLikelihood(upsampler, self.network(shape, code.channels // 2), shape)


@dataclass(frozen=True)
class LogisticOptions(LikelihoodPart):
    """8-bit pixels, independent given the code, each a discretized logistic."""

    name = "logistic"

    def likelihood(self, code, blocks, shape) -> Likelihood:
        return DiscretizedLogisticLikelihood(Decoder(code, 2 * shape[0], blocks, shape[1:]), shape)


@dataclass(frozen=True)
class LogisticMixtureOptions(LikelihoodPart):
    """8-bit pixels, each a mixture of discretized logistics (Salimans et al. 2017)."""

    name = "logistic-mixture"
    components: int = ranged(5, 1, WIDEST)
    """number of mixture components"""

    def likelihood(self, code, blocks, shape) -> Likelihood:
        outputs = LogisticMixtureLikelihood.outputs(shape[0], self.components)
        decoder = Decoder(code, outputs, blocks, shape[1:])
        return LogisticMixtureLikelihood(decoder, shape, self.components)


LikelihoodOptions = BernoulliOptions | CausalLikelihoodOptions | LogisticOptions | LogisticMixtureOptions
