"""Posterior, prior and likelihood of a latent-variable model."""

from flowvae.densities.likelihood import BernoulliLikelihood, Likelihood
from flowvae.densities.log_densities import LogDensities
from flowvae.densities.posterior import FlowPosterior, GaussianPosterior, Posterior
from flowvae.densities.prior import StandardNormal

__all__ = [
    "BernoulliLikelihood",
    "FlowPosterior",
    "GaussianPosterior",
    "Likelihood",
    "LogDensities",
    "Posterior",
    "StandardNormal",
]
