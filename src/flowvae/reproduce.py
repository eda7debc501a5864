"""The published tables, row by row: trained, scored and reported; can be interrupted and resumed."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from torch import Tensor

from flowvae import figures, runs
from flowvae.commands import test_images, warn
from flowvae.errors import UserError, check_range
from flowvae.evaluation import interpolate, path_quality
from flowvae.models import Inferring
from flowvae.models.registry import preset
from flowvae.parts import MOST
from flowvae.runs.capability import needs
from flowvae.runs.table import check_scores, markdown, read_evaluation
from flowvae.titles import title
from flowvae.training.checkpoint import FILE as STATE_FILE
from flowvae.training.interrupt import interruptible
from flowvae.training.players import DIVERGED
from flowvae.training.schedule import spent

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Variant:
    """What is trained: a preset, and the options of `flowvae train` that it differs from it by."""

    preset: str
    options: tuple[str, ...] = ()


def _presets(*names: str) -> dict[str, Variant]:
    return {name: Variant(name) for name in names}


_GAUSSIAN = ("--posterior", "gaussian", "--covariance", "diagonal")
_NORMAL = ("--prior", "normal")
_INDEPENDENT = ("--likelihood", "bernoulli")

TABLES: dict[str, dict[str, Variant]] = {
    # The posteriors, and how many transformations they have.
    "table1": _presets(
        "vae",
        *(f"planar-{k}" for k in (4, 10, 20, 40)),
        *(f"realnvp-{k}" for k in (2, 5, 10, 20)),
        "iaf-4",
    ),
    # What each part of Real NVP's couplings is worth.
    "ablations": {
        "realnvp-10": Variant("realnvp-10"),
        "no-context": Variant("realnvp-10", ("--no-context",)),
        "no-weight-norm": Variant("realnvp-10", ("--normalization", "none")),
        "batch-norm": Variant("realnvp-10", ("--normalization", "batch")),
        "batch-norm-flow": Variant("realnvp-10", ("--flow-batch-norm",)),
        "unbounded-scale": Variant("realnvp-10", ("--no-bounded",)),
        # Batch norm has it anyway.
        "whole-gradient": Variant("realnvp-10", ("--no-path-derivative",)),
        # The Gaussian around the flow: of independent dimensions; and with no flow, or a planar one, in it.
        **{f"realnvp-{k}-diagonal": Variant(f"realnvp-{k}", ("--covariance", "diagonal")) for k in (5, 10)},
        "gaussian-full": Variant("vae", ("--covariance", "full")),
        "planar-40-full": Variant("planar-40", ("--covariance", "full")),
        # The flow of codes that Rezende & Mohamed have, in place of the flow of noise.
        **{
            f"realnvp-{k}-of-code": Variant(f"realnvp-{k}", ("--flow-of", "code", "--covariance", "diagonal"))
            for k in (5, 10, 20)
        },
    },
    # Whether deep chains train, without normalization in the conditioners and with each kind of it.
    "depth": {
        f"realnvp-{k}-{normalization}": Variant(
            "realnvp-10", ("--transformations", str(k), "--normalization", normalization)
        )
        for k in (8, 16, 32, 64)
        for normalization in ("none", "weight", "batch", "act")
    },
    # What the parts of the lowest likelihood are worth, and the levers of its training.
    "density": {
        "plain": Variant("density-small", (*_GAUSSIAN, *_NORMAL, *_INDEPENDENT)),
        "posterior-flow": Variant("density-small", (*_NORMAL, *_INDEPENDENT)),
        "prior-flow": Variant("density-small", (*_GAUSSIAN, *_INDEPENDENT)),
        "both-flows": Variant("density-small", _INDEPENDENT),
        "causal-alone": Variant("density-small", (*_GAUSSIAN, *_NORMAL)),
        "density-small": Variant("density-small"),
        "pixelcnn": Variant("pixelcnn"),
        "no-averaging": Variant("density-small", ("--averaging", "0")),
        "no-muon": Variant("density-small", ("--optimizer", "adamw")),
        "free-bits": Variant("density-small", ("--free-bits", "4")),
        "one-order": Variant("density-small", ("--causal-orders", "1")),
        "no-dropout": Variant("density-small", ("--causal-dropout", "0")),
        "whole-gradient": Variant("density-small", ("--no-path-derivative",)),
        "importance-weighted": Variant(
            "density-small", ("--objective", "importance-weighted", "--samples", "5")
        ),
    },
    "cifar10": _presets(
        "cifar10", "cifar10-planar", "cifar10-realnvp", "cifar10-realnvp-prior", "realnvp-density-cifar10"
    ),
}

# -log p(x|z) of the table of 2017 that this one follows; it names no other number.
ORIGINAL_RECONSTRUCTION = {
    "planar-4": 65.5,
    "planar-10": 68.9,
    "planar-20": 75.4,
    "planar-40": 83.4,
    "realnvp-2": 60.57,
    "realnvp-5": 75.56,
    "realnvp-10": 75.01,
    "realnvp-20": 81.37,
}
REPORTED_FIRST = {"original_reconstruction": ".2f"}


@dataclass(frozen=True)
class Budget:
    """What every row gets: minutes, epochs, or whichever ends first."""

    minutes: float | None = None
    epochs: int | None = None

    def options(self) -> list[str]:
        given = {"--minutes": self.minutes, "--epochs": self.epochs}
        return [word for name, value in given.items() if value is not None for word in (name, str(value))]


@dataclass(frozen=True)
class Row:
    """A row of a table with a seed, and where its run lies."""

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
        """The row's result, as `_keep_result` wrote it.

        Raises:
            UserError: it is damaged.
        """
        values = runs.read_json(self.result)
        if not _is_result(values):
            raise UserError(f"{self.result} holds no result of a row; remove it, and the row is scored again")
        own = ("asked", "validation")
        check_scores(self.result, {key: value for key, value in values.items() if key not in own})
        return values

    def state(self) -> tuple[float, tuple[str, float] | None]:
        """Fraction of the run's budget that is spent, and the first number of its latest record."""
        records = runs.read_metrics(self.run)
        if not records:
            return 0.0, None
        last = records[-1]
        training = runs.Run(self.run).config.training
        # Epochs are written with four digits, and so are 0 where they are long.
        steps_per_epoch = max(1, round(last["step"] / last["epoch"])) if last["epoch"] >= 1e-4 else 1
        return spent(training, last["step"], steps_per_epoch, last["seconds"]), runs.first_number(last)


