"""The commands, as functions of the directories of runs."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from flowvae import figures, runs
from flowvae.batch import Batch, labelled
from flowvae.data import Dataset, as_float
from flowvae.data.cache import fingerprint
from flowvae.data.named import Named, named_images, number_of, numbers_of
from flowvae.data.npz import NUMBERS, read_arrays
from flowvae.devices import device
from flowvae.errors import UserError, check_range
from flowvae.evaluation import (
    MEASURES,
    Annealing,
    Finished,
    evaluate,
    evaluate_annealed,
    evaluate_bracket,
    interpolate,
    nearest,
    score,
)
from flowvae.evaluation.annealed_likelihood import check_annealed
from flowvae.evaluation.bayes import log_posterior, log_prob_of_classes
from flowvae.evaluation.likelihood import at
from flowvae.evaluation.reliability import caveat, weight_diagnostics
from flowvae.hub import save_pretrained
from flowvae.image_files import is_grid, save_arrays, save_images
from flowvae.models import Bounded, Classifying, Coded, Inferring, Sampler, Scored
from flowvae.models.registry import preset
from flowvae.onnx import export_onnx
from flowvae.parts import LARGEST_SEED, MOST
from flowvae.processes import is_first, joined, leave_to_first, spread
from flowvae.runs import Run
from flowvae.runs.capability import labels_of, needs
from flowvae.runs.files import as_safetensors
from flowvae.runs.scores import Scores, read_unfinished, scores_of, write_scores, write_unfinished
from flowvae.runs.table import (
    check_format,
    collect,
    comma_separated,
    markdown,
    read_evaluation,
    titles,
    write_table,
)
from flowvae.training import train

# More than this in one picture is unreadable, and would fill the memory first.
MOST_IMAGES = 10_000
IMAGES_AT_ONCE = 256
IMAGES_SCORED = 16  # one by one, so that progress is seen
TABLES = (".csv", ".json", ".parquet")  # of all columns; Markdown has those of scores
SECONDS_BETWEEN_LINES = 30.0
# Numbers of images by default, if there are as many.
USUAL_EVALUATED = 1000
USUAL_ANNEALED = 100
USUAL_SIMULATED = 16
USUAL_RECONSTRUCTED = 50
USUAL_PAIRS = 8

Report = Callable[[float], None]
"""called with the finished fraction"""
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
    if num_images is None and own:
        num_images = min(USUAL_EVALUATED, len(getattr(dataset, split).images))

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
    path = run.path / f"scores-{_key(run, *options)}.unfinished.safetensors"
    found = None if run.bundled else read_unfinished(path)
    latest = None if found is None else Finished(dict(found[0]), found[1])
    saved = time.monotonic()

    def save() -> None:
        if latest is not None and not run.bundled and is_first():
            write_unfinished(path, *latest)

    def keep(finished: Finished) -> None:
        nonlocal latest, saved
        latest = finished
        if time.monotonic() - saved >= SECONDS_BETWEEN_LINES:
            save()
            saved = time.monotonic()

    try:
        with reporting(what) as report:
            measured = measure(report, keep, latest)
        leave_to_first()
        assert latest is not None, "there is at least one image"
        yield measured, latest.scores
    except KeyboardInterrupt:
        save()
        raise
    if not run.bundled:
        path.unlink(missing_ok=True)


def _key(run: Run, *options: object) -> str:
    """Return a name for scores of a run's weights on its device with ``options``."""
    weights = hashlib.sha256(as_safetensors(run.model.state_dict())).hexdigest()
    on = next(run.model.parameters()).device
    return fingerprint(weights, on, importlib.metadata.version("flowvae"), *options)


