"""Quality per minute: -ELBO on test images after the same minutes of training, ours and pythae's."""

import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pythae.data.datasets import BaseDataset
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor

import flowvae
from benchmarks import machine
from benchmarks.pythae_models import (
    BoundedPythae,
    Kind,
    invertible_share,
    with_its_own_networks,
    with_our_networks,
)
from flowvae import models, runs
from flowvae.data import Dataset, as_float, load_dataset
from flowvae.evaluation import Bounds, bounds
from flowvae.evaluation.likelihood import CHUNK, joined
from flowvae.models.registry import preset
from flowvae.models.vae import VAEOptions
from flowvae.training import loop

FOLDER = machine.REPOSITORY / "results" / "quality"
SAMPLES = 5
IMAGES_AT_ONCE = CHUNK // SAMPLES  # so few that all their samples are one batch of the decoder
OURS, WITH_OURS, WITH_ITS_OWN = "flowvae", "pythae, our networks", "pythae, its own networks"
# Adam's rate for pythae, and its own default for the row that diverges within ten steps at this rate, at half
# and at a fifth of it; and the batch size of all.
LEARNING_RATE = 1e-3
LEARNING_RATES = {"pythae-iaf-its-own-networks": 1e-4}
BATCH_SIZE = 128


@dataclass(frozen=True)
class Row:
    system: str
    model: str
    """a preset of ours, or a class of pythae's"""


ROWS: dict[str, Row] = {
    **{name: Row(OURS, name) for name in ("vae", "planar-10", "realnvp-5", "iaf-4")},
    **{
        f"pythae-{name}-our-networks": Row(WITH_OURS, kind)
        for name, kind in (("vae", "VAE"), ("planar", "VAE_LinNF"), ("iaf", "VAE_IAF"))
    },
    **{
        f"pythae-{name}-its-own-networks": Row(WITH_ITS_OWN, kind)
        for name, kind in (("vae", "VAE"), ("planar", "VAE_LinNF"), ("iaf", "VAE_IAF"))
    },
}


def measure(
    rows: tuple[str, ...] = tuple(ROWS),
    minutes: float = 10.0,
    folder: Path = FOLDER,
    test_images: int | None = None,
    validation_images: int | None = None,
    learning_rate: float | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train and score every row that ``folder`` does not hold for these minutes yet, one after the other.

    A row is written when it is done: what was stopped goes on with the next one, and a row that is removed is
    measured again.

    Args:
        test_images: how many, the first ones of the split; None for all.
        validation_images: how many each validation of pythae's takes; None for as many as ours.
        learning_rate: of pythae's Adam; None for the row's own.
    """
    dataset = load_dataset(str(static_mnist()), "static")
    folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in rows:
        path = folder / f"{name}.json"
        if not (path.exists() and json.loads(path.read_text())["minutes"] == minutes):
            print(f"quality: {name}, {minutes:g} minutes", flush=True)
            row = ROWS[name]
            rate = learning_rate or LEARNING_RATES.get(name, LEARNING_RATE)
            try:
                if row.system == OURS:
                    trained = _train_ours(row, dataset, minutes)
                else:
                    trained = _train_pythae(row, dataset, minutes, rate, validation_images)
                result = _score(trained, dataset, test_images)
            except DivergedError as diverged:
                result = {
                    "diverged_after_steps": diverged.steps,
                    "test_images": len(dataset.test.images[:test_images]),
                    "samples": SAMPLES,
                    "learning_rate": rate,
                    "machine": machine.describe(),
                }
            runs.write_json(path, {**vars(row), "minutes": minutes, **result})
        results[name] = json.loads(path.read_text())
    best = {
        system: min(
            (
                row["negative_elbo"]
                for row in results.values()
                if row["system"] == system and "negative_elbo" in row
            ),
            default=math.nan,
        )
        for system in (OURS, WITH_OURS)
    }
    lead = best[WITH_OURS] - best[OURS]
    return ({} if math.isnan(lead) else {"quality_lead_nats": lead}), {"rows": results}


def static_mnist() -> Path:
    return machine.shared_data() / "mnist_static_larochelle_packed.npz"


@dataclass
class Trained:
    model: models.VAE | BoundedPythae
    parameters: int
    images_seen: float
    seconds: float
    notes: dict[str, Any]


def _train_ours(row: Row, dataset: Dataset, minutes: float) -> Trained:
    config = preset(row.model).revised(
        data=str(static_mnist()), minutes=minutes, batch_size=BATCH_SIZE, track="none"
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / row.model
        loop.train(run, config)
        last = runs.read_metrics(run)[-1]
        model = cast(models.VAE, flowvae.load(run))
    return Trained(
        model,
        _count(model),
        images_seen=last["step"] * BATCH_SIZE,
        seconds=last["seconds"],
        notes={"learning_rate": config.training.learning_rate},
    )


def _train_pythae(
    row: Row, dataset: Dataset, minutes: float, learning_rate: float, validation_images: int | None
) -> Trained:
    """With pythae's own trainer: Adam, and a cosine over the budget, which its schedulers take by epochs."""
    torch.manual_seed(0)
    kind = cast(Kind, row.model)
    config = preset("vae")
    if row.system == WITH_OURS:
        # As our own training starts.
        ours = cast(models.VAE, loop._start(config, dataset, torch.device("cpu")).model)
        model = with_our_networks(kind, ours)
    else:
        model = with_its_own_networks(kind, VAEOptions().latent)
    budget = Budget(60 * minutes)
    with tempfile.TemporaryDirectory() as folder:
        trainer_config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=1_000_000,  # the budget ends it
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=BATCH_SIZE,
            learning_rate=learning_rate,
            optimizer_params={"betas": (0.9, 0.99)},  # what ours has
            scheduler_cls="LambdaLR",
            scheduler_params={"lr_lambda": lambda epoch: budget.cosine()},
            no_cuda=True,
            seed=0,
        )
        # As many validation images an epoch as ours are.
        validation = dataset.valid.images[: validation_images or config.training.validation_images]
        trainer = BaseTrainer(
            model,
            _pythae_dataset(dataset.train.images, dataset),
            _pythae_dataset(validation, dataset),
            trainer_config,
            callbacks=[budget],
        )
        try:
            trainer.train()
        except BudgetSpentError:
            pass
        except RuntimeError as error:
            # Of the cross entropy, whose means are no numbers any more.
            if "between 0 and 1" not in str(error):
                raise
            raise DivergedError(budget.steps) from error
    # What it would keep is the best epoch; the unfinished one may be better.
    candidates = [model, *([best] if (best := getattr(trainer, "_best_model", None)) is not None else [])]
    images = as_float(validation, dataset.levels)
    values = [
        _bounds(BoundedPythae(candidate).eval(), images, 1).negative_elbo.mean() for candidate in candidates
    ]
    chosen = candidates[int(torch.stack(values).argmin())]
    return Trained(
        BoundedPythae(chosen),
        _count(model),
        images_seen=budget.steps * BATCH_SIZE,
        seconds=budget.seconds(),
        notes={"learning_rate": learning_rate, "invertible_share": invertible_share(chosen)},
    )


