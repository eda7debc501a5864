"""The table of models that were trained with missing pixels, and of what fills these in."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae import runs
from flowvae.commands.progress import reporting
from flowvae.data import Dataset, load_dataset
from flowvae.errors import UserError, check_range
from flowvae.evaluation import log_marginal
from flowvae.evaluation.imputed import missing_scores
from flowvae.models import Bounded, Completing, Model
from flowvae.networks import Decoder, Encoder, VectorCode
from flowvae.parts import MOST
from flowvae.reproduce import Budget, reproduce_table
from flowvae.runs.capability import needs
from flowvae.runs.table import markdown
from flowvae.tables import Variant

MASKS = ("0.25", "0.5", "14x14")
"""pixels to hide, as the option hide has them"""
SYSTEMS = {
    "vae": Variant("vae"),
    "vae-miwae": Variant("vae", "--objective importance-weighted --samples 5"),
    "realnvp-5": Variant("realnvp-5"),
}
VARIANTS = {
    f"{name}-{mask}": system if mask == "none" else replace(system, options=f"{system.options} --hide {mask}")
    for name, system in SYSTEMS.items()
    for mask in ("none", *MASKS)
}
COLUMNS = {
    "trained_on": "",
    "mask": "",
    "complete_nll": ".2f",
    "complete_nll_standard_error": ".2f",
    "missing_nll": ".2f",
    "missing_nll_standard_error": ".2f",
    "error": ".4f",
    "best_of_1": ".4f",
    "best_of_5": ".4f",
    "best_of_20": ".4f",
    "effective_sample_size": ".1f",
}
NEIGHBOURS, NEIGHBOURS_AMONG = 5, 10_000
REGRESSED_ON = 2000  # images; the regressions of all pixels on each other are slow
LEAST_EFFECTIVE = 5.0
"""median effective sample size below which -log p(x_missing | x_known) is left out: then the estimate of
log p(x_known) is too low by nats, and so is this difference"""
LARGEST_CHANCE = 1 - 1e-3  # of a pixel, so that no surprise costs infinitely many nats


class Masked(NamedTuple):
    """Images with hidden pixels: what is known, and what is hidden."""

    images: Tensor
    """[N, C, H, W], complete"""
    observed: Tensor
    """bool [N, C, H, W]"""


def reproduce_missing(
    folder: Path,
    budget: Budget,
    rows: Sequence[str] = (),
    data: str | None = None,
    workers: int = 1,
    num_samples: int = 1000,
    num_images: int = 1000,
) -> None:
    """Train every system with every mask, fill in hidden pixels of test images, and write the table.

    A model that was trained on complete images is measured with every mask. Finished measurements are kept,
    and runs are resumed, as by `flowvae.reproduce.reproduce_table`.

    Args:
        folder: directory for ``table.json``, ``table.md``, the measurements, and the
            runs under ``training/``.
        budget: training budget per row; a denoising network has the same minutes.
        rows: names of variants, and of baselines, to train and measure; by default, all.
        data: data set in place of MNIST.
        workers: number of rows to train in parallel.
        num_samples: S, for probabilities and candidates.
        num_images: number of random test images.

    Raises:
        UserError: if a row failed, or scikit-learn is not installed.
    """
    check_range("samples", num_samples, 1, MOST)
    check_range("images", num_images, 1, MOST)
    chosen = rows or (*VARIANTS, *BASELINES)
    variants = {name: VARIANTS[name] for name in chosen if name in VARIANTS}
    load_dataset(data or "mnist", hide=MASKS[-1])  # raises for smaller images before anything is trained
    folder.mkdir(parents=True, exist_ok=True)
    if variants:
        training = folder / "training"
        of_known = {"num_samples": 100, "num_images": min(num_images, 500)}
        reproduce_table(training, budget, variants=variants, data=data, workers=workers, **of_known)
    asked = {
        "data": Path(data or "mnist").name,
        "budget": asdict(budget),
        "samples": num_samples,
        "images": num_images,
    }
    found: list[dict[str, Any]] = []
    for name in chosen:
        for mask in MASKS if name in BASELINES or name.endswith("-none") else (name.rpartition("-")[2],):
            path = folder / f"{name}-filling-{mask}.json"
            kept = runs.read_json(path) if path.exists() else None
            if not isinstance(kept, dict) or kept.get("asked") != asked:
                test = _masked(
                    load_dataset(data or "mnist"), load_dataset(data or "mnist", hide=mask), "test"
                )
                few = _few(test, num_images)
                if name in BASELINES:
                    measured = _baseline(name, mask, data or "mnist", budget, few)
                else:
                    measured = _measured(folder / "training" / "runs" / f"{name}-seed0", few, num_samples)
                trained = mask if name in BASELINES else name.rpartition("-")[2]
                system = name if name in BASELINES else name.rpartition("-")[0]
                kept = {"asked": asked, "system": system, "trained_on": trained, "mask": mask, **measured}
                runs.write_json(path, kept)
            found.append(_reported(kept))
    runs.write_json(folder / "table.json", found)
    text = markdown([{"name": row["system"], **row} for row in found], COLUMNS)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")


def _reported(kept: dict[str, Any]) -> dict[str, Any]:
    """Return what the table has of a measurement: -log p of missing pixels only where it can be trusted."""
    few = kept.get("effective_sample_size", math.inf) < LEAST_EFFECTIVE
    return {
        key: value
        for key, value in kept.items()
        if key != "asked" and not (few and key.startswith("missing_nll"))
    }


def _masked(complete: Dataset, hidden: Dataset, split: str) -> Masked:
    """Return the images of a split, and which of their pixels the other data set knows."""
    places = torch.arange(len(getattr(complete, split).images))
    observed = hidden.batch(split, places).observed
    assert observed is not None
    return Masked(complete.batch(split, places).images, observed)


def _few(masked: Masked, number: int) -> Masked:
    chosen = torch.randperm(len(masked.images), generator=torch.Generator().manual_seed(0))[:number]
    return Masked(*(each[chosen] for each in masked))


def _mean_and_error(name: str, values: Tensor) -> dict[str, float]:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {name: values.mean().item(), f"{name}_standard_error": error}


def _measured(path: Path, test: Masked, num_samples: int) -> dict[str, Any]:
    """Measure a trained run on test images."""
    run = runs.Run(path)
    model: Model = run.model
    needs(Completing, run)
    bounded = needs(Bounded, run)
    parts: list[dict[str, Tensor]] = []
    complete: list[Tensor] = []
    with reporting(f"filling in with {run.name}") as report:
        for images, observed in zip(test.images.split(20), test.observed.split(20), strict=True):
            parts.append(missing_scores(model, images, observed, num_samples))
            noise = torch.Generator().manual_seed(len(parts))
            complete.append(-log_marginal(bounded, images, num_samples, noise=noise))
            report(20 * len(parts) / len(test.images))
    scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    sizes = scores.pop("effective_sample_size")
    scores.pop("missing_nll_error")
    return {
        **_mean_and_error("complete_nll", torch.cat(complete)),
        **_mean_and_error("missing_nll", scores.pop("missing_nll")),
        **{name: values.mean().item() for name, values in scores.items()},
        "effective_sample_size": sizes.median().item(),
        "minutes": run.records[-1]["seconds"] / 60,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


# What does not need a generative model.

Filling = Callable[[Masked, Masked, Budget], Tensor]
"""from training images and test images with hidden pixels, the mean of every test pixel, [N, C, H, W]"""


def _baseline(name: str, mask: str, data: str, budget: Budget, test: Masked) -> dict[str, Any]:
    train = _masked(load_dataset(data), load_dataset(data, hide=mask), "train")
    began = time.monotonic()
    mean = BASELINES[name](train, test, budget)
    hidden = ~test.observed
    chance = mean.clamp(1 - LARGEST_CHANCE, LARGEST_CHANCE)
    of_pixels = torch.where(hidden, F.binary_cross_entropy(chance, test.images, reduction="none"), 0.0)
    wrong = torch.where(hidden, (mean.round() - test.images).abs(), 0.0)
    return {
        **_mean_and_error("missing_nll", of_pixels.flatten(1).sum(1).double()),
        "error": (wrong.flatten(1).sum(1) / hidden.flatten(1).sum(1).clamp(min=1)).double().mean().item(),
        "minutes": (time.monotonic() - began) / 60,
    }


def _mean_of_training(train: Masked, test: Masked, budget: Budget) -> Tensor:
    """Fill in the mean of the known training values of a pixel."""
    known = train.observed.to(train.images.dtype)
    return ((known * train.images).sum(0) / known.sum(0).clamp(min=1)).expand_as(test.images)


def _imputer(kind: str, number: int, **options: Any) -> Filling:
    """Fill in by one of scikit-learn's imputers, fitted to a number of training images."""

    def fill(train: Masked, test: Masked, budget: Budget) -> Tensor:
        try:
            import sklearn.experimental.enable_iterative_imputer  # for its effect
            import sklearn.impute
        except ImportError:
            raise UserError("baselines need scikit-learn; pip install flowvae[sklearn]") from None
        # Imputers know nothing of a pixel that no training image knows; here it is 0.
        some = Masked(train.images[:number], train.observed[:number])
        never = ~some.observed.any(0)
        some, rest = (_with_zeros(each, never) for each in (some, test))
        fitted = getattr(sklearn.impute, kind)(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a few rounds of regressions did not converge
            fitted.fit(_with_nan(some))
        filled = torch.from_numpy(np.asarray(fitted.transform(_with_nan(rest)))).to(test.images.dtype)
        return filled.view_as(test.images).clamp(0, 1)

    return fill


def _with_zeros(masked: Masked, places: Tensor) -> Masked:
    """Make the pixels at ``places`` [C, H, W] known, with the value 0."""
    return Masked(torch.where(places, 0.0, masked.images), masked.observed | places)


def _with_nan(masked: Masked) -> np.ndarray:
    # In double precision: regressions of pixels that are equal to each other give NaN in single precision.
    return torch.where(masked.observed, masked.images.double(), torch.nan).flatten(1).numpy()


class Denoiser(nn.Module):
    """The encoder and decoder of the preset ``vae``, without noise, from images and masks to logits."""

    def __init__(self, shape: tuple[int, int, int], features: int = 256, channels: int = 64) -> None:
        super().__init__()
        self.encoder = Encoder((2 * shape[0], *shape[1:]), features, channels, 1)
        self.decoder = Decoder(VectorCode(features, shape[1:], features, channels), shape[0], 1, shape[1:])

    def forward(self, images: Tensor, observed: Tensor) -> Tensor:
        known = observed.to(images.dtype)
        return self.decoder(self.encoder(torch.cat([images * known, known], 1)))


def _denoising_network(train: Masked, test: Masked, budget: Budget) -> Tensor:
    """Train a network that predicts known pixels of which a share was hidden from it as well."""
    torch.manual_seed(0)
    channels, height, width = train.images.shape[1:]
    network = Denoiser((channels, height, width))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    for fraction, places in _batches(len(train.images), budget):
        images, known = train.images[places], train.observed[places]
        # As much again as is missing, by masks of other images.
        seen = known & train.observed[places.flip(0)]
        of_pixels = F.binary_cross_entropy_with_logits(network(images, seen), images, reduction="none")
        loss = (of_pixels * (known & ~seen)).sum() / len(images)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        optimizer.step()
    with torch.no_grad():
        pairs = zip(test.images.split(256), test.observed.split(256), strict=True)
        return torch.cat([network(*pair).sigmoid() for pair in pairs])


def _batches(number: int, budget: Budget, size: int = 128) -> Iterator[tuple[float, Tensor]]:
    """Yield the used fraction of the budget, and random places, until it is used up."""
    began, steps = time.monotonic(), 0
    per_epoch = math.ceil(number / size)
    while True:
        used = [(time.monotonic() - began) / 60 / budget.minutes] if budget.minutes else []
        used += [steps / per_epoch / budget.epochs] if budget.epochs else []
        if max(used) >= 1:
            return
        yield max(used), torch.randint(number, (size,))
        steps += 1


BASELINES: dict[str, Filling] = {
    "mean": _mean_of_training,
    "nearest-neighbours": _imputer("KNNImputer", NEIGHBOURS_AMONG, n_neighbors=NEIGHBOURS),
    "iterative-imputer": _imputer(
        "IterativeImputer", REGRESSED_ON, n_nearest_features=50, max_iter=5, random_state=0
    ),
    "denoising-network": _denoising_network,
}
