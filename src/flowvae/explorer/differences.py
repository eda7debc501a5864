"""What is not the same in two configurations."""

import dataclasses
from typing import Any

from flowvae.config import Config


def differences(one: Config, other: Config) -> list[tuple[str, Any, Any]]:
    """The settings that differ, in their order: (name, value of one, value of the other).

    >>> from flowvae.presets import preset
    >>> differences(preset("realnvp-2"), preset("realnvp-5"))
    [('transformations', 2, 5)]
    """
    return [
        (field.name, getattr(mine, field.name), getattr(yours, field.name))
        for mine, yours in ((one.data, other.data), (one.model, other.model), (one.training, other.training))
        for field in dataclasses.fields(mine)
        if getattr(mine, field.name) != getattr(yours, field.name)
    ]
