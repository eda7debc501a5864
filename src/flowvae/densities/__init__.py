"""Posterior, prior and likelihood of a latent-variable model."""

from flowvae.densities.causal import CausalLikelihood
from flowvae.densities.likelihood import BernoulliLikelihood, Likelihood
from flowvae.densities.log_densities import LogDensities
from flowvae.densities.posterior import FlowPosterior, GaussianPosterior, Posterior
from flowvae.densities.prior import FlowPrior, Prior, StandardNormal, VampPrior

__all__ = [
    "BernoulliLikelihood",
    "CausalLikelihood",
    "FlowPosterior",
    "FlowPrior",
    "GaussianPosterior",
    "Likelihood",
    "LogDensities",
    "Posterior",
    "Prior",
    "StandardNormal",
    "VampPrior",
]
