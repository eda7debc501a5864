"""Posterior, prior and likelihood of a latent-variable model."""

from flowvae.densities.causal import CausalLikelihood
from flowvae.densities.causal_mixture import CausalMixture
from flowvae.densities.causal_symbols import CausalSymbols
from flowvae.densities.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticLikelihood
from flowvae.densities.likelihood import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    PartlyObserved,
    gaussian_images,
    log_prob,
)
from flowvae.densities.log_densities import LogDensities
from flowvae.densities.logistic_mixture import LogisticMixture, LogisticMixtureLikelihood
from flowvae.densities.posterior import (
    FlowPosterior,
    GaussianPosterior,
    Posterior,
    Reparametrization,
    take_path_derivative,
)
from flowvae.densities.prior import FlowPrior, NormalMixture, NormalPerClass, Prior, StandardNormal, VampPrior
from flowvae.densities.tabulated import Choose, Tabulated

__all__ = [
    "BernoulliLikelihood",
    "CausalLikelihood",
    "CausalMixture",
    "CausalSymbols",
    "Choose",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "FlowPosterior",
    "FlowPrior",
    "GaussianLikelihood",
    "GaussianPosterior",
    "Likelihood",
    "LogDensities",
    "LogisticMixture",
    "LogisticMixtureLikelihood",
    "NormalMixture",
    "NormalPerClass",
    "PartlyObserved",
    "Posterior",
    "Prior",
    "Reparametrization",
    "StandardNormal",
    "Tabulated",
    "VampPrior",
    "gaussian_images",
    "log_prob",
    "take_path_derivative",
]
