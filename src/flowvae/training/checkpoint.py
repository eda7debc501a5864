"""What a run needs to go on exactly where it stopped: ``resume/state.pt``."""

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch.optim.swa_utils import AveragedModel

from flowvae.errors import UserError
from flowvae.models import VAE
from flowvae.runs import METRICS, replacing

FILE = Path("resume") / "state.pt"


@dataclass
class State:
    """The whole state of training; batches and noise follow from the step."""

    model: VAE
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    """lowest validation -ELBO so far, that of model.safetensors"""

    def save(self, run: Path, metrics: BinaryIO) -> None:
        """Write the state, atomically, and how far metrics.jsonl has got."""
        metrics.flush()
        values = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "metrics_bytes": metrics.tell(),
        }
        (run / FILE).parent.mkdir(exist_ok=True)
        with replacing(run / FILE) as partial:
            torch.save(values, partial)

    def restore(self, run: Path) -> None:
        """Take over what `save` wrote, and cut metrics.jsonl back to that moment.

        Raises:
            UserError: there is nothing to resume, or it is damaged.
        """
        path = run / FILE
        if not path.exists():
            raise UserError(f"{path} is missing; there is nothing to resume, train again with another --out")
        try:
            values = torch.load(path, weights_only=True)
            self.model.load_state_dict(values["model"])
            self.average.load_state_dict(values["average"])
            self.optimizer.load_state_dict(values["optimizer"])
            self.step, self.seconds, self.best = values["step"], values["seconds"], values["best"]
            metrics_bytes = values["metrics_bytes"]
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is damaged ({reason}); train again with another --out") from None
        with replacing(run / METRICS) as partial:
            partial.write_bytes((run / METRICS).read_bytes()[:metrics_bytes])
