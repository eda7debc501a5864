"""Where the metrics go beside metrics.jsonl: the trackers that accelerate knows."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.parts import to_dict
from flowvae.runs import reason


def check_tracker(track: str) -> None:
    """Complain of a tracker that accelerate would leave out without a word.

    Raises:
        UserError: its package is not installed.
    """
    if track != "none" and track not in map(str, get_available_trackers()):
        raise UserError(f"track is {track}, whose package is missing; pip install {track}, or --track none")


def start_tracker(accelerator: Accelerator, run: Path, config: Config) -> None:
    """Begin to track ``run``: in its own directory with TensorBoard, elsewhere in the project "flowvae".

    Raises:
        UserError: the tracker refuses, for want of a login for instance.
    """
    track = config.training.track
    if track == "none":
        return
    if track == "tensorboard":  # the name of a directory in the run's
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
    except Exception as error:  # each has errors of its own
        raise UserError(
            f"{track} does not start ({reason(error)}); mend that, or choose --track none"
        ) from None
