"""Budgets, and the learning-rate schedule over them."""

import math

from flowvae.config import TrainingConfig

DEFAULT_MINUTES = 10.0


def spent(settings: TrainingConfig, step: int, steps_per_epoch: int, seconds: float) -> float:
    """Return the fraction of the budget that is used up, at most 1: the largest over the given budgets.

    >>> spent(TrainingConfig(epochs=4, minutes=10), step=200, steps_per_epoch=100, seconds=60)
    0.5
    """
    fractions = []
    if settings.epochs is not None:
        fractions.append(step / (settings.epochs * steps_per_epoch))
    if settings.steps is not None:
        fractions.append(step / settings.steps)
    if settings.minutes is not None:
        fractions.append(seconds / (60 * settings.minutes))
    return min(1.0, max(fractions, default=seconds / (60 * DEFAULT_MINUTES)))


def rate_factor(settings: TrainingConfig, step: int, fraction: float) -> float:
    """Return the factor on the highest learning rate: linear warm-up times cosine decay over the budget.

    >>> settings = TrainingConfig(learning_rate_warm_up=10)
    >>> [round(rate_factor(settings, step, step / 1000), 3) for step in (0, 10, 500, 1000)]
    [0.1, 1.0, 0.5, 0.0]
    """
    rise = min(1.0, (step + 1) / max(1, settings.learning_rate_warm_up))
    return rise * 0.5 * (1 + math.cos(math.pi * fraction))
