"""The evaluation of a model by annealed importance sampling."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowvae.batch import Batch
from flowvae.data import Dataset
from flowvae.evaluation.annealed_likelihood import (
    Annealing,
    annealed_importance_sampling,
    bracket,
    check_annealed,
    simulate,
    with_start,
)
from flowvae.evaluation.in_batches import Finished, in_batches
from flowvae.evaluation.report import averages, check_levels, check_missing, choose_images, protocol
from flowvae.models import Model
from flowvae.models.base import evaluating

SIMULATED_SEED = 1
"""added to the seed of simulated images, whose random numbers are others than those of the real ones"""


@torch.no_grad()
def evaluate_annealed(
    model: Model,
    dataset: Dataset,
    annealing: Annealing,
    split: str = "test",
    num_images: int | None = None,
    seed: int = 0,
    report: Callable[[float], None] = lambda fraction: None,
    keep: Callable[[Finished], None] = lambda finished: None,
    finished: Finished | None = None,
) -> dict[str, Any]:
    """Score a model on ``num_images`` images of a split by `annealed_importance_sampling`.

    Arguments as in `flowvae.evaluate`; the images of a seed are the same. Pixels are values from 0 to 1.

    Returns:
        What evaluation-ais.json holds: ``nll``, the mean of minus the lower bound on log p(x) in nats, with
        its standard error over images; ``acceptance``, the mean share of accepted moves; the options; and
        what was measured.

    Raises:
        UserError: if the options do not fit the model or the data, or chains hardly move.
    """
    check_annealed(model, annealing)
    check_levels(model, dataset)
    check_missing(model, dataset)
    chosen = choose_images(dataset, split, num_images, seed)
    device = next(model.parameters()).device
    one = dataset.batch(split, chosen[:1]).to(device)
    annealing = with_start(model, one.images, annealing, **model.given(one))

    def measure(batch: Batch) -> dict[str, Tensor]:
        found = annealed_importance_sampling(model, batch.images, annealing, **model.given(batch))
        return {"nll": -found.log_prob, "acceptance": found.acceptance}

    with evaluating(model), torch.random.fork_rng(devices=[]):
        of_images = in_batches(
            lambda places: dataset.batch(split, places),
            chosen.split(annealing.images_at_once),
            measure,
            device,
            seed,
            report,
            keep,
            finished,
        )
    options = dataclasses.asdict(annealing)
    return {
        "estimator": "ais",
        **averages({"nll": of_images["nll"]}),
        "acceptance": of_images["acceptance"].mean().item(),
        **{name: value for name, value in options.items() if value is not None},
        **protocol(model, dataset, split, len(chosen), seed),
    }


@torch.no_grad()
def evaluate_bracket(
    model: Model,
    annealing: Annealing,
    number: int,
    seed: int = 0,
    report: Callable[[float], None] = lambda fraction: None,
    keep: Callable[[Finished], None] = lambda finished: None,
    finished: Finished | None = None,
) -> dict[str, Any]:
    """Bound log p(x) of ``number`` images that the model draws from both sides (see `bracket`).

    Returns:
        ``gap``, the mean upper minus the mean lower bound in nats, with its standard error, and
        ``simulated``, the number of images. The error of either bound on such images is at most the gap, in
        expectation.

    Raises:
        UserError: as in `evaluate_annealed`.
    """
    device = next(model.parameters()).device
    with evaluating(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + SIMULATED_SEED)
        labels = model.labels_to_sample(number, None, None, next(model.parameters()))
        codes, images = simulate(model, number, annealing, labels)
        simulated = Batch(images, torch.arange(number), labels).to(torch.device("cpu"))
        first = simulated.at(slice(0, 1)).to(device)
        annealing = with_start(model, first.images, annealing, **model.given(first))

        def measure(batch: Batch) -> dict[str, Tensor]:
            own = codes[batch.index]
            found = bracket(model, batch.images, own, annealing, **model.given(batch))
            return {"lower": found.lower, "upper": found.upper, "acceptance": found.acceptance}

        of_images = in_batches(
            lambda places: simulated.at(places),
            torch.arange(number).split(annealing.images_at_once),
            measure,
            device,
            seed + SIMULATED_SEED,
            report,
            keep,
            finished,
        )
    gaps = of_images["upper"] - of_images["lower"]
    error = {"gap_standard_error": gaps.std().item() / math.sqrt(number)} if number > 1 else {}
    return {"gap": gaps.mean().item(), **error, "simulated": number}
