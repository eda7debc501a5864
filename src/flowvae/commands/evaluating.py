"""`flowvae evaluate`: a run on images of a split, by importance sampling or annealing."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowvae import runs
from flowvae.commands.continuing import continued
from flowvae.commands.limits import MOST_IMAGES
from flowvae.commands.progress import Report, reporting
from flowvae.data.cache import fingerprint
from flowvae.devices import device
from flowvae.errors import UserError, check_range
from flowvae.evaluation import Annealing, Finished, evaluate, evaluate_annealed, evaluate_bracket
from flowvae.evaluation.annealed_likelihood import check_annealed
from flowvae.evaluation.reliability import caveat
from flowvae.parts import LARGEST_SEED
from flowvae.processes import joined, leave_to_first
from flowvae.runs import Run
from flowvae.runs.files import as_safetensors, check_place
from flowvae.runs.scores import Scores, write_scores

# Numbers of images by default, if there are as many.
USUAL_EVALUATED = 1000
USUAL_ANNEALED = 100
USUAL_SIMULATED = 16
Keep = Callable[[Finished], None]
"""called with all that is measured so far"""


def evaluate_run(
    path: Path,
    num_samples: int,
    num_images: int | None,
    split: str = "test",
    data: str | None = None,
    seed: int = 0,
    on: str = "auto",
) -> dict[str, Any]:
    """Score the run's model (see `flowvae.evaluation.evaluate`) and write evaluation.json.

    The scores of the single images are written as well. Scores of another source, ``data``, leave the run's
    own as they are: only their averages are written, to evaluation-NAME.json. An evaluation that was stopped
    is continued, to the same numbers. By default (None), ``num_images`` is up to 1,000, or all of the other
    source.

    Prints a warning to standard error if its -log p(x) cannot be trusted.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    run = Run(path)
    run.model.to(joined(on))
    dataset = run.read_dataset(data)
    own = data in (None, run.config.data.data)
    if not own and f"{dataset.name}-".startswith("ais-"):
        raise UserError(
            f"evaluation-{dataset.name}.json is a file of --estimator ais; rename {dataset.name}, or omit "
            "--data"
        )
    if num_images is None and own:
        num_images = min(USUAL_EVALUATED, len(getattr(dataset, split).images))

    if own and split == "valid":
        warn_of_validation(run)

    def measure(report: Report, keep: Keep, finished: Finished | None) -> dict[str, Any]:
        return evaluate(run.model, dataset, split, num_samples, num_images, seed, report, keep, finished)

    options = (dataset.name, dataset.binarization, split, num_samples, num_images, seed)
    with _continued(run, f"evaluating {run.name}", measure, *options) as (scores, of_images):
        evaluation = {**scores, **training_of(run)}
        if not run.bundled and own:
            runs.write_json(run.path / runs.EVALUATION, evaluation)
            write_scores(run, of_images)
        elif not run.bundled:
            runs.write_json(run.path / f"evaluation-{dataset.name}.json", evaluation)
    warn(run.name, scores)
    return evaluation