def score_images(
    path: Path,
    sources: Sequence[str],
    num_samples: int,
    split: str | None,
    seed: int,
    out: Path | None,
    on: str = "auto",
    label: str | None = None,
) -> str:
    """Score single images (see `flowvae.score`) and write one row per image to ``out``.

    A conditional model scores -log p(x|y) of the class ``label``, by default -log p(x).

    With ``out``, the scores of finished images are kept beside it until it is written, and the same command
    continues from them.

    Returns:
        What to print: the path of the table, or, without ``out``, the table as CSV.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    if out is not None:
        check_format(out)
    run = Run(path)
    if not isinstance(run.model, Scored):
        needs(Bounded, run)
    run.model.to(joined(on))
    found = named_images(sources, run.spec, run.config.data, split, seed)
    labels = None if label is None else labels_of(run, label, None, len(found.names))
    batch = found.batch._replace(labels=labels)
    scores, unfinished = _scored(run, batch, num_samples, seed, out)
    leave_to_first()
    marginal = run.model.conditional and label is None
    if (tested := _test_nll(run, "marginal_nll" if marginal else "nll")) is not None:
        places = torch.searchsorted(tested, scores["nll"])
        scores["share_of_test_lower"] = places.double() / len(tested)
    columns = {name: values.tolist() for name, values in scores.items()}
    rows = [
        {
            "name": name,
            **{key: values[place] for key, values in columns.items() if values[place] == values[place]},
        }
        for place, name in enumerate(found.names)
    ]
    if "pareto_k" in scores:
        weights = weight_diagnostics(scores["effective_sample_size"], scores["pareto_k"])
        warn(run.name, {**weights, "samples": num_samples})
    if out is None:
        return comma_separated(rows)
    write_table(rows, out)
    if unfinished is not None:
        unfinished.unlink(missing_ok=True)
    return f"{out}\n"


def _scored(
    run: Run, batch: Batch, num_samples: int, seed: int, out: Path | None
) -> tuple[dict[str, Tensor], Path | None]:
    """Score images in pieces; return the scores, and the file beside ``out`` that keeps finished pieces."""
    content = numbers_of(batch)
    given = () if batch.labels is None else tuple(batch.labels.tolist())
    key = _key(run, num_samples, seed, hashlib.sha256(content.numpy().tobytes()).hexdigest(), *given)
    path = None if out is None else out.with_name(f"{out.name}.{key}.unfinished.safetensors")
    kept = None if path is None else read_unfinished(path)
    parts = [] if kept is None else [dict(kept[0])]
    done = sum(len(part["content"]) for part in parts)
    if kept is not None and not torch.equal(kept[0]["content"], content[:done]):
        raise UserError(f"{path} has scores of other images; remove it")
    saved = time.monotonic()

    def scores_of_few(few: Batch) -> dict[str, Tensor]:
        noise = torch.Generator().manual_seed(seed)
        return score(run.model, few.images, num_samples, noise, **run.model.given(few))

    with reporting(f"scoring with {run.name}") as report:
        try:
            for scores in spread(list(batch.at(slice(done, None)).split(IMAGES_SCORED)), scores_of_few):
                after = done + len(scores["nll"])
                parts.append({**scores, "content": content[done:after], "index": torch.arange(done, after)})
                done = after
                report(done / len(content))
                if path is not None and is_first() and time.monotonic() - saved >= SECONDS_BETWEEN_LINES:
                    write_unfinished(path, _joined(parts), torch.empty(0, dtype=torch.uint8))
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if path is not None and parts and is_first():
                write_unfinished(path, _joined(parts), torch.empty(0, dtype=torch.uint8))
            raise
    joined = _joined(parts)
    return {name: joined[name] for name in MEASURES if name in joined}, path


def _joined(parts: Sequence[Scores]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _test_nll(run: Run, name: str) -> Tensor | None:
    """Return the scores ``name`` of the test images that the run was evaluated on, sorted; None if absent."""
    if not (run.path / runs.EVALUATION).exists():
        return None
    evaluation = read_evaluation(run)
    found = scores_of(run, evaluation) if evaluation.get("split") == "test" else None
    return None if found is None or name not in found else found[name].sort().values


def classify_images(
    path: Path,
    sources: Sequence[str],
    split: str | None,
    seed: int,
    out: Path | None = None,
    on: str = "auto",
    num_samples: int = 500,
) -> str:
    """Predict the class of each image and write one row per image to ``out``.

    A conditional model does so by Bayes' rule, with ``num_samples`` per image shared by the classes.

    A row has the columns ``name``; ``class``, the most probable class; ``probability``, its q(y|x); and
    ``log_q_CLASS``, log q(y|x) in nats, for each class. Classes have the names of the run's data; they are
    numbers if the data have no names or cannot be read.

    Returns:
        What to print: the path of the table, or, without ``out``, the table as CSV.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    if out is not None:
        check_format(out, TABLES)
    run = Run(path)
    check_range("samples", num_samples, 1, MOST)
    classify = _classifier(run, num_samples, seed)
    run.model.to(joined(on))
    found = named_images(sources, run.spec, run.config.data, split, seed)
    with reporting(f"classifying with {run.name}") as report, torch.no_grad():
        parts: list[Tensor] = []
        pieces = list(found.batch.split(IMAGES_SCORED if run.model.conditional else IMAGES_AT_ONCE))
        for part in spread(pieces, classify):
            parts.append(part)
            report(len(parts) / len(pieces))
    leave_to_first()
    log_class = torch.cat(parts)
    if not log_class.isfinite().all():
        raise UserError("a log probability is not finite; train again with a lower --learning-rate")
    names = _class_names(run, run.model.classes)
    rows = [
        {
            "name": name,
            "class": names[predicted],
            "probability": math.exp(values[predicted]),
            **{f"log_q_{names[label]}": value for label, value in enumerate(values)},
        }
        for name, values, predicted in zip(
            found.names, log_class.tolist(), log_class.argmax(1).tolist(), strict=True
        )
    ]
    if out is None:
        return comma_separated(rows)
    write_table(rows, out)
    return f"{out}\n"