@dataclass(frozen=True)
class Request:
    """What is asked of every row."""

    budget: Budget
    data: str | None
    """in place of the preset's own"""
    num_samples: int
    num_images: int

    def of(self, row: Row) -> dict[str, Any]:
        """As the row's result tells it; a result of anything else is not the row's."""
        return {
            "preset": row.variant.preset,
            "options": " ".join(row.variant.options),
            "data": Path(self.data or preset(row.variant.preset).data.data).name,
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

    Finished rows are kept, a row that was stopped goes on where it was, and a larger budget goes on with the
    runs of a smaller one. Rows are processes of their own, ``workers`` at a time, that share the cores. A row
    whose loss stops being finite is a result as well.

    Args:
        folder: gets ``ROW-seedN.json`` for each row, ``table.md``, ``table.json``, the curves of seed 0 as
            ``curves.png``, and the runs themselves under ``runs/``.
        budget: of every row.
        data: in place of the presets' own.
        num_samples: S of -log p(x).
        num_images: random test images.

    Raises:
        UserError: a row failed; the others are done all the same.
    """
    check_range("seeds", seeds, 1, MOST_SEEDS)
    check_range("workers", workers, 1, MOST_SEEDS)
    check_range("samples", num_samples, 1, MOST)
    check_range("images", num_images, 1, MOST)
    preset("vae").training.with_budget(**dataclasses.asdict(budget))  # complains of a budget that is none
    rows = [Row(*item, seed, folder) for seed in range(seeds) for item in variants.items()]
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    request = Request(budget, data, num_samples, num_images)
    for row in rows:
        row.is_done(request)  # complains of a damaged result before anything is trained
    evaluation = ["--samples", str(num_samples), "--images", str(num_images)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    failed: list[Row] = []
    scored: dict[str, dict[str, Any]] = {}

    def call(row: Row, words: list[str]) -> bool:
        with row.log.open("ab") as log:
            command = [sys.executable, "-m", "flowvae", *words]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            processes.append(process)
            if stopped.is_set():  # while it started
                process.terminate()
            return process.wait() == 0

    def work(row: Row) -> None:
        if stopped.is_set() or row.is_done(request):
            return
        earlier = row.log.stat().st_size if row.log.exists() else 0
        if (row.run / STATE_FILE).exists():
            words = ["train", "--resume", str(row.run)]  # which refuses what it was not begun with
        else:  # which begins again where nothing was saved
            words = ["train", row.variant.preset, "--out", str(row.run), "--seed", str(row.seed)]
        words += [*row.variant.options, *(["--data", data] if data else []), *budget.options()]
        trained = call(row, words)
        if trained and row.state()[0] >= 1 and call(row, ["evaluate", str(row.run), *evaluation]):
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
                for process in processes:  # a row in training saves itself
                    process.terminate()
    for future in futures:
        future.result()
    _write_report(folder, rows)
    for name, evaluation in scored.items():  # whose own warnings went to their logs
        warn(name, evaluation)
    if stopped.is_set():
        raise KeyboardInterrupt
    if failed:
        logs = ", ".join(str(row.log) for row in failed)
        rows_failed = "1 row" if len(failed) == 1 else f"{len(failed)} rows"
        raise UserError(f"{rows_failed} failed; see {logs}, then start the same command again")


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
        "original_reconstruction": ORIGINAL_RECONSTRUCTION.get(row.title),
        "validated_by": runs.judged_by(records) or "negative_elbo",
        "validation": validation,
    }
    runs.write_json(row.result, result)


def _is_result(values: Any) -> bool:
    """Whether it has what a report draws: the budget that was asked for, and pairs of minutes and value."""
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
    # More seeds would hide the rows behind one another.
    curves = {
        result["name"]: [
            {
                "split": "valid",
                "seconds": 60 * minutes,
                "epoch": epoch,
                result.get("validated_by", "negative_elbo"): value,
            }
            for epoch, (minutes, value) in enumerate(result["validation"], start=1)
        ]
        for row, result in zip(finished, results, strict=True)
        if row.seed == 0
    }
    # Rows that got the same epochs are compared by them: they need not have had the same machine.
    timed = any(result["asked"]["budget"]["minutes"] for result in results)
    figures.save_curves(curves, folder / "curves.png", "minutes" if timed else "epochs")


@contextmanager
def _progress(rows: Sequence[Row], request: Request) -> Iterator[None]:
    """One bar a row, fed by what the rows' processes write."""
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
    )
    over = threading.Event()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {row: progress.add_task(row.name, total=1.0, note="") for row in rows}

        def look() -> None:
            for row, task in tasks.items():
                with contextlib.suppress(UserError):  # a damaged run, of which its own process complains
                    show(row, task)

        def show(row: Row, task: TaskID) -> None:
            if row.is_done(request):
                result = row.read()
                number = _validated_by(result)
                note = "diverged" if result.get("diverged") else _note(number, result[number])
                progress.update(task, completed=1.0, note=note)
            elif (row.run / runs.CONFIG).exists():
                fraction, latest = row.state()
                note = "scoring" if fraction >= 1 else _note(*latest) if latest else ""
                progress.update(task, completed=fraction, note=note)

        def watch() -> None:
            while not over.wait(2.0):
                look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            look()


