"""The evaluation of a model on a set of images."""

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowvae.batch import Batch
from flowvae.data import Dataset
from flowvae.data.splits import check_split
from flowvae.errors import UserError, check_range, quoted
from flowvae.evaluation.bayes import log_mixture, log_posterior, log_prob_of_classes
from flowvae.evaluation.calibration import calibration_error
from flowvae.evaluation.in_batches import Finished, in_batches
from flowvae.evaluation.likelihood import bounds
from flowvae.evaluation.reliability import weight_diagnostics
from flowvae.evaluation.usage import active_units
from flowvae.models import Bounded, Classifying, Inferring, Model, Scored
from flowvae.models.base import evaluating
from flowvae.parts import MOST
from flowvae.shares import measured

IMAGES_AT_ONCE = 32  # so that a chunk has eight samples of each: every order of a causal network once
WITHOUT_ERROR = ("reconstruction", "kl", "observed")  # parts of a sum, and no score
WEIGHTS = ("effective_sample_size", "pareto_k")
CONFIDENCE = "class_confidence"  # of which the calibration error is the summary


@torch.no_grad()
def evaluate(
    model: Model,
    dataset: Dataset,
    split: str = "test",
    num_samples: int = 500,
    num_images: int | None = None,
    seed: int = 0,
    report: Callable[[float], None] = lambda fraction: None,
    keep: Callable[[Finished], None] = lambda finished: None,
    finished: Finished | None = None,
) -> dict[str, Any]:
    """Score a model on ``num_images`` images of a split drawn at random (None: all).

    Args:
        model: on the device to score it on; it is scored in ``eval()`` mode, and left as it was.
        dataset: its binarization decides what the numbers are comparable with.
        split: train, valid or test.
        num_samples: S, posterior samples an image, or draws of a dequantized density's noise; a model that
            gives no bound takes none.
        num_images: None for the whole split.
        seed: of the choice of images and of the samples.
        report: is told the fraction that is done.
        keep: called after each batch of images with the scores of all images so far.
        finished: what ``keep`` was called with last by an evaluation of the same model, seed and number of
            samples. That evaluation is continued, to the same numbers, bit for bit, or started again if the
            images have changed.

    Returns:
        What evaluation.json holds: averages over images, their standard errors, and what they were measured
        on. Likelihoods are in nats, summed over an image's dimensions. A model that classifies has, if all
        labels are known, its error as a fraction, the negative log-likelihood of the class in nats, and the
        calibration error. A model without a likelihood has the numbers by which it is validated. Where pixels
        are missing, ``observed`` is the share of those that are known, and only these are scored. A number
        that a model has not got is absent.

        Of a conditional model, likelihoods are those of images given their labels, and ``conditional`` is
        True. ``marginal_nll`` is -log p(x) of the mixture of all classes, and the model classifies by Bayes'
        rule, both with uniform p(y) and S // classes samples per class.

    Raises:
        UserError: if the options do not fit the data or ``finished``, or a score is not finite.
    """
    check_levels(model, dataset)
    check_missing(model, dataset)
    check_range("samples", num_samples, 1, MOST)
    chosen = choose_images(dataset, split, num_images, seed)
    num_images = len(chosen)
    device = next(model.parameters()).device
    classifies = _classifies(model, dataset, split, chosen)

    def measure(batch: Batch) -> dict[str, Tensor]:
        numbers = _numbers(model, batch, num_samples)
        if batch.observed is not None:
            numbers["observed"] = batch.observed.flatten(1).double().mean(1)
        if model.conditional and isinstance(model, Scored | Bounded):
            of_classes = log_prob_of_classes(
                model, batch.images, model.classes, num_samples, **model.given(batch)
            )
            numbers["marginal_nll"] = -log_mixture(of_classes)
            if classifies:
                numbers |= _class_numbers(log_posterior(of_classes), batch)
        elif classifies and isinstance(model, Classifying):
            numbers |= _class_numbers(model.classify(batch.images), batch)
        _check_finite(numbers, split)
        return numbers

    with evaluating(model), torch.random.fork_rng(devices=[]):
        of_images = in_batches(
            lambda places: dataset.batch(split, places),
            chosen.split(IMAGES_AT_ONCE),
            lambda batch: measured(batch, measure),
            device,
            seed,
            report,
            keep,
            finished,
        )
        few = dataset.batch(split, chosen[:2000]).to(device)
        units: dict[str, int] = {}
        if isinstance(model, Inferring):
            units["active_units"] = active_units(model, few.images, **model.given(few))
    hidden = ("index", "content", CONFIDENCE, *WEIGHTS)
    scores: dict[str, Any] = averages({name: of_images[name] for name in of_images if name not in hidden})
    if CONFIDENCE in of_images:
        scores["calibration_error"] = calibration_error(of_images[CONFIDENCE], of_images["class_error"] == 0)
    weights = [of_images[name] for name in WEIGHTS if name in of_images]
    if "nll" in scores and model.levels is not None:  # otherwise a density, of which there are no bits
        scores["bits_per_dim"] = (
            scores["nll"] / math.log(2) / (math.prod(dataset.shape) * scores.get("observed", 1.0))
        )
    return {
        **scores,
        **(weight_diagnostics(*weights) if weights else {}),
        **({"samples": num_samples} if isinstance(model, Bounded) else {}),
        **units,
        **protocol(model, dataset, split, num_images, seed),
    }


def choose_images(dataset: Dataset, split: str, num_images: int | None, seed: int) -> Tensor:
    """Draw positions of ``num_images`` images of a split at random, int64; None for all, in random order.

    Raises:
        UserError: if there is no such split, or it has fewer images.
    """
    check_split(split, dataset)
    available = len(getattr(dataset, split).images)
    num_images = available if num_images is None else num_images
    if not 1 <= num_images <= available:
        raise UserError(
            f"images is {quoted(num_images)}; choose --images 1 to {available}, the size of the {split} "
            f"split of {dataset.name}"
        )
    return torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:num_images]


