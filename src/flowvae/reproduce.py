"""Training, scoring and reporting of the published tables, which can be interrupted and resumed."""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from flowvae import figures, runs
from flowvae.commands.evaluating import warn
from flowvae.errors import UserError, check_range
from flowvae.models.registry import preset
from flowvae.parts import MOST
from flowvae.runs.table import check_scores, markdown, read_evaluation
from flowvae.tables import ORIGINAL_RECONSTRUCTION, TABLES, Variant
from flowvae.titles import title
from flowvae.training.checkpoint import FILE as STATE_FILE
from flowvae.training.finite import DIVERGED
from flowvae.training.interrupt import interruptible
from flowvae.training.repeated import check_not_longer
from flowvae.training.schedule import spent

MOST_SEEDS = 1000
TRAINING_IMAGES = re.compile(r"--training-images (\d+)")
REPORTED_FIRST = {"original_reconstruction": ".2f"}


@dataclass(frozen=True)
class Budget:
    """Training budget per row in minutes, epochs, or both: whichever ends first."""

    minutes: float | None = None
    epochs: int | None = None

    def options(self) -> list[str]:
        given = {"--minutes": self.minutes, "--epochs": self.epochs}
        return [word for name, value in given.items() if value is not None for word in (name, str(value))]


@dataclass(frozen=True)
class Row:
    """A row of a table for one seed, with the paths of its files."""

    title: str
    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.title}-seed{self.seed}"

    @property
    def log(self) -> Path:
        return self.folder / "runs" / f"{self.name}.log"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def result(self) -> Path:
        return self.folder / f"{self.name}.json"

    def is_done(self, request: "Request") -> bool:
        return self.result.exists() and self.read()["asked"] == request.of(self)

    def read(self) -> dict[str, Any]:
        """Read the row's result, as `_keep_result` wrote it.

        Raises:
            UserError: if it is damaged.
        """
        values = runs.read_json(self.result)
        if not _is_result(values):
            raise UserError(f"{self.result} is not the result of a row; remove it to score the row again")
        own = ("asked", "validation")
        check_scores(self.result, {key: value for key, value in values.items() if key not in own})
        return values

    def state(self) -> tuple[float, tuple[str, float] | None]:
        """Return the used fraction of the run's budget, and the first number of its last record."""
        records = runs.read_metrics(self.run)
        if not records:
            return 0.0, None
        last = records[-1]
        training = runs.Run(self.run).config.training
        used = spent(training, last["step"], runs.steps_per_epoch(last), last["seconds"])
        return used, runs.first_number(last)


@dataclass(frozen=True)
class Request:
    """Options that all rows share."""

    budget: Budget
    data: str | None
    """data set in place of the preset's own"""
    num_samples: int
    num_images: int

    def data_of(self, row: Row) -> str | None:
        return row.variant.data or self.data

    def of(self, row: Row) -> dict[str, Any]:
        """Return the entry "asked" of the row's result; results with another one do not count."""
        return {
            "preset": row.variant.preset,
            "options": row.variant.options,
            "data": Path(self.data_of(row) or preset(row.variant.preset).data.data).name,
            "budget": dataclasses.asdict(self.budget),
            "samples": self.num_samples,
            "images": self.num_images,
        }