def anneal_run(
    path: Path,
    annealing: Annealing,
    num_images: int | None,
    num_simulated: int = USUAL_SIMULATED,
    split: str = "test",
    data: str | None = None,
    seed: int = 0,
    on: str = "auto",
) -> dict[str, Any]:
    """Score the run's model by annealed importance sampling, and write evaluation-ais.json.

    The scores of the single images are written to scores-ais.safetensors. Scores of another source, ``data``,
    are averaged in evaluation-ais-NAME.json. The run's other evaluations are left as they are. If it is
    stopped, it can be continued as in `evaluate_run`. By default (None), ``num_images`` is up to 100.

    Args:
        path: directory of the run.
        annealing: see `flowvae.evaluation.Annealing`.
        num_images: number of images.
        num_simulated: number of images drawn from the model, for the gap between bounds from both sides.
        split, data, seed, on: as in `evaluate_run`.
    """
    check_range("seed", seed, 0, LARGEST_SEED - 1)
    check_range("simulated", num_simulated, 0, MOST_IMAGES)
    run = Run(path)
    check_annealed(run.model, annealing)
    run.model.to(device(on))
    dataset = run.read_dataset(data)
    own = data in (None, run.config.data.data)
    if num_images is None:
        num_images = min(USUAL_ANNEALED, len(getattr(dataset, split).images))

    if own and split == "valid":
        warn_of_validation(run)

    def measure(report: Report, keep: Keep, finished: Finished | None) -> dict[str, Any]:
        return evaluate_annealed(
            run.model, dataset, annealing, split, num_images, seed, report, keep, finished
        )

    def measure_gap(report: Report, keep: Keep, finished: Finished | None) -> dict[str, Any]:
        return evaluate_bracket(run.model, annealing, num_simulated, seed, report, keep, finished)

    options = (*dataclasses.astuple(annealing), seed)
    of_data = (dataset.name, dataset.binarization, split, num_images)
    with contextlib.ExitStack() as stack:
        evaluating, simulating = f"annealing with {run.name}", f"annealing with {run.name}, simulated images"
        scores, of_images = stack.enter_context(
            _continued(run, evaluating, measure, "ais", *options, *of_data)
        )
        if num_simulated:
            key = ("simulated", *options, num_simulated)
            scores = {**scores, **stack.enter_context(_continued(run, simulating, measure_gap, *key))[0]}
        evaluation = {**scores, **training_of(run)}
        if not run.bundled:
            name = runs.ANNEALED_EVALUATION if own else f"evaluation-ais-{dataset.name}.json"
            runs.write_json(run.path / name, evaluation)
        if not run.bundled and own:
            write_scores(run, of_images, runs.ANNEALED_SCORES)
    return evaluation


def warn_of_validation(run: Run) -> None:
    """Print a warning to standard error if the run was trained on its validation images as well."""
    if run.config.data.train_on_validation:
        print(
            f"flowvae: warning: {run.name}: it was trained on its validation images as well, so what is "
            "measured with them says nothing about new images",
            file=sys.stderr,
        )


def training_of(run: Run) -> dict[str, Any]:
    """Return how a run was trained, for the files of what was measured of it."""
    last = run.records[-1] if run.records else {"step": None, "seconds": None}
    return {
        "training_steps": last["step"],
        "training_seconds": last["seconds"],
        "training_seed": run.config.training.seed,
    }


@contextmanager
def _continued(
    run: Run,
    what: str,
    measure: Callable[[Report, Keep, Finished | None], dict[str, Any]],
    *options: object,
) -> Iterator[tuple[dict[str, Any], Scores]]:
    """Yield what ``measure`` returns of a run's model, and the scores of the single images.

    Those of finished batches are kept in the run's directory, and the next measurement with the same weights
    and options continues from them. They are removed after the body, which saves what it needs.
    """
    path = None if run.bundled else run.path / f"scores-{key_of(run, *options)}.unfinished.safetensors"
    if path is not None:
        check_place(path)
    with continued(path) as kept:
        with reporting(what) as report:
            measured = measure(report, kept, kept.latest)
        leave_to_first()
        assert kept.latest is not None, "there is at least one image"
        yield measured, kept.latest.scores


def key_of(run: Run, *options: object) -> str:
    """Return a name for scores of a run's weights on its device with ``options``."""
    weights = hashlib.sha256(as_safetensors(run.model.state_dict())).hexdigest()
    on = next(run.model.parameters()).device
    return fingerprint(weights, on, importlib.metadata.version("flowvae"), *options)


def warn(name: str, evaluation: Mapping[str, Any]) -> None:
    """Print a warning to standard error if the -log p(x) of an evaluation cannot be trusted."""
    if said := caveat(evaluation):
        print(f"flowvae: warning: {name}: {said}", file=sys.stderr)


def up_to(usual: int, compared: Sequence[Run], data: str | None, least: int = 1) -> int:
    """Return the usual number of test images, or as many as every run has; if they are fewer, print a line.

    Raises:
        UserError: if they are fewer than ``least``.
    """
    fewest = min((run.read_dataset(data) for run in compared), key=lambda dataset: len(dataset.test.images))
    available = len(fewest.test.images)
    if available < least:
        raise UserError(
            f"{least} test images are needed; {fewest.name} has {available}: add images, or choose another "
            "source with --data"
        )
    if available < usual:
        count = f"{available} test image{'s' * (available > 1)}"
        print(f"flowvae: {fewest.name} has {count}; all of them are taken", file=sys.stderr)
    return min(usual, available)