def _classifier(run: Run, num_samples: int, seed: int) -> Callable[[Batch], Tensor]:
    """Return a function from images to log q(y|x) [B, classes], for the model of a run."""
    model: Any = run.model
    if not model.conditional:
        classifying = needs(Classifying, run)

        def classify(batch: Batch) -> Tensor:
            model.given(batch)  # refuses missing pixels
            return classifying.classify(batch.images.to(next(model.parameters()).device)).cpu()

        return classify

    def by_bayes_rule(batch: Batch) -> Tensor:
        rows: list[Tensor] = []
        for one in batch.split(1):
            noise = torch.Generator().manual_seed(number_of(one.images[0], seed))
            here = one.to(next(model.parameters()).device)
            given = model.given(here)
            rows.append(
                log_prob_of_classes(model, here.images, model.classes, num_samples, noise=noise, **given)
            )
        return log_posterior(torch.cat(rows))

    return by_bayes_rule


def _class_names(run: Run, count: int) -> Sequence[str | int]:
    """Return the names of the classes in the run's data, or their numbers."""
    with contextlib.suppress(UserError):  # the data may not be on this machine
        if len(run.dataset.classes) == count:
            return run.dataset.classes
    return range(count)


def encode_images(
    path: Path,
    sources: Sequence[str],
    draws: int | None,
    split: str | None,
    seed: int,
    out: Path | None = None,
    on: str = "auto",
    label: str | None = None,
) -> Path:
    """Write the code of each image, or draws of it, to ``out``, by default codes.npz in the run.

    A conditional model encodes an image with the class ``label``, by default with its own label, and the file
    also has ``labels`` [N].

    An .npz file has ``names`` [N] and ``codes``: [N, D], the codes without noise (`Coded.center`), or
    [S, N, D], S draws from q(z|x). The draws of an image depend on its pixels and ``seed`` only. A table
    has a row for each code, with the columns ``name``, ``draw`` (of several) and ``z0``, ``z1``, ...
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    run = Run(path)
    out = out or run.place_for("codes.npz")
    check_format(out, (".npz", *TABLES))
    if draws is not None:
        check_range("draws", draws, 1, MOST_IMAGES)
        needs(Inferring, run)
    model, on_device = needs(Coded, run), joined(on)
    run.model.to(on_device)
    names, batch = named_images(sources, run.spec, run.config.data, split, seed)
    labels = labels_of(run, label, batch.labels, len(names))

    def codes_of(few: Batch) -> Tensor:
        few = few.to(on_device)
        given = run.model.given(few)
        if not draws:
            return model.center(few.images, **given).cpu()
        noise = torch.Generator().manual_seed(number_of(few.images[0], seed))
        return needs(Inferring, run).encode(few.images, draws, noise, **given).cpu()

    with reporting(f"encoding with {run.name}") as report, torch.no_grad():
        parts: list[Tensor] = []
        pieces = list(batch._replace(labels=labels).split(1 if draws else IMAGES_AT_ONCE))
        for part in spread(pieces, codes_of):
            parts.append(part)
            report(len(parts) / len(pieces))
    leave_to_first()
    codes = torch.cat(parts, dim=1 if draws else 0)
    if not codes.isfinite().all():
        raise UserError("a code is not finite; train again with a lower --learning-rate")
    if out.suffix == ".npz":
        also = {} if labels is None else {"labels": labels.numpy()}
        save_arrays(out, codes=codes.numpy(), names=np.array(names), **also)
        return out
    write_table(
        [
            {
                "name": name,
                **({} if labels is None else {"label": int(labels[place])}),
                **({"draw": draw} if draws else {}),
                **{f"z{dimension}": value for dimension, value in enumerate(code)},
            }
            for draw, of_draw in enumerate((codes if draws else codes[None]).tolist())
            for place, (name, code) in enumerate(zip(names, of_draw, strict=True))
        ],
        out,
    )
    return out


def decode_codes(
    path: Path,
    codes: Path,
    seed: int,
    out: Path | None = None,
    on: str = "auto",
    label: str | None = None,
) -> Path:
    """Decode the codes that `encode_images` wrote, and save the images one by one, or in an .npz file.

    By default, they go into the directory ``decoded`` of the run. ``seed`` is that of the noise of pixels, if
    the model draws them. A conditional model decodes a code as an image of the class ``label``, by default of
    the label that it was encoded with.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    run = Run(path)
    out = out or run.place_for("decoded")
    if is_grid(out):
        raise UserError(
            f"{out} is a picture, and decoded images are saved one by one; choose a directory or .npz"
        )
    model, on_device = needs(Coded, run), device(on)
    names, z, own = _read_codes(codes, run, label)
    labels = labels_of(run, label, own, len(z))
    run.model.to(on_device)
    noise = torch.Generator().manual_seed(seed)
    with reporting(f"decoding with {run.name}") as report, torch.no_grad():
        parts: list[Tensor] = []
        done = 0
        for few in z.split(IMAGES_AT_ONCE):
            given = labelled(None if labels is None else labels[done : done + len(few)].to(on_device))
            parts.append(model.decode(few.to(on_device), noise, **given).cpu())
            done += len(few)
            report(done / len(z))
    save_images({"images": _finite(run, torch.cat(parts))}, names, out)
    return out