def _validated_by(result: Mapping[str, Any]) -> str:
    """The number by which a row was validated; earlier results do not say that it was -ELBO."""
    return result.get("validated_by", "negative_elbo")


def _note(name: str, value: float) -> str:
    return f"{title(name)} {value:.2f}"


def reproduce_figure(
    compared: Sequence[Path],
    out: Path,
    pairs: int = 8,
    steps: int = 10,
    seed: int = 0,
    num_samples: int = 500,
) -> list[Path]:
    """Latent interpolations of several runs between the same test images, each strip with its quality.

    Returns:
        The PNG, the PDF and the JSON with the numbers, named after ``out``.
    """
    panels: dict[str, list[tuple[Tensor, str]]] = {}
    numbers: dict[str, list[dict[str, float]]] = {}
    noise = torch.Generator().manual_seed(seed)
    for run in map(runs.Run, compared):
        model, ends = needs(Inferring, run), test_images(run, 2 * pairs, seed, None)
        paths = interpolate(model, ends[:pairs], ends[pairs:], steps, noise)
        quality = path_quality(model, paths, run.spec.levels, num_samples, noise)
        panels[run.name], numbers[run.name] = [], []
        for path, largest, nll in zip(paths, *(values.tolist() for values in quality), strict=True):
            panels[run.name].append((path, f"largest step {largest:.2f}   -log p(x) {nll:.1f}"))
            numbers[run.name].append({"largest_step": largest, "mean_nll": nll})
    files = [out.with_suffix(suffix) for suffix in (".png", ".pdf", ".json")]
    for file in files[:2]:
        figures.save_strips(panels, file)
    runs.write_json(files[2], numbers)
    return files
