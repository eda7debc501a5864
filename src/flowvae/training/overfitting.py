"""What training does when validation stops improving: it raises dropout, and ends if that does not help.

A model of few images soon fits them better than others. How strongly to regularize it, and for how long to
train, then depend on their number, which validation knows and no preset does.
"""

import math

from torch import nn

from flowvae.networks.dropout import Dropout, raise_dropout
from flowvae.training.checkpoint import State
from flowvae.training.players import has_one_loss
from flowvae.training.schedule import DROPOUT

STEPS = 500
"""least number of steps to wait for a better validation"""
VALIDATIONS = 3
"""least number of validations to wait"""


def overfits(state: State, patience: float, steps_per_validation: int) -> bool:
    """Return whether validation has not improved for too long at this level of dropout.

    That is for ``patience`` times the steps up to its best; never with a patience of 0.
    """
    if not patience or not has_one_loss(state.model):
        return False
    wait = max(STEPS, VALIDATIONS * steps_per_validation, patience * state.level_best_step)
    return state.step - state.level_best_step >= wait


def regularize(state: State) -> str:
    """Raise dropout to the next level; or end training, if there is none or this one did not help.

    Returns:
        What was done, in words.
    """
    found = f"step {state.step:,}: no better validation since step {state.level_best_step:,}"
    helped = state.level_best <= state.best
    higher = _higher_level(state.model)
    if not helped or higher is None:
        state.ended = True
        return f"{found}; training ends"
    state.level, state.level_best, state.level_best_step = higher, math.inf, state.step
    set_dropout(state)
    return f"{found}; dropout is now {DROPOUT[state.level]:g}"


def _higher_level(model: nn.Module) -> int | None:
    """Return the first level that raises some dropout of the model; None if there is none."""
    own = (part.probability for part in model.modules() if isinstance(part, Dropout))
    lowest = min(own, default=math.inf)
    return next((level for level, probability in enumerate(DROPOUT) if probability > lowest), None)


def set_dropout(state: State) -> None:
    """Set the model's dropout to that of the state's level."""
    raise_dropout(state.model, DROPOUT[state.level])
