"""The metrics of a run: metrics.jsonl, trackers, and the numbers on the display."""

import json
from typing import Any, BinaryIO

import torch
from accelerate import Accelerator

from flowvae.densities import LogDensities
from flowvae.evaluation import Bounds
from flowvae.training.checkpoint import State
from flowvae.training.progress import Display

EVERY = 25  # steps


class Records:
    """Writes one JSON line for every few training steps and for every validation.

    Each has ``split``, ``step``, ``epoch`` (a fraction), ``seconds``, ``negative_elbo``, ``reconstruction``
    and ``kl`` in nats per image; those of training are means over the steps since the last line, and have
    ``images_per_second`` and ``learning_rate``. Those of validation have ``importance_weighted`` as well, the
    bound with its sign changed, where that is the objective: weights are kept by it.
    """

    def __init__(
        self, file: BinaryIO, display: Display, accelerator: Accelerator, state: State, per_epoch: int
    ) -> None:
        self._file, self._display, self._accelerator = file, display, accelerator
        self._state, self._per_epoch = state, per_epoch
        self._last_step, self._last_seconds = state.step, state.seconds
        self._seconds = state.seconds  # after the last training step
        self._sums = torch.zeros(2, device=accelerator.device)

    @torch.no_grad()
    def training(self, densities: LogDensities, fraction: float, batch_size: int) -> None:
        """Add a training step; ``fraction`` of the budget is used up."""
        reconstruction = -densities.likelihood.mean()
        self._sums += torch.stack([reconstruction, (densities.posterior - densities.prior).mean()])
        self._seconds = self._state.seconds
        # By the step itself, so that a resumed run writes at the same steps as an unbroken one.
        if self._state.step % EVERY and fraction < 1:
            return
        steps = self._state.step - self._last_step
        reconstruction, kl = (self._sums / steps).tolist()
        rate = steps * batch_size / (self._state.seconds - self._last_seconds)
        self._write(
            "train",
            reconstruction,
            kl,
            images_per_second=rate,
            learning_rate=self._state.optimizer.param_groups[0]["lr"],
        )
        epoch = self._state.step // self._per_epoch
        self._display.update(fraction, epoch, reconstruction + kl, kl, rate, self._state.seconds)
        self._last_step, self._last_seconds = self._state.step, self._state.seconds
        self._sums.zero_()

    def validation(self, scores: Bounds, objective: str) -> None:
        """Write the scores of the validation images."""
        reconstruction, kl = scores.reconstruction.mean().item(), scores.kl.mean().item()
        more = {}
        if objective == "importance-weighted":
            more["importance_weighted"] = scores.negative_log_marginal.mean().item()
        self._write("valid", reconstruction, kl, **more)
        self._display.line(
            f"step {self._state.step:6d}  epoch {self._state.step / self._per_epoch:6.2f}  validation  "
            f"-ELBO {reconstruction + kl:7.2f}  KL {kl:6.2f}"
        )
        self._last_seconds += self._state.seconds - self._seconds  # what validation took is not training

    def _write(self, split: str, reconstruction: float, kl: float, **more: float) -> None:
        state = self._state
        record: dict[str, Any] = {
            "split": split,
            "step": state.step,
            "epoch": round(state.step / self._per_epoch, 4),
            "seconds": round(state.seconds, 2),
            "negative_elbo": reconstruction + kl,
            "reconstruction": reconstruction,
            "kl": kl,
            **more,
        }
        if self._accelerator.is_main_process:
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
        numbers = {f"{split}/{name}": record[name] for name in record if name not in ("split", "step")}
        self._accelerator.log(numbers, step=state.step)
