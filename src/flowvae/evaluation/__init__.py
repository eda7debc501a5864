"""What a trained model is worth: likelihood, use of the latent space, tables."""

from flowvae.evaluation.interpolation import PathQuality, interpolate, path_quality
from flowvae.evaluation.likelihood import Bounds, bounds, log_marginal
from flowvae.evaluation.report import check_levels, evaluate
from flowvae.evaluation.usage import active_units

__all__ = [
    "Bounds",
    "PathQuality",
    "active_units",
    "bounds",
    "check_levels",
    "evaluate",
    "interpolate",
    "log_marginal",
    "path_quality",
]
