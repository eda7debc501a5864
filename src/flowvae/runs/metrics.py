"""metrics.jsonl: the numbers that a run records in training."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flowvae.runs.files import read_bytes, replacing

METRICS = "metrics.jsonl"
POSITION = ("split", "step", "epoch", "seconds")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the records of metrics.jsonl, in order, without damaged lines; none if there is no such file.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        lines = read_bytes(run / METRICS).splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):  # cut short by a crash, or damaged
            records.append(json.loads(line))
    return [record for record in records if _is_record(record)]


def _is_record(value: Any) -> bool:
    """Check for the entries of every record and at least one more, as numbers that fit into 64 bits."""
    return (
        isinstance(value, dict)
        and value.get("split") in ("train", "valid")
        and type(value.get("step")) is int
        and len(value) > len(POSITION)
        and all(name in value for name in POSITION)
        and all(
            type(number) in (int, float) and abs(number) < 2**63
            for name, number in value.items()
            if name != "split"
        )
    )


def cut_metrics(run: Path, length: int) -> None:
    """Truncate metrics.jsonl to ``length`` bytes; a resumed run writes the records after them again."""
    path = run / METRICS
    kept = path.read_bytes()[:length] if path.exists() else b""
    with replacing(path) as partial:
        partial.write_bytes(kept)


def judged_by(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Name the number that chooses a run's weights: the first of a validation; None before any.

    >>> judged_by([{"split": "valid", "step": 1, "epoch": 1.0, "seconds": 2.0, "nll": 90.0}])
    'nll'
    """
    validations = (record for record in records if record.get("split") == "valid")
    return next((first_number(record)[0] for record in validations), None)


def steps_per_epoch(record: Mapping[str, Any]) -> int:
    """Return the number of steps of an epoch, as a record tells it.

    >>> steps_per_epoch({"split": "train", "step": 1050, "epoch": 2.6923, "seconds": 9.0, "nll": 90.0})
    390
    """
    # Epochs are written with four decimals: at the start of a long one, 0.
    return max(1, round(record["step"] / record["epoch"])) if record["epoch"] >= 1e-4 else 1


def first_number(record: Mapping[str, Any]) -> tuple[str, float]:
    """Return name and value of the most important number of a record."""
    return next((name, value) for name, value in record.items() if name not in POSITION)
