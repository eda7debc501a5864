"""Trackers of accelerate that receive the metrics besides metrics.jsonl."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.parts import to_dict
from flowvae.runs import reason


def check_tracker(track: str) -> None:
    """Check that a tracker is installed; accelerate would silently skip it.

    Raises:
        UserError: if its package is not installed.
    """
    if track != "none" and track not in map(str, get_available_trackers()):
        raise UserError(f"track is {track}, which is not installed; pip install {track}, or --track none")


def start_tracker(accelerator: Accelerator, run: Path, config: Config) -> None:
    """Start tracking ``run``: with TensorBoard in its own directory, otherwise in the project "flowvae".

    Raises:
        UserError: if the tracker does not start, for example without a login.
    """
    track = config.training.track
    if track == "none":
        return
    if track == "tensorboard":  # "logs" is the directory
        accelerator.init_trackers("logs")
        return
    options: dict[str, dict[str, Any]] = {
        "wandb": {"name": run.name, "dir": str(run)},
        "trackio": {"name": run.name, "resume": "allow"},
        "mlflow": {"run_name": run.name},
    }
    settings = {
        f"{part}.{name}": value
        for part in ("data", "model", "training")
        if getattr(config, part) is not None
        for name, value in to_dict(getattr(config, part)).items()
        if value is not None
    }
    try:
        accelerator.init_trackers("flowvae", config=settings, init_kwargs={track: options[track]})
    except Exception as error:  # each tracker raises its own errors
        raise UserError(f"{track} does not start ({reason(error)}); fix it or choose --track none") from None
