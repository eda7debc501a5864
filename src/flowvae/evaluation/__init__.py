"""Evaluation of trained models: likelihood, latent space, interpolation, nearest images."""

from flowvae.evaluation.annealed_likelihood import Annealing, annealed_importance_sampling
from flowvae.evaluation.annealed_report import evaluate_annealed, evaluate_bracket
from flowvae.evaluation.classification import classify
from flowvae.evaluation.in_batches import Finished
from flowvae.evaluation.inference_gaps import InferenceGaps, inference_gaps
from flowvae.evaluation.interpolation import PathQuality, interpolate, path_quality
from flowvae.evaluation.likelihood import Bounds, bounds, log_marginal
from flowvae.evaluation.nearest import Nearest, nearest
from flowvae.evaluation.report import check_labels, check_levels, check_missing, evaluate
from flowvae.evaluation.scoring import MEASURES, score
from flowvae.evaluation.usage import active_units

__all__ = [
    "MEASURES",
    "Annealing",
    "Bounds",
    "Finished",
    "InferenceGaps",
    "Nearest",
    "PathQuality",
    "active_units",
    "annealed_importance_sampling",
    "bounds",
    "check_labels",
    "check_levels",
    "check_missing",
    "classify",
    "evaluate",
    "evaluate_annealed",
    "evaluate_bracket",
    "inference_gaps",
    "interpolate",
    "log_marginal",
    "nearest",
    "path_quality",
    "score",
]