def _read_codes(path: Path, run: Run, label: str | None) -> tuple[list[str], Tensor, Tensor | None]:
    """Read names, codes [N, D] and labels, if any, of an .npz file; of several draws, names are DRAW/NAME."""
    if path.suffix.lower() in (".csv", ".json", ".parquet"):
        raise UserError(
            f"{path} is a table, and decode reads .npz; write the codes with: flowvae encode {run.path} "
            "IMAGES --out codes.npz"
        )
    try:
        arrays = read_arrays(path, {"codes": NUMBERS, "names": "U", "labels": "iu"})
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; write it with: flowvae encode {run.path} IMAGES --out {path}"
        ) from None
    if "codes" not in arrays:
        raise UserError(
            f"{path} has no array codes; write it with: flowvae encode {run.path} IMAGES --out {path}"
        )
    codes = torch.from_numpy(arrays["codes"].astype(np.float32))
    blank = labelled(torch.zeros(1, dtype=torch.int64) if run.model.conditional else None)
    dimension = needs(Coded, run).center(torch.zeros(1, *run.spec.shape), **blank).shape[1]
    if codes.ndim not in (2, 3) or codes.shape[-1] != dimension or not codes.numel():
        raise UserError(
            f"{path} has codes of shape {tuple(codes.shape)}; {run.path} decodes [N, {dimension}] or "
            f"[S, N, {dimension}]"
        )
    names = arrays["names"].tolist() if "names" in arrays else _numbers(codes.shape[-2])
    if not isinstance(names, list) or len(names) != codes.shape[-2] or not codes.isfinite().all():
        raise UserError(f"{path} needs one name per code and codes that are finite; encode the images again")
    labels = torch.from_numpy(arrays["labels"].astype(np.int64)) if "labels" in arrays else None
    if labels is not None and tuple(labels.shape) != (len(names),):
        raise UserError(f"{path} needs one label per code; encode the images again")
    if codes.ndim == 3:
        names = [f"{draw}/{name}" for draw in _numbers(len(codes)) for name in names]
        labels = None if labels is None else labels.repeat(len(codes))
    return [str(name) for name in names], codes.flatten(0, -2), labels


