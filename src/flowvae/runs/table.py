"""Several evaluations as one table."""

import csv
import importlib.util
import io
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.runs.files import check_place, read_json, replacing
from flowvae.runs.folder import ANNEALED_EVALUATION, ANNEALED_SCORES, CONFIG, EVALUATION, QUALITY, Run
from flowvae.runs.scores import difference, paired, scores_of
from flowvae.titles import title

# How numbers are shown, in their order. Where a model can be better or worse, lower is better.
COLUMNS: dict[str, str] = {
    "reconstruction": ".2f",
    "kl": ".2f",
    "negative_elbo": ".2f",
    "nll": ".2f",
    "nll_standard_error": ".2f",
    "nll_difference": ".2f",
    "nll_difference_standard_error": ".2f",
    "marginal_nll": ".2f",
    "bits_per_dim": ".4f",
    "annealed_nll": ".2f",
    "annealed_nll_standard_error": ".2f",
    "annealed_difference": ".2f",
    "annealed_difference_standard_error": ".2f",
    "effective_sample_size": ".1f",
    "pareto_k": ".2f",
    "class_error": ".4f",
    "class_nll": ".4f",
    "calibration_error": ".4f",
    "gap": ".2f",
    "gap_standard_error": ".2f",
    "acceptance": ".2f",
    "active_units": "d",
    "chains": "d",
    "distributions": ",d",
    "variance": "g",
    "annealed_images": "d",
    "frechet_distance": ".2f",
    "frechet_distance_of_real": ".2f",
    "density": ".3f",
    "coverage": ".3f",
    "class_coverage": ".2f",
    "modes": ",d",
    "mode_divergence": ".3f",
    "seconds_per_sample": ".2g",
    "compared": ",d",
    "samples": "d",
    "images": "d",
    "parameters": ",d",
    "training_seconds": ".0f",
    "training_steps": ",d",
}
OF_RUNS = (CONFIG, EVALUATION, ANNEALED_EVALUATION, QUALITY)
"""files of a run that no table replaces"""
LONGEST = 100
"""characters of a name that a message quotes as it is"""
MEASURED = ".4g"  # what only some systems are measured by


# What numbers must have in common to be compared; shown of rows that differ in it.
PROTOCOL = {"dataset": "", "binarization": "", "split": ""}
KEPT = ("nll", "nll_difference", "nll_difference_standard_error", "nll_standard_error")
"""columns that a narrow table leaves out after all others, the last one first"""
CONDITIONAL = "conditional"
"""whether likelihoods are those of images given their labels; shown if any row has it"""
PAIRED = (*PROTOCOL, CONDITIONAL, "samples", "images")
"""what two runs must have in common for differences between them"""


OF_ANNEALED = {
    "annealed_nll": "nll",
    "annealed_nll_standard_error": "nll_standard_error",
    **{name: name for name in ("gap", "gap_standard_error", "acceptance")},
    **{name: name for name in ("chains", "distributions", "variance")},
    "annealed_images": "images",
}
"""columns of evaluation-ais.json, and their names there"""
OF_QUALITY = {
    **{name: name for name in ("frechet_distance", "frechet_distance_of_real")},
    **{name: name for name in ("density", "coverage", "class_coverage", "modes", "mode_divergence")},
    "seconds_per_sample": "seconds_per_sample",
    "compared": "images",
}
"""columns of quality.json, and their names there"""


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns of some evaluations: also what only some systems have, known by its standard error.

    >>> list(columns_of([{"name": "gan", "energy_score": 5.0, "energy_score_standard_error": 0.1}]))[0]
    'energy_score'
    """
    error = "_standard_error"
    more = [key.removesuffix(error) for row in rows for key in row if key.endswith(error)]
    return {**{key: MEASURED for key in more if key not in COLUMNS}, **COLUMNS}


def titles(runs: Sequence[Path]) -> list[str]:
    """What to call runs: the names of their directories, or their paths where two directories have one name.

    >>> titles([Path("runs/vae"), Path("runs/iaf-4")])
    ['vae', 'iaf-4']
    >>> titles([Path("monday/vae"), Path("tuesday/vae")])
    ['monday/vae', 'tuesday/vae']
    """
    names = [os.path.basename(os.path.realpath(run)) for run in runs]  # of links in a circle, too
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    return [name.encode(errors="backslashreplace").decode() for name in names]  # bytes that are no text


def collect(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """What was measured of runs (see `read_measured`), each with the run's title as its ``name``.

    Raises:
        UserError: a run was not evaluated, or a file is damaged.
    """
    return [{"name": name, **read_measured(Run(run))} for name, run in zip(titles(runs), runs, strict=True)]


def _differs(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether two rows differ in this; an exact likelihood, without samples, compares with any estimate."""
    if key == "samples" and (key not in one or key not in other):
        return False
    return one.get(key) != other.get(key)


