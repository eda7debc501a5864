"""Settings that differ between two configurations."""

from typing import Any

from flowvae.config import Config
from flowvae.parts import to_dict


def differences(one: Config, other: Config) -> list[tuple[str, Any, Any]]:
    """List the settings that differ, in their order: (name, value of one, value of the other).

    The value of a setting that a configuration does not have is the empty string.

    >>> from flowvae.models.registry import preset
    >>> differences(preset("realnvp-2"), preset("realnvp-5"))
    [('transformations', 2, 5)]
    """
    mine, yours = _settings(one), _settings(other)
    both = [(name, mine.get(name, ""), yours.get(name, "")) for name in mine | yours]
    return [(name, value, other) for name, value, other in both if value != other]


def _settings(config: Config) -> dict[str, Any]:
    system = {} if config.model is None else {"system": config.model.name, **to_dict(config.model)}
    return {**to_dict(config.data), **system, **to_dict(config.training)}
