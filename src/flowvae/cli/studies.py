"""Commands that train and compare several models."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from flowvae.cli.arguments import shown_default
from flowvae.errors import UserError, did_you_mean, quoted

if TYPE_CHECKING:
    from flowvae.reproduce import Budget
    from flowvae.tables import Variant

COMPARED = "vae-seed0", "realnvp-5-seed0"
OF_TRAINING = "rows", "data", "minutes", "epochs"
TAKEN_BY_TABLES = *OF_TRAINING, "seeds", "workers", "samples", "images"
TAKEN = {
    "figure1": ("compared",),
    "bits-back": (*OF_TRAINING, "samples", "images"),
    "few-labels": (*OF_TRAINING, "labels", "draws", "first"),
    "missing": (*OF_TRAINING, "workers", "samples", "images"),
    "modes": ("rows", "minutes", "epochs", "seeds", "images"),
    "systems": (*OF_TRAINING, "workers", "samples", "images", "annealed", "drawn", "distributions"),
    "wu-table1": (*OF_TRAINING, "images", "distributions"),
}
"""options that each study takes; every other option would be without effect, and is refused"""


def demo(minutes: float = 2.0, out: Path = Path("runs/demo")) -> None:
    """Train vae and realnvp-2 for a few minutes each, score them, and draw samples.

    Args:
        minutes: training time of each of the two runs, in minutes
        out: directory to write to
    """
    from flowvae.commands.demonstrating import run_demo

    run_demo(minutes, out)


def reproduce(
    what: Annotated[str, Positional, arg(metavar="TABLE|FILE", help_behavior_hint="(required)")],
    out: Annotated[Path | None, shown_default("runs/ and the name of the table or file")] = None,
    minutes: Annotated[
        float | None,
        shown_default(
            "10 without --epochs; of systems, 60; of bits-back, 15; of modes, 5 epochs; of wu-table1, the "
            "presets' own"
        ),
    ] = None,
    epochs: int | None = None,
    rows: Annotated[tuple[str, ...], shown_default("all rows of the table")] = (),
    seeds: int = 1,
    workers: int = 1,
    data: Annotated[str | None, shown_default("that of the presets")] = None,
    samples: Annotated[int | None, shown_default("1000; of systems, 500; of bits-back, 1")] = None,
    images: Annotated[
        int | None,
        shown_default("2000; of systems, 500; of bits-back, 10000; of wu-table1, 100; of modes, 26000"),
    ] = None,
    annealed: Annotated[int | None, shown_default("50")] = None,
    drawn: Annotated[int | None, shown_default("10000")] = None,
    compared: tuple[str, str] = COMPARED,
    labels: Annotated[tuple[int, ...], shown_default("100")] = (),
    draws: Annotated[int | None, shown_default("5")] = None,
    first: Annotated[Path | None, shown_default("trained as runs/vae")] = None,
    distributions: Annotated[int | None, shown_default("1000; of systems, 100")] = None,
) -> None:
    """Train, score and report the rows of a table, or draw figure1 from its runs.

    Can be interrupted and resumed: run the same command again. Finished rows are kept, others are resumed,
    and a larger budget resumes all of them. For a smaller budget, choose another --out.

    Args:
        what: table1, ablations, depth, density or cifar10; a YAML file with a name, a preset and options for
            each row; figure1: interpolations of two rows of table1 side by side; few-labels: errors of
            classifiers from few labels; missing: models that fill in missing pixels; systems: every kind of
            model; wu-table1: log-likelihoods of autoencoders and adversarial networks by annealing; modes:
            digits that adversarial networks find on stacked-mnist; or bits-back: sizes of compressed images
        out: directory for the results, one JSON file per row, the table, the pictures and the runs
        minutes: training budget per row in minutes
        epochs: training budget per row in epochs
        rows: names of the rows to train; of bits-back, also directories of trained runs
        seeds: number of random seeds, 0 and up, to train each row with
        workers: number of rows to train in parallel
        data: another data set or path to train and score on
        samples: S, number of posterior samples per image for -log p(x); of bits-back, of codes per image
        images: number of random test images to score; of modes, of samples
        annealed: of systems, how many of these to score by annealed importance sampling; 0 for none
        drawn: of systems, number of samples to compare with test images
        compared: names of the two rows in the figure
        labels: of few-labels, numbers of labelled images
        draws: of few-labels, number of draws of the labelled images
        first: of few-labels, run of vae whose codes semi-supervised-stacked classifies
        distributions: of wu-table1 and systems, T, number of distributions of annealed importance sampling
    """
    given = {
        "rows": rows,
        "data": data,
        "minutes": minutes,
        "epochs": epochs,
        "seeds": seeds if seeds != 1 else None,
        "workers": workers if workers != 1 else None,
        "samples": samples,
        "images": images,
        "annealed": annealed,
        "drawn": drawn,
        "compared": compared if compared != COMPARED else None,
        "labels": labels,
        "draws": draws,
        "first": first,
        "distributions": distributions,
    }
    variants = {} if what in TAKEN else _variants(what)  # a mistaken name is said before its options
    taken = TAKEN.get(what, TAKEN_BY_TABLES)
    ignored = [name for name, value in given.items() if value not in (None, ()) and name not in taken]
    if ignored:
        words = ", ".join(f"--{name}" for name in ignored)
        raise UserError(f"{what} would ignore {words}; remove {words}")
    if what == "figure1":
        _reproduce_figure1(out, compared)
    elif what == "bits-back":
        _reproduce_bits_back(out, rows, data, epochs, minutes, samples, images)
    elif what == "few-labels":
        _reproduce_few_labels(out, labels, draws, rows, data, first, epochs, minutes)
    elif what == "modes":
        _reproduce_modes(out, rows, seeds, epochs, minutes, images)
    elif what == "wu-table1":
        _reproduce_wu_table1(out, rows, data, epochs, minutes, distributions, images)
    elif what == "missing":
        _reproduce_missing(out, _budget(minutes, epochs, 10.0), rows, data, workers, _scored(samples, images))
    elif what == "systems":
        measuring = {"num_samples": samples, "num_images": images, "distributions": distributions}
        chosen = measuring | {"annealed": annealed, "drawn": drawn}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        _reproduce_systems(out, _budget(minutes, epochs, 60.0), rows, data, workers, chosen)
    else:
        budget, scored = _budget(minutes, epochs, 10.0), _scored(samples, images)
        _reproduce_table(Path(what).stem, variants, out, budget, rows, data, workers, scored, seeds)


def _budget(minutes: float | None, epochs: int | None, usual: float) -> "Budget":
    """Return the budget of each row: ``usual`` minutes if none is given."""
    from flowvae.reproduce import Budget

    return Budget(minutes=usual if minutes is None and epochs is None else minutes, epochs=epochs)


def _scored(samples: int | None, images: int | None) -> dict[str, int]:
    return {
        "num_samples": 1000 if samples is None else samples,
        "num_images": 2000 if images is None else images,
    }


def _variants(what: str) -> Mapping[str, "Variant"]:
    from flowvae.tables import TABLES, read_variants

    return TABLES[what] if what in TABLES else read_variants(Path(what))


def _check_rows(what: str, rows: tuple[str, ...], known: Collection[str]) -> None:
    for name in rows:
        if name not in known:
            raise UserError(f"{what} has no row {quoted(name)}; {did_you_mean(name, known)}")


def _print_table(out: Path) -> None:
    print((out / "table.md").read_text(encoding="utf-8"), end="")


def _reproduce_table(
    table: str,
    variants: Mapping[str, "Variant"],
    out: Path | None,
    budget: "Budget",
    rows: tuple[str, ...],
    data: str | None,
    workers: int,
    scored: dict[str, int],
    seeds: int,
) -> None:
    from flowvae.reproduce import reproduce_table

    _check_rows(table, rows, variants)
    out = out or Path("runs") / table
    chosen = {name: variants[name] for name in rows or variants}
    reproduce_table(out, budget, variants=chosen, seeds=seeds, data=data, workers=workers, **scored)
    _print_table(out)


def _reproduce_figure1(out: Path | None, compared: tuple[str, str]) -> None:
    from flowvae.figure1 import reproduce_figure

    out = out or Path("runs") / "table1"
    for path in reproduce_figure([out / "runs" / name for name in compared], out / "figure1.png"):
        print(path)


def _reproduce_missing(
    out: Path | None,
    budget: "Budget",
    rows: tuple[str, ...],
    data: str | None,
    workers: int,
    scored: dict[str, int],
) -> None:
    from flowvae.missing import BASELINES, VARIANTS, reproduce_missing

    _check_rows("missing", rows, (*VARIANTS, *BASELINES))
    reproduce_missing(out or Path("runs") / "missing", budget, rows, data, workers, **scored)


def _reproduce_systems(
    out: Path | None,
    budget: "Budget",
    rows: tuple[str, ...],
    data: str | None,
    workers: int,
    chosen: dict[str, int],
) -> None:
    from flowvae.systems import ROWS, reproduce_systems

    _check_rows("systems", rows, ROWS)
    reproduce_systems(out or Path("runs") / "systems", budget, rows, data, workers, **chosen)


def _reproduce_bits_back(
    out: Path | None,
    rows: tuple[str, ...],
    data: str | None,
    epochs: int | None,
    minutes: float | None,
    samples: int | None,
    images: int | None,
) -> None:
    from flowvae.bits_back import TRAINED, reproduce_bits_back

    trains = not rows or any(name in TRAINED for name in rows)
    if not trains and (minutes is not None or epochs is not None):
        raise UserError(f"only {', '.join(TRAINED)} are trained; remove --minutes and --epochs")
    reproduce_bits_back(
        out or Path("runs") / "bits-back",
        _budget(minutes, epochs, 15.0),
        rows,
        data,
        10_000 if images is None else images,
        1 if samples is None else samples,
    )


def _reproduce_few_labels(
    out: Path | None,
    labels: tuple[int, ...],
    draws: int | None,
    rows: tuple[str, ...],
    data: str | None,
    first: Path | None,
    epochs: int | None,
    minutes: float | None,
) -> None:
    from flowvae.few_labels import ROWS, reproduce_few_labels

    _check_rows("few-labels", rows, ROWS)
    out = out or Path("runs") / "few-labels"
    reproduce_few_labels(
        out,
        labels=labels or (100,),
        draws=5 if draws is None else draws,
        rows=rows or ROWS,
        data=data,
        first=first,
        epochs=epochs,
        minutes=minutes,
    )
    _print_table(out)


def _reproduce_modes(
    out: Path | None,
    rows: tuple[str, ...],
    seeds: int,
    epochs: int | None,
    minutes: float | None,
    images: int | None,
) -> None:
    from flowvae.evaluation.modes import USUAL_SAMPLES
    from flowvae.modes import ROWS, reproduce_modes

    _check_rows("modes", rows, ROWS)
    out = out or Path("runs") / "modes"
    reproduce_modes(
        out,
        rows=rows or tuple(ROWS),
        seeds=seeds,
        epochs=epochs,
        minutes=minutes,
        num_images=USUAL_SAMPLES if images is None else images,
    )
    _print_table(out)


def _reproduce_wu_table1(
    out: Path | None,
    rows: tuple[str, ...],
    data: str | None,
    epochs: int | None,
    minutes: float | None,
    distributions: int | None,
    images: int | None,
) -> None:
    from flowvae.wu_table1 import ROWS, USUAL_IMAGES, reproduce_wu_table1

    _check_rows("wu-table1", rows, ROWS)
    out = out or Path("runs") / "wu-table1"
    reproduce_wu_table1(
        out,
        rows=rows or tuple(ROWS),
        data=data,
        epochs=epochs,
        minutes=minutes,
        distributions=1000 if distributions is None else distributions,
        num_images=USUAL_IMAGES if images is None else images,
    )
    _print_table(out)
