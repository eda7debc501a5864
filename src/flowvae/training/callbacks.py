"""Functions of the caller that watch a training run, and may stop it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class TrainingProgress(NamedTuple):
    """How far a run has got, and its latest numbers."""

    step: int
    """number of finished steps"""
    epoch: float
    """passes over the training images, a fraction"""
    seconds: float
    """training time so far, over all resumptions"""
    fraction: float
    """finished fraction of the budget"""
    numbers: Mapping[str, float]
    """numbers of the step, or means over the validation images, in nats; the most important first"""


class Callback:
    """Watches a run; override what you need. Methods return True to stop, as Ctrl-C does: the state is saved.

    They are called in the main process, and do not affect the random numbers of training.
    """

    def on_step(self, progress: TrainingProgress) -> bool | None:
        """Called after every step with the numbers of its batch."""

    def on_validation(self, progress: TrainingProgress) -> bool | None:
        """Called after every validation with its scores; the first chooses the weights, lower is better."""


def told_to_stop(callbacks: Sequence[Callback], event: str, progress: TrainingProgress) -> bool:
    """Call every callback, and return whether one of them wants to stop; ``event`` names its method."""
    wishes = [getattr(callback, event)(progress) for callback in callbacks]  # each is called
    return any(wishes)
