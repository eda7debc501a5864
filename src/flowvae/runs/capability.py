"""The capabilities of a run's model, or one line that says which one it lacks."""

from typing import Any, TypeVar

import torch
from torch import Tensor

from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.models import (
    Bounded,
    Classifying,
    Coded,
    Completing,
    Compressible,
    Inferring,
    Sampler,
    Scored,
)
from flowvae.runs.folder import Run

Capability = TypeVar("Capability")
LACKS: dict[type, str] = {
    Bounded: "bound on log p(x)",
    Classifying: "classifier",
    Coded: "code for an image",
    Completing: "way to fill in hidden pixels",
    Compressible: "way to compress images",
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


def label_of(run: Run, label: str) -> int:
    """Return the number of a class, from its number or its name in the data of a conditional run.

    Raises:
        UserError: if there is no such class, or the model of the run is not conditional.
    """
    if not run.model.conditional:
        raise UserError(f"the model of {run.path} is not conditional on labels; omit --label")
    known = [str(number) for number in range(run.model.classes)]
    try:
        names = list(run.dataset.classes)
    except UserError:  # a number says enough where the data are not at hand
        names = []
    if label in names:
        return names.index(label)
    if label not in known:
        raise UserError(f"label is {quoted(label)}; {did_you_mean(label, [*names, *known])}")
    return int(label)


def labels_of(run: Run, label: str | None, own: Tensor | None, number: int) -> Tensor | None:
    """Return the labels of ``number`` images for the model of a run, int64; None if it takes none.

    They are ``label``, if given, or else the images' ``own``.

    Raises:
        UserError: as in `label_of`, or if there are neither.
    """
    if label is not None:
        return torch.full((number,), label_of(run, label))
    if not run.model.conditional:
        return None
    if own is None or bool((own < 0).any()):
        raise UserError(f"the model of {run.path} is conditional, and images have no labels; give --label")
    return own
