"""The evaluation of a model on a set of images."""

import importlib.metadata
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowvae.batch import Batch
from flowvae.data import Dataset
from flowvae.data.named import number_of
from flowvae.errors import UserError, check_range, did_you_mean, quoted
from flowvae.evaluation.likelihood import bounds
from flowvae.evaluation.reliability import weight_diagnostics
from flowvae.evaluation.usage import active_units
from flowvae.models import Bounded, Inferring, Model, Scored
from flowvae.models.base import evaluating
from flowvae.parts import MOST

IMAGES_AT_ONCE = 32  # so that a chunk has eight samples of each: every order of a causal network once
SPLITS = ("train", "valid", "test")
PARTS_OF_A_SUM = ("reconstruction", "kl")  # whose standard errors would say little


@torch.no_grad()
def evaluate(
    model: Model,
    dataset: Dataset,
    split: str = "test",
    num_samples: int = 500,
    num_images: int | None = None,
    seed: int = 0,
    report: Callable[[float], None] = lambda fraction: None,
    keep: Callable[[dict[str, Tensor]], None] = lambda scores: None,
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
        keep: is told the scores of the single images, [N] each: ``index`` in the split, ``content`` (a number
            made of the pixels), and what was measured.

    Returns:
        What evaluation.json holds: averages over images, their standard errors, and what they were measured
        on. Likelihoods are in nats, summed over an image's dimensions. A model without a likelihood has the
        numbers by which it is validated. A number that a model has not got is absent.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split}; {did_you_mean(split, SPLITS)}")
    available = len(getattr(dataset, split).images)
    num_images = available if num_images is None else num_images
    check_levels(model, dataset)
    check_range("samples", num_samples, 1, MOST)
    if not 1 <= num_images <= available:
        raise UserError(
            f"images is {quoted(num_images)}; choose --images 1 to {available}, the size of the {split} "
            f"split of {dataset.name}"
        )
    device = next(model.parameters()).device
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:num_images]
    with evaluating(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: list[dict[str, Tensor]] = []
        contents: list[int] = []
        for start in range(0, num_images, IMAGES_AT_ONCE):
            batch = dataset.batch(split, chosen[start : start + IMAGES_AT_ONCE]).to(device)
            contents += [number_of(image) for image in batch.images]
            parts.append(_numbers(model, batch, num_samples))
            report(min(1.0, len(parts) * IMAGES_AT_ONCE / num_images))
        of_images = {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}
        few = dataset.batch(split, chosen[:2000]).images.to(device)
        units = {"active_units": active_units(model, few)} if isinstance(model, Inferring) else {}
    kept = {"index": chosen, "content": torch.tensor(contents), **of_images}
    scores: dict[str, Any] = {}
    weights = [of_images.pop(name) for name in ("effective_sample_size", "pareto_k") if name in of_images]
    for name, values in of_images.items():
        if not values.isfinite().all():
            raise UserError(
                f"{name} of {split} images is not finite; train again with a lower --learning-rate"
            )
        scores[name] = values.mean().item()
        if name not in PARTS_OF_A_SUM and num_images > 1:  # one value does not vary
            scores[f"{name}_standard_error"] = values.std().item() / math.sqrt(num_images)
    keep(kept)
    if "nll" in scores:
        scores["bits_per_dim"] = scores["nll"] / math.log(2) / math.prod(dataset.shape)
    return {
        **scores,
        **(weight_diagnostics(*weights) if weights else {}),
        **({"samples": num_samples} if isinstance(model, Bounded) else {}),
        "images": num_images,
        **units,
        "dataset": dataset.name,
        "binarization": dataset.binarization,
        "split": split,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": seed,
        "version": importlib.metadata.version("flowvae"),
    }


def _numbers(model: Model, batch: Batch, num_samples: int) -> dict[str, Tensor]:
    """What is measured of each image of a batch, [B] each, by what the model can do."""
    if isinstance(model, Scored):
        return {"nll": -model.log_prob(batch.images)}
    if isinstance(model, Bounded):
        found = bounds(model, batch.images, num_samples)
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
