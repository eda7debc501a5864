"""Scores of single images, each the same whatever other images are scored with it."""

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor

from flowvae.batch import Given
from flowvae.data.named import number_of
from flowvae.errors import UserError, check_range
from flowvae.evaluation.bayes import log_mixture, log_prob_of_classes
from flowvae.evaluation.likelihood import at, bounds
from flowvae.models import Bounded, Model, Scored
from flowvae.models.base import evaluating
from flowvae.parts import MOST
from flowvae.titles import title

MEASURES = (
    "negative_elbo",
    "nll",
    "nll_standard_error",
    "effective_sample_size",
    "pareto_k",
    "bits_per_dim",
)
"""names of the scores of an image, in their order"""


@torch.no_grad()
def score(
    model: Model,
    images: Tensor,
    num_samples: int = 500,
    noise: torch.Generator | None = None,
    report: Callable[[float], None] = lambda fraction: None,
    **given: Unpack[Given],
) -> dict[str, Tensor]:
    """Score each of the images [N, C, H, W] in [0, 1].

    The samples of an image depend on its pixels and on the seed of ``noise`` only, so its scores are the same
    alone and among others, in any order.

    Args:
        model: on the device to score it on; it is scored in ``eval()`` mode, and left as it was.
        images: of the shape and levels of the model.
        num_samples: S, posterior samples per image, or draws of a dequantized density's noise; not used if
            the likelihood is exact.
        noise: generator whose ``initial_seed()`` is the seed; None for torch's own. It is not advanced.
        report: called with the finished fraction.
        given: ``observed``, bool [N, C, H, W], if only some pixels are known, and others are not scored;
            ``labels``, int64 [N], for -log p(x|y) under a conditional model. Without them, its score is the
            -log p(x) of the mixture of all classes, each with the same weight and S // classes samples.

    Returns:
        Scores by name, float64 [N]; lower is better, and numbers that the model does not have are absent:

        - ``negative_elbo``: -ELBO in nats
        - ``nll``: -log p(x) in nats, exact or importance-weighted
        - ``nll_standard_error``: its standard error over samples, from the spread of the weights (delta
          method); needs two samples
        - ``effective_sample_size``: of the weights, 1 to S; higher is better
        - ``pareto_k``: how heavy the tail of the weights is; NaN where it cannot be told
        - ``bits_per_dim``: of images that are not binary

    Raises:
        UserError: if the model has no likelihood, does not take such images, or a score is not finite.
    """
    if not isinstance(model, Scored | Bounded):
        raise UserError("the model has no likelihood, so images have no score; choose another model")
    marginal = model.conditional and given.get("labels") is None
    checked = given.copy()
    if marginal:
        checked["labels"] = torch.zeros(len(images), dtype=torch.int64)
    model.check(images, **checked)
    images = where_known(images, given.get("observed"))
    check_range("samples", num_samples, 1, MOST)
    seed = torch.initial_seed() if noise is None else noise.initial_seed()
    device = next(model.parameters()).device
    rows: list[dict[str, Tensor]] = []
    with evaluating(model):
        for place, image in enumerate(images):
            own = at(given, slice(place, place + 1), device)
            one = image[None].to(device)
            random = torch.Generator().manual_seed(number_of(image, seed))
            if marginal:
                of_classes = log_prob_of_classes(model, one, model.classes, num_samples, noise=random, **own)
                rows.append({"nll": -log_mixture(of_classes)})
            elif isinstance(model, Scored):
                rows.append({"nll": -model.log_prob(one, **own).cpu().double()})
            else:
                rows.append(_bounded(model, one, num_samples, random, own))
            report(len(rows) / len(images))
    scores = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    for name, values in scores.items():
        if name in ("negative_elbo", "nll") and not values.isfinite().all():
            raise UserError(
                f"{title(name)} of an image is not finite; train again with a lower --learning-rate"
            )
    if model.levels not in (None, 2):
        scores["bits_per_dim"] = scores["nll"] / math.log(2) / _known(images, given.get("observed"))
    return scores


def where_known(images: Tensor, observed: Tensor | None) -> Tensor:
    """Return images with 0 where a pixel is missing, so that nothing depends on what is there."""
    return images if observed is None else images.where(observed, 0.0)


def _known(images: Tensor, observed: Tensor | None) -> Tensor:
    """Return the number of known values of each image, float64 [N]; at least 1."""
    known = torch.ones_like(images) if observed is None else observed
    return known.flatten(1).sum(1).double().clamp(min=1)


def _bounded(
    model: Bounded, image: Tensor, num_samples: int, noise: torch.Generator, given: Given
) -> dict[str, Tensor]:
    """Scores of one image [1, C, H, W], [1] each."""
    found = bounds(model, image, num_samples, noise=noise, **given)
    scores = {"negative_elbo": found.negative_elbo, "nll": found.negative_log_marginal}
    size = found.effective_sample_size
    if size is not None and num_samples > 1:
        # sd(w) / (sqrt(S) mean(w)), with mean(w^2) / mean(w)^2 = S / effective sample size.
        relative_variance = (num_samples / size - 1).clamp(min=0)
        scores["nll_standard_error"] = (relative_variance / (num_samples - 1)).sqrt()
    if size is not None:
        scores["effective_sample_size"] = size
    if found.pareto_k is not None:
        scores["pareto_k"] = found.pareto_k
    return scores
