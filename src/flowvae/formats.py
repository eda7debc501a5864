"""The formats that config.json has had, and how a file in an earlier one is read."""

import dataclasses
from typing import Any

from flowvae.config import Config, to_dict
from flowvae.errors import UserError, quoted

UPGRADES: tuple[dict[str, dict[str, Any]], ...] = (
    # Before formats had numbers. Fields came one by one, so that a file may have some of them.
    {
        "data": {"image_size": None},
        "model": {
            "channels": 64,
            "blocks": 1,
            "family": "vae",
            "prior": "normal",
            "prior_transformations": 0,
            "pseudo_inputs": 100,
            "likelihood": "bernoulli",
            "components": 5,
            "causal_channels": 64,
            "causal_blocks": 4,
            "causal_dropout": 0.0,
            "code": "vector",
            "flow_of": "code",
            "covariance": "diagonal",
            "causal_orders": 1,
        },
        "training": {
            "optimizer": "adamw",
            "start_from": None,
            "precision": "float32",
            "gradient_checkpointing": False,
            "path_derivative": False,
        },
    },
)
"""For each format, from 0 on, the fields that the next one adds. The value of each is the one that does what
was done before there was the field, and need not be the default. A new field is a new format and entry."""

FORMAT = len(UPGRADES)
"""of the files that are written"""


def numbered(config: Config) -> dict[str, Any]:
    """A JSON-able form of the present format, with its number; `upgraded` undoes it."""
    return {"format": FORMAT, **to_dict(config)}


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """What `flowvae.config.from_dict` takes, of a file in any format up to the present one.

    Raises:
        UserError: the format is a later one, or a field is missing that the format has.
    """
    values = dict(values)
    number = values.pop("format", 0)
    if type(number) is not int or number < 0:
        raise UserError(f"format is {quoted(number)}; expected a number from 1 to {FORMAT}")
    if number > FORMAT:
        raise UserError(f"format is {number}, and this flowvae reads up to {FORMAT}; install a newer one")
    for field in dataclasses.fields(Config):
        section = values.get(field.name, {})
        if not isinstance(section, dict):
            continue  # which `from_dict` refuses
        for added in UPGRADES[number:]:
            section = added.get(field.name, {}) | section
        for name in to_dict(Config())[field.name]:
            if name not in section:
                raise UserError(f"{field.name} has no {name}; restore it")
        values[field.name] = section
    return values
