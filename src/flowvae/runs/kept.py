"""Results that a study keeps, and takes again if it asks for the same."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flowvae.errors import UserError
from flowvae.runs.files import read_json

ASKED = "asked"
"""entry of a result for all options on which it depends"""


def read_kept(path: Path, asked: Mapping[str, Any], numbers: Iterable[str]) -> dict[str, Any] | None:
    """Read a result; None if there is none, or one with other options.

    Raises:
        UserError: if it is damaged: one of the ``numbers`` that it must have is missing.
    """
    values = read_json(path) if path.exists() else None
    if not isinstance(values, dict) or values.get(ASKED) != asked:
        return None
    for name in numbers:
        number = values.get(name)
        if not isinstance(number, int | float) or abs(number) >= 2**63:  # more than a float can hold
            raise UserError(f"{path} has no number {name}; remove it to measure again")
    return values
