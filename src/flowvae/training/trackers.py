"""Trackers of accelerate that receive the metrics besides metrics.jsonl."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, WandBTracker, get_available_trackers

from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.models import Sampler
from flowvae.models.base import evaluating
from flowvae.parts import to_dict
from flowvae.runs import reason
from flowvae.training.checkpoint import State

SAMPLES = 16


def check_tracker(track: str) -> None:
    """Check that a tracker is installed; accelerate would silently skip it.

    Raises:
        UserError: if its package is not installed.
    """
    if track != "none" and track not in map(str, get_available_trackers()):
        raise UserError(f"track is {track}, which is not installed; pip install {track}, or --track none")


def start_tracker(accelerator: Accelerator, run: Path, config: Config) -> None:
    """Start tracking ``run``: with TensorBoard in its own directory, otherwise in the project "flowvae".

    The tracker gets the configuration, too.

    Raises:
        UserError: if the tracker does not start, for example without a login.
    """
    track = config.training.track
    if track == "none":
        return
    settings = {
        f"{part}.{name}": str(value) if isinstance(value, list | tuple) else value
        for part in ("data", "model", "training")
        if getattr(config, part) is not None
        for name, value in to_dict(getattr(config, part)).items()
        if value is not None
    }
    project, options = ("flowvae", _OPTIONS[track](run)) if track in _OPTIONS else ("logs", {})
    try:
        accelerator.init_trackers(project, config=settings, init_kwargs={track: options})
    except Exception as error:  # each tracker raises its own errors
        raise UserError(f"{track} does not start ({reason(error)}); fix it or choose --track none") from None


# Of the trackers that are not in the run's own directory.
_OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "wandb": lambda run: {"name": run.name, "dir": str(run)},
    "trackio": lambda run: {"name": run.name, "resume": "allow"},
    "mlflow": lambda run: {"run_name": run.name},
}


@torch.no_grad()
def track_samples(accelerator: Accelerator, state: State) -> None:
    """Send samples of the averaged weights to the trackers that take images: TensorBoard and wandb."""
    model = state.average.module
    if not isinstance(model, Sampler):
        return
    takers = [each for each in accelerator.trackers if isinstance(each, TensorBoardTracker | WandBTracker)]
    if not takers:
        return
    with evaluating(model):
        samples = model.sample(SAMPLES, torch.Generator().manual_seed(0))
    images = {"samples": (samples.cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()}
    for taker in takers:
        options = {"dataformats": "NHWC"} if isinstance(taker, TensorBoardTracker) else {}
        taker.log_images(images, step=state.step, **options)
