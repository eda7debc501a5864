"""Budgets, and the learning-rate schedule over them."""

import math

from flowvae.config import TrainingConfig

DEFAULT_MINUTES = 10.0
DROPOUT = (0.0, 0.2, 0.4, 0.6)
"""least probability of a model's dropout, at each level of regularization"""


def spent(
    settings: TrainingConfig, step: int, steps_per_epoch: int, seconds: float, ending: float = 0.0
) -> float:
    """Fraction of the budget that is used up, the largest over the budgets given, and 1 once it is exceeded.

    Args:
        settings: the budgets.
        step: number of steps taken.
        steps_per_epoch: number of steps in an epoch.
        seconds: time used, validation included.
        ending: seconds of the last validation; at most half of a budget in minutes is kept for it.

    >>> spent(TrainingConfig(epochs=4, minutes=10), step=200, steps_per_epoch=100, seconds=60)
    0.5
    >>> spent(TrainingConfig(minutes=1), step=200, steps_per_epoch=100, seconds=45, ending=15)
    1.0
    """
    fractions = []
    if settings.epochs is not None:
        fractions.append(step / (settings.epochs * steps_per_epoch))
    if settings.steps is not None:
        fractions.append(step / settings.steps)
    if settings.minutes is not None or not fractions:
        budget = seconds_of(settings)
        fractions.append(seconds / (budget - min(ending, budget / 2)))
    return min(1.0, max(fractions))


def seconds_of(settings: TrainingConfig) -> float:
    """Return the budget in seconds where it is one of time.

    >>> seconds_of(TrainingConfig(minutes=1.5)), seconds_of(TrainingConfig())
    (90.0, 600.0)
    """
    return 60 * (settings.minutes or DEFAULT_MINUTES)


def steps_within(settings: TrainingConfig, steps_per_epoch: int) -> int | None:
    """Return the number of steps that budgets in epochs and steps allow; None if there is neither.

    >>> steps_within(TrainingConfig(epochs=4, steps=500), steps_per_epoch=100)
    400
    """
    of_epochs = None if settings.epochs is None else settings.epochs * steps_per_epoch
    return min((steps for steps in (settings.steps, of_epochs) if steps is not None), default=None)


def steps_per_validation(steps_per_epoch: int, batch_size: int, validation_images: int) -> int:
    """Return the number of steps after which to validate: whole epochs, of at least as many images.

    >>> steps_per_validation(390, 128, 2000), steps_per_validation(7, 128, 2000)
    (390, 21)
    """
    epochs = math.ceil(validation_images / (steps_per_epoch * batch_size))
    return steps_per_epoch * max(1, epochs)


def rate_factor(settings: TrainingConfig, step: int, fraction: float) -> float:
    """Return the factor on the highest learning rate: linear warm-up times cosine decay over the budget.

    >>> settings = TrainingConfig(learning_rate_warm_up=10)
    >>> [round(rate_factor(settings, step, step / 1000), 3) for step in (0, 10, 500, 1000)]
    [0.1, 1.0, 0.5, 0.0]
    """
    rise = min(1.0, (step + 1) / max(1, settings.learning_rate_warm_up))
    return rise * 0.5 * (1 + math.cos(math.pi * fraction))