class BudgetSpentError(Exception):
    """Training ends here."""


class DivergedError(Exception):
    """A loss that is no number, after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.steps = steps


class Budget(TrainingCallback):
    """Ends pythae's training after some seconds; the time of its validations counts, as it does in ours."""

    def __init__(self, seconds: float) -> None:
        self.allowed, self.began, self.steps = seconds, math.nan, 0

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def cosine(self) -> float:
        fraction = 0.0 if math.isnan(self.began) else min(1.0, self.seconds() / self.allowed)
        return 0.5 * (1 + math.cos(math.pi * fraction))

    def on_train_begin(self, training_config: Any, **more: Any) -> None:
        self.began = time.monotonic()

    def on_train_step_end(self, training_config: Any, **more: Any) -> None:
        self.steps += 1
        if self.seconds() > self.allowed:
            raise BudgetSpentError


def _pythae_dataset(images: Tensor, dataset: Dataset) -> BaseDataset:
    return BaseDataset(as_float(images, dataset.levels), torch.zeros(len(images)))


def _score(trained: Trained, dataset: Dataset, test_images: int | None) -> dict[str, Any]:
    """-ELBO and its parts in nats, by the same estimator for all."""
    images = as_float(dataset.test.images[:test_images], dataset.levels)
    torch.manual_seed(0)
    scores = _bounds(trained.model.eval(), images, SAMPLES)
    assert scores.reconstruction is not None
    assert scores.kl is not None
    return {
        "negative_elbo": scores.negative_elbo.mean().item(),
        "standard_error": scores.negative_elbo.std().item() / math.sqrt(len(images)),
        "reconstruction": scores.reconstruction.mean().item(),
        "kl": scores.kl.mean().item(),
        "test_images": len(images),
        "samples": SAMPLES,
        "parameters": trained.parameters,
        "images_seen": trained.images_seen,
        "images_per_second": trained.images_seen / trained.seconds,
        "seconds": trained.seconds,
        **trained.notes,
        "machine": machine.describe(),
    }


def _bounds(model: models.VAE | BoundedPythae, images: Tensor, num_samples: int) -> Bounds:
    return joined(bounds(model, few, num_samples) for few in images.split(IMAGES_AT_ONCE))


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