@contextmanager
def reporting(what: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that shows the finished fraction on standard error.

    A terminal shows a bar; otherwise a line is written every half minute.
    """
    console = Console(stderr=True)
    if not is_first():
        yield lambda done: None
        return
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(what, total=1.0)
            yield lambda done: progress.update(task, completed=done)
        return
    last = time.monotonic()

    def report(done: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done:.0%}", file=sys.stderr, flush=True)

    yield report


def warn(name: str, evaluation: Mapping[str, Any]) -> None:
    """Print a warning to standard error if the -log p(x) of an evaluation cannot be trusted."""
    if said := caveat(evaluation):
        print(f"flowvae: warning: {name}: {said}", file=sys.stderr)


def picture_samples(
    path: Path,
    num_images: int,
    seed: int,
    out: Path | None = None,
    show: str = "samples",
    data: str | None = None,
    label: str | None = None,
) -> str:
    """Draw samples from the model and save them: as a grid, one by one in a directory, or in an .npz file.

    Args:
        path: directory of the run.
        num_images: number of samples.
        seed: random seed for the samples.
        out: see `flowvae.image_files.is_grid`; by default, a grid in the directory of the run.
        show: ``"samples"``; ``"crossed"``: images in a column share a code, images in a row the noise that
            draws their pixels; ``"nearest"``: each sample above its nearest training image; ``"classes"``:
            images in a row share a class, images in a column the noise.
        data: another data set or path to take the training images from.
        label: class of all samples of a conditional model; by default, each class is as probable.

    Returns:
        What to print: the path, and what the samples are.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("images", num_images, 1, MOST_IMAGES)
    run = Run(path)
    out = out or run.place_for(f"{show}.png")
    grid = is_grid(out)
    model, noise = needs(Sampler, run), torch.Generator().manual_seed(seed)
    labels = None if label is None else labels_of(run, label, None, num_images)
    kind = "draws from p(x)" if model.draws else "means of p(x|z)"
    if labels is not None or show == "classes":
        kind = "draws from p(x|y)" if model.draws else "means of p(x|y, z)"
    if show == "crossed":
        images = _crossed(run, num_images, noise, labels)
    elif show == "classes":
        images = _of_classes(run, num_images, seed, label)
    else:
        images = model.sample(num_images, noise, **labelled(labels))
    images = _finite(run, images)
    groups = {"images": images}
    if show == "nearest":
        dataset = run.read_dataset(data)
        training, levels = dataset.train.images, dataset.training_levels
        groups["nearest"] = as_float(training[nearest(images, training, levels=levels).indices[:, 0]], levels)
    if not grid:
        save_images(groups, _numbers(num_images), out, kind=kind)
    elif show == "nearest":
        _save_pairs("samples, each above its nearest training image", images, groups["nearest"], out)
    else:
        title = {"crossed": "columns share a code, rows share the noise", "classes": "a row per class"}
        columns = len(images) // run.model.classes if show == "classes" else 10
        figures.save_panels({title.get(show, ""): images}, out, columns=columns)
    return f"{out}: {kind}"


def _numbers(count: int) -> list[str]:
    """Name images by their numbers, so that names sort as the images do."""
    width = len(str(count - 1))
    return [f"{number:0{width}}" for number in range(count)]


@torch.no_grad()
def _of_classes(run: Run, num_images: int, seed: int, label: str | None) -> Tensor:
    """Draw as many samples of each class, from the same noise."""
    classes = run.model.classes
    if not run.model.conditional or label is not None:
        why = f"{run.path} is not conditional on labels" if label is None else "--label chooses one class"
        raise UserError(f"{why}, and --show classes needs the samples of all; choose --show samples")
    number = num_images // classes
    if not number:
        raise UserError(f"images is {num_images}; --show classes needs at least {classes}, one per class")
    return torch.cat(
        [
            needs(Sampler, run).sample(
                number, torch.Generator().manual_seed(seed), labels=torch.full((number,), each)
            )
            for each in range(classes)
        ]
    )


@torch.no_grad()
def _crossed(run: Run, num_images: int, noise: torch.Generator, labels: Tensor | None) -> Tensor:
    """Decode the same ten codes in every row, with different noise for each row."""
    model = needs(Inferring, run)
    if model.pixel_noise is None:
        raise UserError(
            f"{run.path} shows means of p(x|z), which have no pixel noise; --show crossed needs an "
            "autoregressive likelihood"
        )
    columns = 10
    rows = math.ceil(num_images / columns)
    like = next(run.model.parameters())
    own = run.model.labels_to_sample(columns, None if labels is None else labels[:columns], noise, like)
    codes = model.sample_codes(columns, noise, **labelled(own)).repeat(rows, 1)
    given = labelled(None if own is None else own.repeat(rows))
    of_rows = torch.rand(rows, *model.pixel_noise, generator=noise)
    return model.decode(codes, of_rows.repeat_interleave(columns, 0), **given)[:num_images]


def picture_reconstructions(
    path: Path, num_images: int | None, seed: int, out: Path | None = None, data: str | None = None
) -> Path:
    """Save test images with their reconstructions: as rows of a grid, in a directory, or in an .npz file."""
    run = Run(path)
    out = out or run.place_for("reconstructions.png")
    grid = is_grid(out)
    model = needs(Coded, run)
    if num_images is None:
        num_images = _up_to(USUAL_RECONSTRUCTED, [run], data)
    found = test_images(run, num_images, seed, data)
    names, images = found.names, found.images
    labels = labels_of(run, None, found.batch.labels, num_images)
    given = run.model.given(found.batch._replace(labels=labels))
    with torch.no_grad():
        noise = torch.Generator().manual_seed(seed)
        reconstructed = _finite(run, model.reconstruct(images, noise, **given))
    if grid:
        _save_pairs("test images, each above its reconstruction", images, reconstructed, out)
    else:
        save_images({"images": images, "reconstructions": reconstructed}, names, out)
    return out


def picture_interpolations(
    compared: Sequence[Path],
    pairs: int | None,
    steps: int,
    seed: int,
    out: Path | None = None,
    data: str | None = None,
    keep_label: bool = False,
) -> Path:
    """Save interpolations between the same test images for each run; by default up to 8.

    With ``keep_label``, both ends of a path have the same label. Otherwise, a conditional model decodes the
    first half of a path with the label of its start, and the other half with that of its end.

    They stand side by side in a grid, or one by one in a directory or an .npz file, named by pair and step.
    """
    panels, opened = {}, [Run(path) for path in compared]
    check_range("steps", steps, 2, MOST_IMAGES)  # both ends are among them
    if pairs is None:
        pairs = _up_to(2 * USUAL_PAIRS, opened, data, least=2) // 2
    check_range("pairs", pairs, 1, MOST_IMAGES)
    check_range("pairs times steps", pairs * steps, 1, MOST_IMAGES)
    out = out or opened[0].place_for("interpolations.png")
    grid = is_grid(out)
    for title, run in zip(titles(compared), opened, strict=True):
        chosen = (_same_label if keep_label else test_images)(run, 2 * pairs, seed, data)
        ends, model = chosen.images, needs(Coded, run)
        labels = labels_of(run, None, chosen.batch.labels, 2 * pairs)
        given = run.model.given(chosen.batch._replace(labels=labels))
        both = (at(given, slice(pairs)), at(given, slice(pairs, None))) if given else None
        noise = torch.Generator().manual_seed(seed)
        path = interpolate(model, ends[:pairs], ends[pairs:], steps, noise, both)
        panels[title] = _finite(run, path.flatten(0, 1))
    if grid:
        figures.save_panels(panels, out, columns=steps)
    else:
        groups = panels if len(panels) > 1 else dict(zip(["images"], panels.values(), strict=True))
        save_images(groups, [f"{pair}-{step}" for pair in _numbers(pairs) for step in _numbers(steps)], out)
    return out


def export_run(path: Path, format: str, out: Path | None = None) -> list[Path]:
    """Write the run's model into ``out``, as ONNX graphs ("onnx") or for the Hugging Face hub ("hub")."""
    run = Run(path)
    out = out or run.place_for(format)
    if format == "hub":
        return save_pretrained(path, out)
    return export_onnx(run.model, run.spec.shape, out)


def run_demo(minutes: float, out: Path) -> None:
    """Train ``vae`` and ``realnvp-2``, evaluate them, and write their table and pictures into ``out``."""
    if out.exists():
        raise UserError(f"{out} already exists; choose another --out, or remove it")
    trained = [out / name for name in ("vae", "realnvp-2")]
    for run in trained:
        if not train(run, preset(run.name).revised(minutes=minutes)):
            raise KeyboardInterrupt
    for run in trained:
        evaluate_run(run, num_samples=100, num_images=1000)
        picture_samples(run, 100, 0)
        picture_reconstructions(run, 50, 0)
    picture_interpolations(trained, 8, 10, 0, out / "interpolations.png")
    figures.save_curves({run.name: runs.read_metrics(run) for run in trained}, out / "curves.png")
    rows = collect(trained)
    for name in ("table.md", "table.json"):
        write_table(rows, out / name)
    print(markdown(rows), end="")
    for path in sorted(out.rglob("*.png")) + sorted(out.glob("table.*")):
        print(path)


def test_images(run: Run, count: int, seed: int, data: str | None) -> Named:
    """Choose random images from the test split of a run's data, or of another source."""
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("images", count, 1, MOST_IMAGES)
    dataset = run.read_dataset(data)
    available = len(dataset.test.images)
    if count > available:
        raise UserError(
            f"{count} test images are needed; {dataset.name} has {available}: choose fewer --images or "
            "--pairs, or another source with --data"
        )
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    return _of_test(dataset, chosen)


def _of_test(dataset: Dataset, places: Tensor) -> Named:
    return Named([f"test/{place}" for place in places.tolist()], dataset.batch("test", places))


def _same_label(run: Run, count: int, seed: int, data: str | None) -> Named:
    """Choose random pairs of test images with the same label: first images of all pairs, then second ones."""
    check_range("seed", seed, 0, LARGEST_SEED)
    dataset, pairs = run.read_dataset(data), count // 2
    labels = dataset.test.labels
    if labels is None:
        raise UserError(f"the test images of {dataset.name} have no labels; omit --keep-label")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    waiting: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for place in order:
        label = int(labels[place])
        if label in waiting:
            found.append((waiting.pop(label), place))
        elif label >= 0:
            waiting[label] = place
    if len(found) < pairs:
        raise UserError(
            f"{dataset.name} has {len(found)} pairs of test images with the same label; choose fewer --pairs"
        )
    return _of_test(dataset, torch.tensor(found[:pairs]).t().flatten())


def _finite(run: Run, images: Tensor) -> Tensor:
    """Refuse images with NaN, which a picture would show as blank: finite weights can overflow."""
    if not images.isfinite().all():
        raise UserError(
            f"the model of {run.path} generates images that are not finite; train again with a lower "
            "--learning-rate"
        )
    return images


def _up_to(usual: int, compared: Sequence[Run], data: str | None, least: int = 1) -> int:
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


def _save_pairs(title: str, above: Tensor, below: Tensor, out: Path) -> None:
    """Save rows of images, each row above the row of their counterparts."""
    columns = min(10, len(above))
    blank = above.new_full((-len(above) % columns, *above.shape[1:]), torch.nan)  # ends the last rows
    pairs = zip(
        torch.cat([above, blank]).split(columns), torch.cat([below, blank]).split(columns), strict=True
    )
    figures.save_panels({title: torch.cat([row for pair in pairs for row in pair])}, out, columns, together=2)
