"""Posterior, prior and likelihood of a latent-variable model."""

from flowvae.densities.discretized_logistic import DiscretizedLogistic, DiscretizedLogisticLikelihood
from flowvae.densities.likelihood import BernoulliLikelihood, Likelihood
from flowvae.densities.log_densities import LogDensities
from flowvae.densities.logistic_mixture import LogisticMixture, LogisticMixtureLikelihood
from flowvae.densities.posterior import FlowPosterior, GaussianPosterior, Posterior
from flowvae.densities.prior import StandardNormal

__all__ = [
    "BernoulliLikelihood",
    "DiscretizedLogistic",
    "DiscretizedLogisticLikelihood",
    "FlowPosterior",
    "GaussianPosterior",
    "Likelihood",
    "LogDensities",
    "LogisticMixture",
    "LogisticMixtureLikelihood",
    "Posterior",
    "StandardNormal",
]