def compare(runs: Sequence[Path]) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of `collect`, with differences of -log p(x) from the first run, if on the same images.

    Returns:
        The rows, and a line on the runs that have no difference from the first; None if all have one.

    Raises:
        UserError: as in `collect`, or the scores of a run's single images are damaged.
    """
    rows = collect(runs)
    scores = [scores_of(Run(run), row) for run, row in zip(runs, rows, strict=True)]
    reasons = []
    for row, found in zip(rows[1:], scores[1:], strict=True):
        if "nll" not in rows[0] or "nll" not in row:
            continue
        if scores[0] is None or found is None:
            name = rows[0]["name"] if scores[0] is None else row["name"]
            reasons.append(f"{name} has no scores of single images (evaluate it again)")
        elif differing := [key for key in PAIRED if _differs(rows[0], row, key)]:
            reasons.append(f"{row['name']} differs in {', '.join(differing)}")
        elif not torch.equal(scores[0]["content"], found["content"]):
            reasons.append(f"{row['name']} was scored on other images")
        else:
            row.update(difference(scores[0], found))
    if not reasons:
        return rows, None
    return rows, f"no paired difference from {rows[0]['name']}: {'; '.join(dict.fromkeys(reasons))}"


def read_evaluation(run: Run) -> dict[str, Any]:
    """The scores of a run; any of them may be missing.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    path = run.path / EVALUATION
    if not path.exists():
        if run.bundled:
            name = run.name
            raise UserError(f"{name} comes without scores; flowvae evaluate {name} prints those on your data")
        raise UserError(f"{path} is missing; make it with: flowvae evaluate {shlex.quote(str(run.path))}")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no evaluation; evaluate the run again")
    check_scores(path, values)
    return {key: value for key, value in values.items() if key != "name"}  # a run is named by its directory


def read_measured(run: Run) -> dict[str, Any]:
    """The scores of a run, those by annealed importance sampling, and those of its samples.

    Of ``annealed_nll``, ``annealed_difference`` is the mean difference from ``nll`` in nats, on the images
    that both were measured on. Numbers of other weights or of other data than those of evaluation.json are
    left out. A run without this file has the numbers of the other two.

    Raises:
        UserError: there is none of the three files, or one is damaged.
    """
    annealed, quality = (_read_if_there(run.path / name) for name in (ANNEALED_EVALUATION, QUALITY))
    if (annealed or quality) and not (run.path / EVALUATION).exists():
        found = {key: annealed[key] for key in PROTOCOL if key in annealed}
    else:
        found = read_evaluation(run)
    measured = dict(found)
    for values, names in ((annealed, OF_ANNEALED), (quality, OF_QUALITY)):
        same = (key for key in (*PROTOCOL, "training_steps") if key in values and key in found)
        if all(values[key] == found[key] for key in same):
            measured |= {mine: values[own] for mine, own in names.items() if values.get(own) is not None}
    if "annealed_nll" in measured and "nll" in measured:
        scores = scores_of(run, found), scores_of(run, annealed, ANNEALED_SCORES)
        both = None if scores[0] is None or scores[1] is None else paired(scores[0], scores[1])
        if both is not None:
            of_both = difference(*both)
            measured |= {key.replace("nll", "annealed", 1): value for key, value in of_both.items()}
    check_scores(run.path, measured)
    return measured


