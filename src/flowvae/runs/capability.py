"""The capabilities of a run's model, or one line that says which one it lacks."""

from typing import Any, TypeVar

from flowvae.errors import UserError
from flowvae.models import Bounded, Classifying, Coded, Completing, Inferring, Sampler, Scored
from flowvae.runs.folder import Run

Capability = TypeVar("Capability")
LACKS: dict[type, str] = {
    Bounded: "bound on log p(x)",
    Classifying: "classifier",
    Coded: "code for an image",
    Completing: "way to fill in hidden pixels",
    Inferring: "posterior over codes",
    Sampler: "way to draw samples",
    Scored: "exact log p(x)",
}


def needs(capability: type[Capability], run: Run) -> Capability:
    """Return the model of a run, checked to have the ``capability``.

    Raises:
        UserError: if it does not have it.
    """
    model: Any = run.model
    if not isinstance(model, capability):
        raise UserError(
            f"the model of {run.path} ({run.described.system}) has no {LACKS[capability]}; choose another run"
        )
    return model
