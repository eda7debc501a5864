"""Commands that train and compare several models."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from flowvae.cli.arguments import shown_default
from flowvae.errors import UserError, did_you_mean, quoted


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
    compared: tuple[str, str] = ("vae-seed0", "realnvp-5-seed0"),
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
    own = {"--labels": labels, "--draws": draws, "--first": first}
    usual = {
        "--seeds": (seeds, 1),
        "--workers": (workers, 1),
        "--samples": (samples, None),
        "--images": (images, None),
    }
    if what not in ("systems", "wu-table1") and distributions is not None:
        raise UserError("only systems and wu-table1 are measured by annealing; remove --distributions")
    of_systems = {"annealed": annealed, "drawn": drawn}
    if what != "systems" and (unused := [name for name, value in of_systems.items() if value is not None]):
        raise UserError(f"only systems are measured in these ways; remove --{', --'.join(unused)}")
    if what == "bits-back":
        del usual["--images"], usual["--samples"]
        if unused := [name for name, (value, default) in usual.items() if value != default]:
            raise UserError(
                f"bits-back trains one row after the other with one seed; remove {', '.join(unused)}"
            )
        _reproduce_bits_back(out, rows, data, epochs, minutes, samples, images)
        return
    if what == "few-labels":
        if unused := [name for name, (value, default) in usual.items() if value != default]:
            raise UserError(
                "few-labels trains one draw after the other and scores all test images; remove "
                + ", ".join(unused)
            )
        _reproduce_few_labels(out, labels, draws, rows, data, first, epochs, minutes)
        return
    if unused := [name for name, value in own.items() if value not in (None, ())]:
        raise UserError(f"only few-labels has draws of labelled images; remove {', '.join(unused)}")
    if what == "modes":
        del usual["--seeds"], usual["--images"]
        if unused := [name for name, (value, default) in usual.items() if value != default]:
            raise UserError(f"modes trains one run after the other; remove {', '.join(unused)}")
        _reproduce_modes(out, rows, data, seeds, epochs, minutes, images)
        return
    if what == "wu-table1":
        del usual["--images"]
        if unused := [name for name, (value, default) in usual.items() if value != default]:
            raise UserError(
                f"wu-table1 is trained with one seed and measured by annealing; remove {', '.join(unused)}"
            )
        _reproduce_wu_table1(out, rows, data, epochs, minutes, distributions, images)
        return
    from flowvae.figure1 import reproduce_figure
    from flowvae.reproduce import Budget, reproduce_table
    from flowvae.tables import TABLES, read_variants

    table = "table1" if what == "figure1" else Path(what).stem
    out = out or Path("runs") / table
    if what == "figure1":
        of_tables = {"--minutes": minutes, "--epochs": epochs, "--rows": rows, "--data": data}
        if unused := [name for name, value in of_tables.items() if value]:
            raise UserError(f"figure1 draws two rows that are already trained; remove {', '.join(unused)}")
        for path in reproduce_figure([out / "runs" / name for name in compared], out / "figure1.png"):
            print(path)
        return
    scored = {
        "num_samples": 1000 if samples is None else samples,
        "num_images": 2000 if images is None else images,
    }
    if what == "missing":
        from flowvae.missing import BASELINES, VARIANTS, reproduce_missing

        for name in rows:
            if name not in (known := (*VARIANTS, *BASELINES)):
                raise UserError(f"missing has no row {quoted(name)}; {did_you_mean(name, known)}")
        if seeds != 1:
            raise UserError("missing is trained with one seed; remove --seeds")
        budget = Budget(minutes=10.0 if minutes is None and epochs is None else minutes, epochs=epochs)
        reproduce_missing(out, budget, rows, data, workers, **scored)
        return
    if what == "systems":
        from flowvae.systems import ROWS, reproduce_systems

        for name in rows:
            if name not in ROWS:
                raise UserError(f"systems has no row {quoted(name)}; {did_you_mean(name, ROWS)}")
        if seeds != 1:
            raise UserError("systems are trained with one seed; remove --seeds")
        budget = Budget(minutes=60.0 if minutes is None and epochs is None else minutes, epochs=epochs)
        measuring = {"num_samples": samples, "num_images": images, "distributions": distributions}
        chosen = {name: value for name, value in (measuring | of_systems).items() if value is not None}
        reproduce_systems(out, budget, rows, data, workers, **chosen)
        return
    variants = TABLES[what] if what in TABLES else read_variants(Path(what))
    for name in rows:
        if name not in variants:
            raise UserError(f"{table} has no row {quoted(name)}; {did_you_mean(name, variants)}")
    reproduce_table(
        out,
        Budget(minutes=10.0 if minutes is None and epochs is None else minutes, epochs=epochs),
        variants={name: variants[name] for name in rows or variants},
        seeds=seeds,
        data=data,
        workers=workers,
        **scored,
    )
    print((out / "table.md").read_text(encoding="utf-8"), end="")


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
    from flowvae.reproduce import Budget

    trains = not rows or any(name in TRAINED for name in rows)
    if not trains and (minutes is not None or epochs is not None):
        raise UserError(f"only {', '.join(TRAINED)} are trained; remove --minutes and --epochs")
    reproduce_bits_back(
        out or Path("runs") / "bits-back",
        Budget(minutes=15.0 if minutes is None and epochs is None else minutes, epochs=epochs),
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

    for name in rows:
        if name not in ROWS:
            raise UserError(f"few-labels has no row {quoted(name)}; {did_you_mean(name, ROWS)}")
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
    print((out / "table.md").read_text(encoding="utf-8"), end="")


def _reproduce_modes(
    out: Path | None,
    rows: tuple[str, ...],
    data: str | None,
    seeds: int,
    epochs: int | None,
    minutes: float | None,
    images: int | None,
) -> None:
    from flowvae.evaluation.modes import USUAL_SAMPLES
    from flowvae.modes import ROWS, reproduce_modes

    for name in rows:
        if name not in ROWS:
            raise UserError(f"modes has no row {quoted(name)}; {did_you_mean(name, ROWS)}")
    if data is not None:
        raise UserError("modes are those of stacked-mnist; remove --data")
    out = out or Path("runs") / "modes"
    reproduce_modes(
        out,
        rows=rows or tuple(ROWS),
        seeds=seeds,
        epochs=epochs,
        minutes=minutes,
        num_images=USUAL_SAMPLES if images is None else images,
    )
    print((out / "table.md").read_text(encoding="utf-8"), end="")


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

    for name in rows:
        if name not in ROWS:
            raise UserError(f"wu-table1 has no row {quoted(name)}; {did_you_mean(name, ROWS)}")
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
    print((out / "table.md").read_text(encoding="utf-8"), end="")