def _read_if_there(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no measurements; remove it")
    return values


def check_scores(path: Path, values: Mapping[str, Any]) -> None:
    """Make sure that a table can show the values read from ``path``: JSON bounds neither numbers nor depth.

    Raises:
        UserError: one of them is of the wrong type, or a whole number of more than 64 bits.
    """
    columns = columns_of([values])
    for key, value in values.items():
        kinds: tuple[type, ...] = (bool, int, float, str)  # of what no table knows
        if key in PROTOCOL:
            kinds = (str,)
        elif key == CONDITIONAL:
            kinds = (bool,)
        elif key in columns:
            kinds = (int,) if columns[key].endswith("d") else (int, float)
        too_large = type(value) is int and abs(value) >= 2**63
        if value is not None and (type(value) not in kinds or too_large):
            name = key if key.isidentifier() and len(key) < LONGEST else quoted(key)
            raise UserError(f"{path}: {name} is {quoted(value)}; evaluate the run again")


def markdown(
    rows: Sequence[dict[str, Any]], first: Mapping[str, str] | None = None, width: int | None = None
) -> str:
    """A Markdown table of the columns that a reader compares; numbers are nats per image unless said.

    ``first`` has the formats of fields that come before all others. Before them comes what rows were
    measured on, as far as they differ in it. With ``width``, in characters, columns that do not fit are left
    out: from the right, and those of -log p(x) last.

    >>> print(markdown([{"name": "vae", "kl": 25.123, "nll": 88.0}, {"name": "iaf-4", "kl": 26.0}]))
    | model |    KL | -log p(x) |
    |:------|------:|----------:|
    | vae   | 25.12 |     88.00 |
    | iaf-4 | 26.00 |           |
    <BLANKLINE>
    >>> print(markdown([{"name": "vae", "kl": 25.123, "nll": 88.0}], width=26))
    | model | -log p(x) |
    |:------|----------:|
    | vae   |     88.00 |
    <BLANKLINE>
    """
    differing = {key: PROTOCOL[key] for key in PROTOCOL if len({row.get(key) for row in rows}) > 1}
    formats = first or {}
    columns = {**differing, CONDITIONAL: "", **formats, **columns_of(rows), **formats}
    keys = [key for key in columns if any(row.get(key) is not None for row in rows)]
    written = [_aligned(["model", *(row["name"] for row in rows)], str.ljust, ":{}-")]
    for key in keys:
        numbers = ["" if row.get(key) is None else format(row[key], columns[key]) for row in rows]
        written.append(_aligned([title(key), *numbers], str.rjust, "-{}:"))
    while width is not None and len(written) > 2 and sum(len(column[0]) + 1 for column in written) >= width:
        others = [key for key in keys if key not in KEPT]
        least = others[-1] if others else max(keys, key=KEPT.index)
        del written[1 + keys.index(least)]
        keys.remove(least)
    return "".join("|" + "|".join(line) + "|\n" for line in zip(*written, strict=True))


def _aligned(cells: list[str], justify: Callable[[str, int], str], rule: str) -> list[str]:
    """The cells of a column at one width, with the rule that Markdown wants under the first."""
    cells = [cell.replace("|", "\\|") for cell in cells]
    width = max(map(len, cells))
    head, *others = (f" {justify(cell, width)} " for cell in cells)
    return [head, rule.format("-" * width), *others]


def comma_separated(rows: Sequence[dict[str, Any]]) -> str:
    """All fields of all rows, as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _text(value: object) -> object:
    """Return text that any encoding has: file names need not be; other values as they are."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """All fields of all rows, as Parquet; needs pyarrow."""
    import pyarrow
    import pyarrow.parquet

    names = dict.fromkeys(name for row in rows for name in row)
    written = pyarrow.BufferOutputStream()
    columns = {name: [_text(row.get(name)) for row in rows] for name in names}
    pyarrow.parquet.write_table(pyarrow.table(columns), written)
    return written.getvalue().to_pybytes()


FORMATS: dict[str, Callable[[Sequence[dict[str, Any]]], str | bytes]] = {
    ".md": markdown,
    ".csv": comma_separated,
    ".json": lambda rows: json.dumps(rows, indent=2, allow_nan=False) + "\n",
    ".parquet": parquet,
}


def check_format(path: Path, formats: Iterable[str] = FORMATS) -> None:
    """Make sure that a file can be written to ``path`` in one of the ``formats``, by default those of tables.

    Raises:
        UserError: its suffix is none of them, Parquet lacks pyarrow, or a run has its own file there.
        OSError: there is no such directory.
    """
    if path.suffix not in formats:
        raise UserError(f"{path} ends in {quoted(path.suffix)}; {did_you_mean(path.suffix, formats)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{path} needs pyarrow; install it with: pip install pyarrow, or write .csv")
    check_place(path)
    if path.name in OF_RUNS and (path.parent / CONFIG).is_file():
        raise UserError(f"{path} is a file of the run {path.parent}; choose another --out")


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows in the format that the file's name ends in: .md, .csv, .json or .parquet.

    Raises:
        UserError, OSError: as in `check_format`.
    """
    check_format(path)
    written = FORMATS[path.suffix](rows)
    with replacing(path) as partial:
        if isinstance(written, bytes):
            partial.write_bytes(written)
        else:
            partial.write_text(written, encoding="utf-8", errors="backslashreplace")