def reproduce_table(
    folder: Path,
    budget: Budget,
    *,
    variants: Mapping[str, Variant] = TABLES["table1"],
    seeds: int = 1,
    data: str | None = None,
    workers: int = 1,
    num_samples: int = 1000,
    num_images: int = 2000,
) -> None:
    """Train and score every variant with every seed, and write the table, its numbers and the curves.

    Finished rows are kept, interrupted ones are resumed, and a larger budget resumes the runs of a smaller
    one. Each row is a process of its own; ``workers`` of them run at a time and share the cores. A loss that
    stops being finite counts as a result of its row.

    Args:
        folder: directory for ``ROW-seedN.json`` for each row, ``table.md``, ``table.json``, the curves of
            seed 0 as ``curves.png``, and the runs under ``runs/``; of rows with ``--training-images``, also
            ``images.png``.
        budget: training budget per row.
        variants: the rows by name.
        seeds: number of random seeds, 0 and up, to train each row with.
        data: data set in place of the presets' own.
        workers: number of rows to train in parallel.
        num_samples: S, number of posterior samples per image for -log p(x).
        num_images: number of random test images to score.

    Raises:
        UserError: if a row was trained for longer than the budget allows, before anything is trained; or if a
            row failed, after the other rows are finished.
    """
    check_range("seeds", seeds, 1, MOST_SEEDS)
    check_range("workers", workers, 1, MOST_SEEDS)
    check_range("samples", num_samples, 1, MOST)
    check_range("images", num_images, 1, MOST)
    training = preset("vae").training.with_budget(**dataclasses.asdict(budget))  # raises if it is invalid
    rows = [Row(*item, seed, folder) for seed in range(seeds) for item in variants.items()]
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    request = Request(budget, data, num_samples, num_images)
    for row in rows:  # raises for a damaged result, or a longer training, before anything is trained
        if not row.is_done(request):
            check_not_longer(row.run, training)
    evaluation = ["--samples", str(num_samples), "--images", str(num_images)]
    threads = max(1, (os.cpu_count() or 1) // workers)  # unless the user has said how many
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    failed: list[Row] = []
    scored: dict[str, dict[str, Any]] = {}

    def call(row: Row, words: list[str]) -> bool:
        with row.log.open("ab") as log:
            command = [sys.executable, "-m", "flowvae", *words]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            processes.append(process)
            if stopped.is_set():  # while the process started
                process.terminate()
            return process.wait() == 0

    def work(row: Row) -> None:
        if stopped.is_set() or row.is_done(request):
            return
        earlier = row.log.stat().st_size if row.log.exists() else 0
        if (row.run / STATE_FILE).exists():
            words = ["train", "--resume", str(row.run)]  # refuses options that differ from the run's
        else:  # starts again if nothing was saved
            words = ["train", row.variant.preset, "--out", str(row.run), "--seed", str(row.seed)]
        of_row = request.data_of(row)
        words += [*row.variant.options.split(), *(["--data", of_row] if of_row else []), *budget.options()]
        trained = call(row, words)
        if trained and call(row, ["evaluate", str(row.run), *evaluation]):
            scored[row.name] = read_evaluation(runs.Run(row.run))
            _keep_result(row, request, scored[row.name])
        elif stopped.is_set():
            return
        elif DIVERGED in row.log.read_bytes()[earlier:].decode(errors="replace"):
            _keep_result(row, request, {"diverged": True})
        else:
            failed.append(row)

    processes: list[subprocess.Popen[bytes]] = []
    stopped = threading.Event()
    with (
        ThreadPoolExecutor(workers) as pool,
        _progress(rows, request),
        interruptible() as interrupted,
    ):
        futures = [pool.submit(work, row) for row in rows]
        while wait(futures, timeout=1.0).not_done and not stopped.is_set():
            if interrupted():
                stopped.set()
                for process in processes:  # a row in training saves its state
                    process.terminate()
    for future in futures:
        future.result()
    _write_report(folder, rows)
    for name, evaluation in scored.items():  # the warnings of their own processes are in the logs
        warn(name, evaluation)
    if stopped.is_set():
        raise KeyboardInterrupt
    if failed:
        why = "; ".join(f"{row.log}: {_last_line(row.log)}" for row in failed)
        rows_failed = "1 row" if len(failed) == 1 else f"{len(failed)} rows"
        raise UserError(f"{rows_failed} failed ({why}); run the same command again")


def _last_line(log: Path) -> str:
    """Return what the last process of a row said at its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = (line.removeprefix("flowvae: ").strip() for line in reversed(lines))
    return next(filter(None, said), "it said nothing")


def _keep_result(row: Row, request: Request, scores: dict[str, Any]) -> None:
    records = runs.read_metrics(row.run)
    validation = [
        [round(record["seconds"] / 60, 3), round(runs.first_number(record)[1], 3)]
        for record in records
        if record["split"] == "valid"
    ]
    result = {
        "asked": request.of(row),
        **scores,
        "original_reconstruction": (
            ORIGINAL_RECONSTRUCTION.get(row.title) if row.variant == Variant(row.title) else None
        ),
        "validated_by": runs.judged_by(records) or "negative_elbo",
        "validation": validation,
    }
    runs.write_json(row.result, result)


def _is_result(values: Any) -> bool:
    """Check for what the report needs: the budget, and pairs of minutes and validation score."""
    if not isinstance(values, dict) or not isinstance(values.get("asked"), dict):
        return False
    budget, validation = values["asked"].get("budget"), values.get("validation")
    return (
        isinstance(budget, dict)
        and "minutes" in budget
        and isinstance(validation, list)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in validation)
        and all(
            type(number) in (int, float) and abs(number) < 2**63 for pair in validation for number in pair
        )
    )


def _write_report(folder: Path, rows: Sequence[Row]) -> None:
    finished = [row for row in rows if row.result.exists()]
    results = [{**row.read(), "name": row.name} for row in finished]
    for result in results:
        if result.get("diverged"):
            result["name"] += " (diverged)"
    if not results:
        return
    runs.write_json(folder / "table.json", results)
    text = markdown(results, REPORTED_FIRST)
    (folder / "table.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    # The curves of more seeds would overlap.
    curves = {
        result["name"]: [
            {"split": "valid", "seconds": 60 * minutes, "epoch": epoch, _validated_by(result): value}
            for epoch, (minutes, value) in enumerate(result["validation"], start=1)
        ]
        for row, result in zip(finished, results, strict=True)
        if row.seed == 0
    }
    # Budgets in epochs only are compared by epochs, since rows may come from different machines.
    timed = any(result["asked"]["budget"]["minutes"] for result in results)
    figures.save_curves(curves, folder / "curves.png", "minutes" if timed else "epochs")
    of_first_seed = (result for row, result in zip(finished, results, strict=True) if row.seed == 0)
    if scores := _over_images(of_first_seed):
        figures.save_over_images(scores, "nll", folder / "images.png")


def _over_images(results: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Return -log p(x) by number of training images, of rows that differ by nothing else."""
    scores: dict[str, dict[int, float]] = {}
    for result in results:
        number = TRAINING_IMAGES.search(result["asked"]["options"])
        if number and "nll" in result:
            others = TRAINING_IMAGES.sub("", result["asked"]["options"]).split()
            name = " ".join([result["asked"]["preset"], *others])
            scores.setdefault(name, {})[int(number[1])] = result["nll"]
    return scores


@contextmanager
def _progress(rows: Sequence[Row], request: Request) -> Iterator[None]:
    """Show one bar per row, from the files that the rows' processes write."""
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    )
    over = threading.Event()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {row: progress.add_task(row.name, total=1.0, note="") for row in rows}

        def watch() -> None:
            ended = False
            while not ended:
                ended = over.wait(2.0)
                for row, task in tasks.items():
                    with contextlib.suppress(UserError):  # a damaged run, which its own process reports
                        progress.update(task, **_shown(row, request))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _shown(row: Row, request: Request) -> dict[str, Any]:
    """Return the completed fraction of a row, and a note; nothing before it starts."""
    if row.is_done(request):
        result = row.read()
        number = _validated_by(result)
        note = "diverged" if result.get("diverged") else _note(number, result[number])
        return {"completed": 1.0, "note": note}
    if not (row.run / runs.CONFIG).exists():
        return {}
    fraction, latest = row.state()
    return {"completed": fraction, "note": "scoring" if fraction >= 1 else _note(*latest) if latest else ""}


def _validated_by(result: Mapping[str, Any]) -> str:
    """Name the number that validates a row; in earlier results, which lack the name, it is -ELBO."""
    return result.get("validated_by", "negative_elbo")


def _note(name: str, value: float) -> str:
    return f"{title(name)} {value:.2f}"
