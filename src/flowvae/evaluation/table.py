"""Several evaluations as one table."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.runs import EVALUATION, find, is_bundled, read_json, replacing

# Column titles and how their numbers are shown. Where a model can be better or worse, lower is better.
COLUMNS: dict[str, tuple[str, str]] = {
    "reconstruction": ("-log p(x|z)", ".2f"),
    "kl": ("KL", ".2f"),
    "negative_elbo": ("-ELBO", ".2f"),
    "nll": ("-log p(x)", ".2f"),
    "nll_standard_error": ("standard error", ".2f"),
    "effective_sample_size": ("ESS", ".1f"),
    "pareto_k": ("Pareto k", ".2f"),
    "bits_per_dim": ("bits/dim", ".4f"),
    "active_units": ("active units", "d"),
    "samples": ("S", "d"),
    "images": ("images", "d"),
    "parameters": ("parameters", ",d"),
    "training_seconds": ("training, s", ".0f"),
    "training_steps": ("steps", ",d"),
}


# What numbers must have in common to be compared; shown of rows that differ in it.
PROTOCOL = {"dataset": ("data", ""), "binarization": ("binarization", ""), "split": ("split", "")}


def titles(runs: Sequence[Path]) -> list[str]:
    """What to call runs: the names of their folders, or their paths where two folders have one name.

    >>> titles([Path("runs/vae"), Path("runs/iaf-4")])
    ['vae', 'iaf-4']
    >>> titles([Path("monday/vae"), Path("tuesday/vae")])
    ['monday/vae', 'tuesday/vae']
    """
    names = [run.resolve().name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    return [name.encode(errors="backslashreplace").decode() for name in names]  # bytes that are no text


def collect(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The evaluations of runs, each with the run's title as its ``name``.

    Raises:
        UserError: a run was not evaluated, or its evaluation is damaged.
    """
    return [
        {"name": title, **read_evaluation(find(run) / EVALUATION)}
        for title, run in zip(titles(runs), runs, strict=True)
    ]


def read_evaluation(path: Path) -> dict[str, Any]:
    """The scores of an evaluation.json; any of them may be missing.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    run = path.parent
    if run.is_dir() and not path.exists():
        if is_bundled(run):
            raise UserError(f"{run.name} has no scores; flowvae evaluate {run.name} prints them")
        raise UserError(f"{path} is missing; make it with: flowvae evaluate {run}")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no evaluation; evaluate the run again")
    check_scores(path, values)
    return {key: value for key, value in values.items() if key != "name"}  # a run is named by its folder


def check_scores(
    path: Path, values: Mapping[str, Any], columns: Mapping[str, tuple[str, str]] = COLUMNS
) -> None:
    """Make sure that a table can show the values read from ``path``: JSON bounds neither numbers nor depth.

    Raises:
        UserError: one of them is of the wrong type, or a whole number of more than 64 bits.
    """
    for key, value in values.items():
        kinds: tuple[type, ...] = (bool, int, float, str)  # of what no table knows
        if key in PROTOCOL:
            kinds = (str,)
        elif key in columns:
            kinds = (int,) if columns[key][1].endswith("d") else (int, float)
        too_large = type(value) is int and abs(value) >= 2**63
        if value is not None and (type(value) not in kinds or too_large):
            raise UserError(f"{path}: {key} is {quoted(value)}; evaluate the run again")


def markdown(rows: Sequence[dict[str, Any]], columns: Mapping[str, tuple[str, str]] = COLUMNS) -> str:
    """A Markdown table of the columns that a reader compares; numbers are nats per image unless said.

    ``columns`` has the title and the format of each field that is shown, in their order. Before them comes
    what rows were measured on, as far as they differ in it.

    >>> print(markdown([{"name": "vae", "kl": 25.123, "nll": 88.0}, {"name": "iaf-4", "kl": 26.0}]))
    | model |    KL | -log p(x) |
    |:------|------:|----------:|
    | vae   | 25.12 |     88.00 |
    | iaf-4 | 26.00 |           |
    <BLANKLINE>
    """
    differing = {key: PROTOCOL[key] for key in PROTOCOL if len({row.get(key) for row in rows}) > 1}
    columns = {**differing, **columns}
    keys = [key for key in columns if any(row.get(key) is not None for row in rows)]
    written = [_aligned(["model", *(row["name"] for row in rows)], str.ljust, ":{}-")]
    for key in keys:
        title, form = columns[key]
        numbers = ["" if row.get(key) is None else format(row[key], form) for row in rows]
        written.append(_aligned([title, *numbers], str.rjust, "-{}:"))
    return "".join("|" + "|".join(line) + "|\n" for line in zip(*written, strict=True))


def _aligned(cells: list[str], justify: Callable[[str, int], str], rule: str) -> list[str]:
    """The cells of a column at one width, with the rule that Markdown wants under the first."""
    cells = [cell.replace("|", "\\|") for cell in cells]
    width = max(map(len, cells))
    title, *others = (f" {justify(cell, width)} " for cell in cells)
    return [title, rule.format("-" * width), *others]


def comma_separated(rows: Sequence[dict[str, Any]]) -> str:
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
    ".json": lambda rows: json.dumps(rows, indent=2, allow_nan=False) + "\n",
}


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows in the format that the file's name ends in: .md, .csv or .json.

    Raises:
        UserError: it ends in something else.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path} ends in {quoted(path.suffix)}; {did_you_mean(path.suffix, FORMATS)}")
    with replacing(path) as partial:
        partial.write_text(FORMATS[path.suffix](rows), encoding="utf-8", errors="backslashreplace")
