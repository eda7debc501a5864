"""The evaluation of a model on a set of images."""

import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import torch

from flowvae.config import MOST
from flowvae.data import Dataset, as_float
from flowvae.errors import UserError, check_range, did_you_mean, quoted
from flowvae.evaluation.likelihood import Bounds, bounds
from flowvae.evaluation.reliability import weight_diagnostics
from flowvae.evaluation.usage import active_units
from flowvae.memory import keep_freed_memory
from flowvae.models import VAE, ExactDensity, Model

IMAGES_AT_ONCE = 32  # so that a chunk has eight samples of each: every order of a causal network once
SPLITS = ("train", "valid", "test")


@torch.no_grad()
def evaluate(
    model: Model,
    dataset: Dataset,
    split: str = "test",
    num_samples: int = 500,
    num_images: int | None = None,
    seed: int = 0,
    report: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Any]:
    """Score a model, in ``eval()`` mode, on ``num_images`` images of a split drawn at random (None: all).

    Args:
        model: moved to where it shall be scored.
        dataset: its binarization decides what the numbers are comparable with.
        split: train, valid or test.
        num_samples: S, posterior samples an image, or draws of a dequantized density's noise; an exact
            density takes none.
        num_images: None for the whole split.
        seed: of the choice of images and of the samples.
        report: is told the fraction that is done.

    Returns:
        What evaluation.json holds: nats summed over an image's dimensions and averaged over images, their
        standard errors over images (None for a single one), what the importance weights say of the estimate
        (None where there are none, see `flowvae.evaluation.reliability`), and what all was measured on.

    Raises:
        UserError: there is no such split or so many images, pixels take other values than the model's, or a
            bound is not finite.
    """
    keep_freed_memory()
    if split not in SPLITS:
        raise UserError(f"split is {split}; {did_you_mean(split, SPLITS)}")
    images = getattr(dataset, split).images
    available = len(images)
    num_images = available if num_images is None else num_images
    check_levels(model, dataset)
    check_range("samples", num_samples, 1, MOST)
    if not 1 <= num_images <= available:
        raise UserError(
            f"images is {quoted(num_images)}; the {split} split of {dataset.name} has 1 to {available}"
        )
    device = next(model.parameters()).device
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:num_images]
    images = as_float(images[chosen], dataset.levels).to(device)
    model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[Bounds] = []
        for few in images.split(IMAGES_AT_ONCE):
            parts.append(bounds(model, few, num_samples))
            report(min(1.0, len(parts) * IMAGES_AT_ONCE / num_images))
        scores = Bounds(*(torch.cat(field) for field in zip(*parts, strict=True)))
        for name in ("reconstruction", "kl", "negative_log_marginal"):  # the others need not be defined
            if not getattr(scores, name).isfinite().all():
                raise UserError(
                    f"{name} of {split} images is not finite; train again with a lower --learning-rate"
                )
        units = active_units(model, images[:2000]) if isinstance(model, VAE) else 0
    nll = scores.negative_log_marginal
    return {
        "reconstruction": scores.reconstruction.mean().item(),
        "kl": scores.kl.mean().item(),
        "negative_elbo": scores.negative_elbo.mean().item(),
        "negative_elbo_standard_error": _standard_error(scores.negative_elbo),
        "nll": nll.mean().item(),
        "nll_standard_error": _standard_error(nll),
        **weight_diagnostics(scores),
        "bits_per_dim": nll.mean().item() / math.log(2) / math.prod(dataset.shape),
        "samples": None if isinstance(model, ExactDensity) else num_samples,
        "images": num_images,
        "active_units": units,
        "dataset": dataset.name,
        "binarization": dataset.binarization,
        "split": split,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": seed,
        "version": importlib.metadata.version("flowvae"),
    }


def check_levels(model: Model, dataset: Dataset) -> None:
    """Make sure that pixels take the values that the model's likelihood is one of.

    Raises:
        UserError: they take others; it says how to choose a binarization or a likelihood that fits.
    """
    if model.levels not in (None, dataset.levels):
        data, likelihood = (
            ("--binarization static or dynamic", "--likelihood logistic-mixture")
            if model.levels == 2
            else ("--binarization none and images that are not binary", "a likelihood of binary pixels")
        )
        # Other models than autoencoders have the likelihood that they have.
        remedy = f"choose {data}, or {likelihood}" if isinstance(model, VAE) else f"choose {data}"
        raise UserError(
            f"pixels of {dataset.name} take {dataset.levels} values, those of the model {model.levels}; "
            + remedy
        )


def _standard_error(values: torch.Tensor) -> float | None:
    """Of the mean of independent values; None for a single one, which does not tell how they vary."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
