"""Reliability of importance-weighted estimates, from their weights."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# docs/likelihoods.md gives the reasons for these thresholds.
FEWEST_EFFECTIVE_SAMPLES = 10
HIGHEST_PARETO_K = 0.7


def weight_diagnostics(sizes: Tensor, shapes: Tensor) -> dict[str, float]:
    """Summarize effective sample sizes and Pareto k of images, [N] each, for evaluation.json."""
    # An image without a tail does not count as too high; if no image has one, the share is undefined.
    too_high = (shapes > HIGHEST_PARETO_K).double().mean() + (0 if shapes.isfinite().any() else math.nan)
    values = {
        "effective_sample_size": sizes.nanquantile(0.5),
        "effective_sample_size_lowest_decile": sizes.nanquantile(0.1),
        "pareto_k": shapes.nanquantile(0.5),
        "pareto_k_highest_decile": shapes.nanquantile(0.9),
        "pareto_k_too_high": too_high,
    }
    return {name: value.item() for name, value in values.items() if not value.isnan()}


def caveat(evaluation: Mapping[str, Any]) -> str | None:
    """Return a one-line warning about an evaluation whose -log p(x) cannot be trusted; else None.

    Either sign suffices: a tenth of the images have fewer than ten effective samples, or more than half have
    a Pareto k above 0.7.
    """
    size = evaluation.get("effective_sample_size_lowest_decile")
    too_high = evaluation.get("pareto_k_too_high")
    signs = []
    if size is not None and size < FEWEST_EFFECTIVE_SAMPLES:
        signs.append(
            f"the effective sample size of a tenth of the images is {size:.1f} or less, "
            f"below {FEWEST_EFFECTIVE_SAMPLES}"
        )
    if too_high is not None and too_high > 0.5:
        signs.append(f"Pareto k is above {HIGHEST_PARETO_K} for {too_high:.0%} of the images")
    if not signs:
        return None
    return (
        f"-log p(x) cannot be trusted with S = {evaluation['samples']:,}, and is only an upper bound: "
        f"{', and '.join(signs)}; give more --samples"
    )