def protocol(model: Model, dataset: Dataset, split: str, num_images: int, seed: int) -> dict[str, Any]:
    """Return what scores were measured on, for the file of an evaluation."""
    return {
        **({"conditional": True} if model.conditional else {}),
        "images": num_images,
        "dataset": dataset.name,
        "binarization": dataset.binarization,
        "split": split,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": seed,
        "version": importlib.metadata.version("flowvae"),
    }


def averages(of_images: Mapping[str, Tensor]) -> dict[str, float]:
    """Average scores over images, with the standard error of each that is one and varies."""
    scores: dict[str, float] = {}
    for name, values in of_images.items():
        scores[name] = values.mean().item()
        if name not in WITHOUT_ERROR and len(values) > 1:  # one value does not vary
            scores[f"{name}_standard_error"] = values.std().item() / math.sqrt(len(values))
    return scores


def _check_finite(measured: Mapping[str, Tensor], split: str) -> None:
    for name, values in measured.items():
        if name not in WEIGHTS and not values.isfinite().all():
            raise UserError(
                f"{name} of {split} images is not finite; train again with a lower --learning-rate"
            )


def _numbers(model: Model, batch: Batch, num_samples: int) -> dict[str, Tensor]:
    """What is measured of each image of a batch, [B] each, by what the model can do."""
    if isinstance(model, Scored):
        return {"nll": -model.log_prob(batch.images, **model.given(batch))}
    if isinstance(model, Bounded):
        found = bounds(model, batch.images, num_samples, **model.given(batch))
        numbers = {
            "reconstruction": found.reconstruction,
            "kl": found.kl,
            "negative_elbo": found.negative_elbo,
            "nll": found.negative_log_marginal,
            "effective_sample_size": found.effective_sample_size,
            "pareto_k": found.pareto_k,
        }
        return {name: value for name, value in numbers.items() if value is not None}
    return model.validate(batch)


def _class_numbers(log_class: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Score the predicted classes of a batch with labels, [B] each, from log q(y|x) [B, classes]."""
    assert batch.labels is not None
    labels = batch.labels.to(log_class.device)
    confidence, predicted = log_class.max(1)
    return {
        "class_error": (predicted != labels).double(),
        "class_nll": -log_class.gather(1, labels[:, None])[:, 0],
        CONFIDENCE: confidence.exp(),
    }


def _classifies(model: Model, dataset: Dataset, split: str, chosen: Tensor) -> bool:
    """Whether the model classifies, and all of the chosen images of a split have labels.

    Raises:
        UserError: if a label is of a class that the training images do not have, or the model is conditional
            and labels are missing.
    """
    labels: Tensor | None = getattr(dataset, split).labels
    unknown = labels is None or bool((labels[chosen] < 0).any())
    if unknown and model.conditional:
        raise UserError(
            f"images of the {split} split of {dataset.name} have no labels, which the model is conditional "
            "on; for -log p(x) of each, use: flowvae score"
        )
    if not (isinstance(model, Classifying) or model.conditional) or labels is None or unknown:
        return False
    known = set(range(model.classes))
    if dataset.train.labels is not None:
        known &= set(dataset.train.labels.tolist())
    for label in labels[chosen].unique().tolist():
        if label not in known:
            raise UserError(
                f"the {split} split of {dataset.name} has images of class {label}, and the training images "
                "have none; remove them, or train on data with this class"
            )
    return True


def check_labels(model: Model, dataset: Dataset) -> None:
    """Make sure that a conditional model can learn from the data: all labels known, images of every class.

    Raises:
        UserError: if it cannot.
    """
    if not model.conditional:
        return
    for split in ("train", "valid", "test"):
        labels: Tensor | None = getattr(dataset, split).labels
        if split != "test" and (labels is None or bool((labels < 0).any())):
            raise UserError(
                f"images of the {split} split of {dataset.name} have no labels, which --labels needs; remove "
                "these images, or omit --labels"
            )
        outside = -1 if labels is None or not len(labels) else int(labels.max())
        if outside >= model.classes:
            raise UserError(
                f"the {split} split of {dataset.name} has images of class {outside}, and the training images "
                "have none; remove them"
            )
    assert dataset.train.labels is not None
    counts = dataset.train.labels.bincount(minlength=model.classes)
    if not counts.all():
        raise UserError(
            f"no training image has the class {int(counts.argmin())} of {model.classes}; number the classes "
            "from 0, without gaps"
        )


def check_levels(model: Model, dataset: Dataset) -> None:
    """Make sure that pixels take the values that the model's likelihood is one of.

    Raises:
        UserError: they take others; it says how to choose a binarization or a likelihood that fits.
    """
    if model.levels not in (None, dataset.levels):
        data, pixels = (
            ("--binarization static or dynamic", "8-bit")
            if model.levels == 2
            else ("--binarization none and images that are not binary", "binary")
        )
        raise UserError(
            f"pixels of {dataset.name} take {dataset.levels} values, those of the model {model.levels}; "
            f"choose {data}, or a model of {pixels} pixels"
        )


def check_missing(model: Model, dataset: Dataset) -> None:
    """Make sure that the model accepts missing pixels if images have some.

    Raises:
        UserError: if it does not.
    """
    splits = (dataset.train, dataset.valid, dataset.test)
    if not model.accepts_missing and any(split.observed is not None for split in splits):
        raise UserError(
            f"pixels of {dataset.name} are missing, which this model does not support; choose an autoencoder "
            "such as vae"
        )
