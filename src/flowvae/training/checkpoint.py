"""The state from which a run resumes exactly where it stopped: ``resume/state.pt``."""

import copy
import io
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from flowvae.data.reading import open_file
from flowvae.errors import UserError
from flowvae.models import Model
from flowvae.runs import BEGUN, judged_by, naming, read_metrics, reason, replacing, sync
from flowvae.training.finite import broken, diverged
from flowvae.training.form import fitted
from flowvae.training.players import Player
from flowvae.training.schedule import DROPOUT

FILE = Path("resume") / "state.pt"

# Valid numbers of a state. No run reaches the limits, and a clock of 1e10 seconds still resolves a step.
NUMBERS: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: type(value) is int and 0 <= value < 2**53,
    "seconds": lambda value: type(value) is float and 0 <= value < 1e10,
    "best": lambda value: type(value) is float and value > -math.inf,  # infinite before the first validation
    "metrics_bytes": lambda value: type(value) is int and 0 <= value < 2**53,
    "summed_steps": lambda value: type(value) is int and 0 <= value < 2**53,
    "summed_seconds": lambda value: type(value) is float and 0 <= value < 1e10,
    "level": lambda value: type(value) is int and 0 <= value < len(DROPOUT),
    "level_best": lambda value: type(value) is float and value > -math.inf,
    "level_best_step": lambda value: type(value) is int and 0 <= value < 2**53,
    "ended": lambda value: type(value) is bool,
}
# Of states of the time before they were saved. Without sums, the first line after a resume is a mean over
# fewer steps. Runs of the time before levels have no patience.
BEFORE: dict[str, Any] = {
    "sums": {},
    "summed_steps": 0,
    "summed_seconds": 0.0,
    "level": 0,
    "level_best": math.inf,
    "level_best_step": 0,
    "ended": False,
}
# An optimizer counts these or takes their roots: if negative, the next step would make the weights NaN.
NEVER_NEGATIVE = ("step", "exp_avg_sq", "largest")


@dataclass
class State:
    """The complete state of training; batches and noise follow from the step."""

    model: Model
    average: AveragedModel
    players: dict[str, Player]
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    """lowest validation score so far, the score of model.safetensors"""
    level: int = 0
    """level of regularization, of `flowvae.training.schedule.DROPOUT`"""
    level_best: float = math.inf
    """lowest validation score of this level"""
    level_best_step: int = 0
    """step of that score"""
    ended: bool = False
    """whether training ended before its budget, because validation stopped improving"""
    metrics_bytes: int = 0
    """length of metrics.jsonl when the state was saved"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """numbers of training, each a scalar, summed over the steps since the last line of metrics.jsonl"""
    summed_steps: int = 0
    """number of these steps"""
    summed_seconds: float = 0.0
    """their time, without validation"""

    def check(self) -> None:
        """Check that all values are finite, before anything that depends on them is saved.

        Raises:
            UserError: names the first that is not.
        """
        optimizers = {name: player.optimizer for name, player in self.players.items()}
        name = broken(self.model, optimizers, self.average.module)
        if name is not None:
            raise diverged(name, self.step)

    def save(self, run: Path, metrics: BinaryIO) -> None:
        """Write the state, with the length of metrics.jsonl, atomically, once that file is on the disk."""
        with naming(metrics.name):
            metrics.flush()
            os.fsync(metrics.fileno())
        self.metrics_bytes = metrics.tell()
        values = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: player.optimizer.state_dict() for name, player in self.players.items()},
            "sums": self.sums,
            **{name: getattr(self, name) for name in NUMBERS},
        }
        if not (run / FILE).parent.exists():
            (run / FILE).parent.mkdir()
            sync(run)
        # To memory first: on a full disk, torch.save itself fails with an unrelated message.
        buffer = io.BytesIO()
        torch.save(values, buffer)
        with replacing(run / FILE) as partial:
            partial.write_bytes(buffer.getbuffer())
        if (run / BEGUN).exists():
            (run / BEGUN).unlink()
            sync(run)

    def restore(self, run: Path) -> None:
        """Load the output of `save`: all of it, or nothing if any of it does not fit.

        Raises:
            UserError: if there is no state to resume from, or it is damaged.
        """
        path = run / FILE
        if not path.exists():
            raise UserError(f"{path} is missing; there is nothing to resume, train again with another --out")
        try:
            with open_file(path) as file, warnings.catch_warnings(action="ignore"):
                values = torch.load(file, map_location="cpu", weights_only=True)
            if "optimizer" in values:  # from a version in which every model was one player
                values["optimizers"] = {"model": values.pop("optimizer")}
            values = self._checked({**BEFORE, **values})
        except Exception as error:  # PyTorch raises many kinds of errors for damaged files
            raise UserError(f"{path} is damaged ({reason(error)}); train again with another --out") from None
        self.model.load_state_dict(values["model"])
        self.average.load_state_dict(values["average"])
        for name, player in self.players.items():
            player.optimizer.load_state_dict(values["optimizers"][name])
        for name in ("sums", *NUMBERS):
            setattr(self, name, values[name])
        # If `best` were below all recorded scores, weights would never be written again.
        self.best = max(self.best, min(_scores(run, self.model.best), default=-math.inf))

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values read from a file if they fit the objects that they replace; else raise."""
        for name, can_be in NUMBERS.items():
            if not can_be(values.get(name)):
                raise ValueError(f"{name} is {values.get(name)!r}")
        forms, optimizers = {}, dict(values["optimizers"])
        for name, player in self.players.items():
            forms[name], optimizers[name] = _comparable(player.optimizer, optimizers[name])
        template = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": forms,
            "sums": {name: torch.zeros((), dtype=value.dtype) for name, value in values["sums"].items()},
            **{name: values[name] for name in NUMBERS},
        }
        found = fitted({**values, "optimizers": optimizers}, template, "state")
        for player, optimizer in found["optimizers"].items():
            for key, moments in optimizer["state"].items():
                for name in NEVER_NEGATIVE:
                    if name in moments and (moments[name] < 0).any():
                        raise ValueError(f"state.optimizers.{player}.state.{key}.{name} is negative")
        return found


def _scores(run: Path, best: str) -> list[float]:
    """Return the validation scores that choose the weights; none if an earlier version used another score."""
    records = read_metrics(run)
    if judged_by(records) != best:
        return []
    return [record[best] for record in records if record["split"] == "valid" and best in record]


def _comparable(
    optimizer: torch.optim.Optimizer, values: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the form that an optimizer's state must have, and the values without allowed differences."""
    form = _after_a_step(optimizer)
    # A parameter that never had a gradient has no state.
    form["state"] = {key: value for key, value in form["state"].items() if key in values["state"]}
    # The learning rate follows the schedule, and other versions of PyTorch may have fewer options.
    groups = [
        {**mine, **theirs, "lr": mine["lr"]}
        for mine, theirs in zip(form["param_groups"], values["param_groups"], strict=True)
    ]
    return form, {**values, "param_groups": groups}


def _after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's state after a step, with the entries that only a step creates."""
    copied = copy.deepcopy(optimizer)
    for group in copied.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    copied.step()
    return copied.state_dict()
