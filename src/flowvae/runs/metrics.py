"""What a run recorded while it was trained: metrics.jsonl."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flowvae.runs.files import read_bytes, replacing

METRICS = "metrics.jsonl"
POSITION = ("split", "step", "epoch", "seconds")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, in order; none where there is no such file. Damaged lines are left out.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = read_bytes(run / METRICS).splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):  # a line that a crash cut short, or worse
            records.append(json.loads(line))
    return [record for record in records if _is_record(record)]


def _is_record(value: Any) -> bool:
    """Whether it has what every record has, and a number more, as numbers that 64 bits hold."""
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
    """Keep the first ``length`` bytes of metrics.jsonl; a resumed run writes what came after them again."""
    path = run / METRICS
    kept = path.read_bytes()[:length] if path.exists() else b""
    with replacing(path) as partial:
        partial.write_bytes(kept)


def judged_by(records: Iterable[Mapping[str, Any]]) -> str | None:
    """The number that chooses a run's weights: the first that a validation recorded; None before any.

    >>> judged_by([{"split": "valid", "step": 1, "epoch": 1.0, "seconds": 2.0, "nll": 90.0}])
    'nll'
    """
    validations = (record for record in records if record.get("split") == "valid")
    return next((first_number(record)[0] for record in validations), None)


def first_number(record: Mapping[str, Any]) -> tuple[str, float]:
    """The name and the value of the most telling number of a record."""
    return next((name, value) for name, value in record.items() if name not in POSITION)
