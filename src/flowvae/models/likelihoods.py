"""The likelihoods that can be chosen by name, with their options."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from flowvae.batch import DataSpec
from flowvae.densities import (
    BernoulliLikelihood,
    CausalLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    Likelihood,
    LogisticMixtureLikelihood,
)
from flowvae.densities.logistic_mixture import outputs_of
from flowvae.models.causal import CausalOptions
from flowvae.models.couplings import CodeShape
from flowvae.models.networks import NetworksPart
from flowvae.parts import VARIANCES, WIDEST, Part, ranged


@dataclass(frozen=True)
class LikelihoodPart(Part):
    """A kind of likelihood. To add one, subclass this class and implement `likelihood`."""

    @abstractmethod
    def likelihood(
        self, networks: NetworksPart, code: CodeShape, features: int | None, data: DataSpec
    ) -> Likelihood:
        """Build p(x|z) for images of ``data``, with a decoder whose first layer has the width ``features``.

        ``features``: None if the code is a map.
        """


@dataclass(frozen=True)
class BernoulliOptions(LikelihoodPart):
    """Binary pixels, independent given the code."""

    name = "bernoulli"

    def likelihood(self, networks, code, features, data) -> Likelihood:
        shape = data.shape
        return BernoulliLikelihood(networks.decoder(code, features, shape[0], shape[1:]), shape)


@dataclass(frozen=True)
class CausalLikelihoodOptions(CausalOptions, LikelihoodPart):
    """Binary or 8-bit pixels, autoregressive over 2x2 patches given the code (Gulrajani et al. 2017)."""

    name: ClassVar[str] = "causal"

    def likelihood(self, networks, code, features, data) -> Likelihood:
        upsampler = networks.upsampler(code, features, data.shape[1:])
        return CausalLikelihood(upsampler, self.network(data, upsampler.code.channels // 2))


@dataclass(frozen=True)
class LogisticOptions(LikelihoodPart):
    """8-bit pixels, independent given the code, each a discretized logistic."""

    name = "logistic"

    def likelihood(self, networks, code, features, data) -> Likelihood:
        shape = data.shape
        return DiscretizedLogisticLikelihood(networks.decoder(code, features, 2 * shape[0], shape[1:]), shape)


@dataclass(frozen=True)
class LogisticMixtureOptions(LikelihoodPart):
    """8-bit pixels, each a mixture of discretized logistics (Salimans et al. 2017)."""

    name = "logistic-mixture"
    components: int = ranged(5, 1, WIDEST)
    """number of mixture components"""

    def likelihood(self, networks, code, features, data) -> Likelihood:
        shape = data.shape
        outputs = outputs_of(shape[0], self.components)
        decoder = networks.decoder(code, features, outputs, shape[1:])
        return LogisticMixtureLikelihood(decoder, shape, self.components)


@dataclass(frozen=True)
class GaussianPixelsOptions(LikelihoodPart):
    """Continuous pixels, independent given the code, each a Gaussian of one fixed variance."""

    name = "gaussian"
    variance: float = ranged(0.01, *VARIANCES)
    """variance of each pixel around its mean, where 1 is the distance from black to white; not learned"""

    def likelihood(self, networks, code, features, data) -> Likelihood:
        shape = data.shape
        decoder = networks.decoder(code, features, shape[0], shape[1:])
        return GaussianLikelihood(decoder, shape, self.variance)


LikelihoodOptions = (
    BernoulliOptions
    | CausalLikelihoodOptions
    | LogisticOptions
    | LogisticMixtureOptions
    | GaussianPixelsOptions
)
