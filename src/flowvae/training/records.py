"""The metrics of a run: metrics.jsonl, trackers, and the numbers on the display."""

import json
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from accelerate import Accelerator
from torch import Tensor

from flowvae.runs import naming
from flowvae.training.checkpoint import State
from flowvae.training.progress import Display

EVERY = 25  # steps
SHOW_EVERY, LIST_EVERY = 1.0, 5.0  # seconds


class Records:
    """Writes a JSON line every 25 training steps and at every validation.

    Each has ``split``, ``step``, ``epoch`` (a fraction), ``seconds``, and the model's numbers, most important
    first. Those of training are means over the steps since the last line, with ``images_per_second`` and the
    ``learning_rate`` of the first player. Those of validation are means over the validation images; the first
    of them chooses the weights.
    """

    def __init__(
        self, file: BinaryIO, display: Display, accelerator: Accelerator, state: State, per_epoch: int
    ) -> None:
        self._file, self._display, self._accelerator = file, display, accelerator
        self._state, self._per_epoch = state, per_epoch
        self._seconds = state.seconds  # before the next training step
        self._shown = float("-inf")  # when the display was last updated
        self._listed = float("-inf")  # when it last got a line of validation

    @torch.no_grad()
    def training(self, shown: Mapping[str, Tensor], fraction: float, batch_size: int) -> None:
        """Record a training step; ``fraction`` of the budget is used up."""
        state = self._state
        for name, value in shown.items():
            state.sums[name] = state.sums.get(name, 0) + value.detach()
        state.summed_steps += 1
        state.summed_seconds += state.seconds - self._seconds
        self._seconds = state.seconds
        # By the step number, so that a resumed run writes at the same steps as an uninterrupted one.
        write = state.step % EVERY == 0 or fraction >= 1
        if not write and time.monotonic() - self._shown < SHOW_EVERY:
            return
        means = {name: value.item() / state.summed_steps for name, value in state.sums.items()}
        images = state.summed_steps * batch_size
        rate = images / state.summed_seconds if state.summed_seconds else None  # the clock may be coarse
        self._display.update(fraction, state.step // self._per_epoch, means, rate, state.seconds)
        self._shown = time.monotonic()
        if write:
            learning_rate = next(iter(state.players.values())).learning_rate
            rates = {} if rate is None else {"images_per_second": rate}
            self._write("train", means, **rates, learning_rate=learning_rate)
            state.sums, state.summed_steps, state.summed_seconds = {}, 0, 0.0

    def validation(self, scores: Mapping[str, float], fraction: float) -> None:
        """Record the scores of the validation images; ``fraction`` of the budget is used up."""
        self._write("valid", scores)
        # A small data set is validated every few steps: its lines would fill the screen.
        if fraction >= 1 or time.monotonic() - self._listed > LIST_EVERY:
            self._display.validation(self._state.step, self._state.step / self._per_epoch, scores)
            self._listed = time.monotonic()
        self._seconds = self._state.seconds  # validation is not training time

    def _write(self, split: str, numbers: Mapping[str, float], **more: float) -> None:
        state = self._state
        record: dict[str, Any] = {
            "split": split,
            "step": state.step,
            "epoch": round(state.step / self._per_epoch, 4),
            "seconds": round(state.seconds, 2),
            **numbers,
            **more,
        }
        if self._accelerator.is_main_process:
            with naming(self._file.name):
                self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
                self._file.flush()
        logged = {f"{split}/{name}": record[name] for name in record if name not in ("split", "step")}
        self._accelerator.log(logged, step=state.step)
