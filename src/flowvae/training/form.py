"""Checks of values read from a file against those that they replace."""

from typing import Any

import torch
from torch import Tensor


def fitted(saved: Any, template: Any, name: str) -> Any:
    """Return ``saved``, with every tensor copied, if it has the form of ``template``.

    Nested dictionaries, lists and tuples must have the same keys and lengths. Tensors must have the same
    shape and type and be finite; integer tensors are counts and must not be negative. Anything else is a
    setting and must be equal. Copies have the memory layout of the template: the strides of a saved tensor
    may expand a single number to its shape, and fused optimizers ignore strides.

    Args:
        saved: value of any type, from a file.
        template: value of the expected form; not modified.
        name: name of the value, for the error.

    Raises:
        ValueError: names the first value that does not fit, with the reason.
    """
    if type(saved) is not type(template):
        raise ValueError(f"{name} is a {type(saved).__name__} instead of a {type(template).__name__}")
    if isinstance(template, dict):
        for key in template:
            if key not in saved:
                raise ValueError(f"{name} has no {key}")
        for key in saved:
            if key not in template:
                raise ValueError(f"{name} has {key!r}, which does not belong there")
        return {key: fitted(saved[key], value, f"{name}.{key}") for key, value in template.items()}
    if isinstance(template, list | tuple):
        if len(saved) != len(template):
            raise ValueError(f"{name} has {len(saved)} entries instead of {len(template)}")
        pairs = enumerate(zip(saved, template, strict=True))
        return type(template)([fitted(*pair, f"{name}[{index}]") for index, pair in pairs])
    if isinstance(template, Tensor):
        return _fitted_tensor(saved, template, name)
    if saved != template:
        raise ValueError(f"{name} is {saved!r} instead of {template!r}")
    return saved


@torch.no_grad()
def _fitted_tensor(saved: Tensor, template: Tensor, name: str) -> Tensor:
    for what, mine, other in (
        ("shape", list(saved.shape), list(template.shape)),
        ("type", saved.dtype, template.dtype),
        ("layout", saved.layout, template.layout),
    ):
        if mine != other:
            raise ValueError(f"{name} has {what} {mine} instead of {other}")
    if not saved.isfinite().all():
        raise ValueError(f"{name} is not finite")
    if not saved.is_floating_point() and (saved < 0).any():
        raise ValueError(f"{name} is negative")
    return torch.empty_like(template).copy_(saved)
