"""What a run needs to go on exactly where it stopped: ``resume/state.pt``."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch.optim.swa_utils import AveragedModel

from flowvae.errors import UserError
from flowvae.models import Model
from flowvae.runs import reason, replacing

FILE = Path("resume") / "state.pt"


@dataclass
class State:
    """The whole state of training; batches and noise follow from the step."""

    model: Model
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    """lowest validation score so far, that of model.safetensors"""
    metrics_bytes: int = 0
    """length of metrics.jsonl when the state was saved"""

    def save(self, run: Path, metrics: BinaryIO) -> None:
        """Write the state, atomically, and how far metrics.jsonl has got."""
        metrics.flush()
        self.metrics_bytes = metrics.tell()
        values = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "metrics_bytes": self.metrics_bytes,
        }
        (run / FILE).parent.mkdir(exist_ok=True)
        # In memory first: where the disk is full, torch.save itself fails with words that do not say so.
        buffer = io.BytesIO()
        torch.save(values, buffer)
        with replacing(run / FILE) as partial:
            partial.write_bytes(buffer.getbuffer())

    def restore(self, run: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            UserError: there is nothing to resume, or it is damaged.
        """
        path = run / FILE
        if not path.exists():
            raise UserError(f"{path} is missing; there is nothing to resume, train again with another --out")
        try:
            values = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(values["model"])
            self.average.load_state_dict(values["average"])
            self.optimizer.load_state_dict(values["optimizer"])
            self.step, self.metrics_bytes = int(values["step"]), int(values["metrics_bytes"])
            self.seconds, self.best = float(values["seconds"]), float(values["best"])
        except Exception as error:  # PyTorch has a dozen ways to say that bytes are wrong
            raise UserError(f"{path} is damaged ({reason(error)}); train again with another --out") from None
