"""Several evaluations as one table."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from flowvae.errors import UserError, nearest
from flowvae.runs import EVALUATION, read_json

# Column titles and how their numbers are shown; everything in nats is better when lower.
COLUMNS: dict[str, tuple[str, str]] = {
    "reconstruction": ("-log p(x\\|z)", ".2f"),
    "kl": ("KL", ".2f"),
    "negative_elbo": ("-ELBO", ".2f"),
    "nll": ("-log p(x)", ".2f"),
    "nll_standard_error": ("+-", ".2f"),
    "bits_per_dim": ("bits/dim", ".4f"),
    "active_units": ("active units", "d"),
    "samples": ("S", "d"),
    "images": ("images", "d"),
    "parameters": ("parameters", ",d"),
    "training_seconds": ("training, s", ".0f"),
}


def collect(runs: list[Path]) -> list[dict[str, Any]]:
    """The evaluations of runs, each with its ``name``."""
    rows = []
    for run in runs:
        values = read_json(run / EVALUATION)
        if not isinstance(values, dict):
            raise UserError(f"{run / EVALUATION} holds no evaluation; evaluate the run again")
        rows.append({"name": run.name, **values})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the columns that a reader compares; numbers are nats per image unless said.

    >>> print(markdown([{"name": "vae", "kl": 25.123, "nll": 88.0}]))
    | model | KL | -log p(x) |
    |---|---:|---:|
    | vae | 25.12 | 88.00 |
    <BLANKLINE>
    """
    columns = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    lines = [
        "| model | " + " | ".join(COLUMNS[key][0] for key in columns) + " |",
        "|---" + "|---:" * len(columns) + "|",
    ]
    for row in rows:
        cells = [format(row[key], COLUMNS[key][1]) if row.get(key) is not None else "" for key in columns]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def comma_separated(rows: list[dict[str, Any]]) -> str:
    """All fields of all rows, as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FORMATS = {
    ".md": markdown,
    ".csv": comma_separated,
    ".json": lambda rows: json.dumps(rows, indent=2) + "\n",
}


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows in the format that the file's name ends in: .md, .csv or .json."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in {path.suffix!r}; {nearest(path.suffix, FORMATS)}")
    path.write_text(FORMATS[path.suffix](rows))
