"""Whether an importance-weighted estimate can be trusted, from its weights."""

import math
from collections.abc import Mapping
from typing import Any

from flowvae.evaluation.likelihood import Bounds

# docs/likelihoods.md has what they were chosen by.
FEWEST_EFFECTIVE_SAMPLES = 10
HIGHEST_PARETO_K = 0.7


def weight_diagnostics(scores: Bounds) -> dict[str, float | None]:
    """Effective sample sizes and Pareto k over images, as evaluation.json has them; None where undefined."""
    sizes, shapes = scores.effective_sample_size, scores.pareto_k
    # Weights of no tail have none that is too heavy; but where no image has one, nothing was looked at.
    too_high = (shapes > HIGHEST_PARETO_K).double().mean() + (0 if shapes.isfinite().any() else math.nan)
    values = {
        "effective_sample_size": sizes.nanquantile(0.5),
        "effective_sample_size_lowest_decile": sizes.nanquantile(0.1),
        "pareto_k": shapes.nanquantile(0.5),
        "pareto_k_highest_decile": shapes.nanquantile(0.9),
        "pareto_k_too_high": too_high,
    }
    return {name: None if value.isnan() else value.item() for name, value in values.items()}


def caveat(evaluation: Mapping[str, Any]) -> str | None:
    """One line on an evaluation whose -log p(x) cannot be trusted; None where nothing speaks against it.

    Either sign is enough: a tenth of the images have fewer than ten effective samples, or half of them have a
    Pareto k above 0.7.
    """
    size, too_high = evaluation["effective_sample_size_lowest_decile"], evaluation["pareto_k_too_high"]
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
