"""`flowvae classify`: the class of each image."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowvae.batch import Batch
from flowvae.commands.limits import IMAGES_AT_ONCE, TABLES
from flowvae.commands.progress import reporting
from flowvae.commands.scoring import IMAGES_SCORED
from flowvae.data.named import named_images
from flowvae.errors import UserError, check_range
from flowvae.evaluation import classify
from flowvae.models import Classifying
from flowvae.parts import LARGEST_SEED, MOST
from flowvae.processes import joined, leave_to_first, spread
from flowvae.runs import Run
from flowvae.runs.capability import needs
from flowvae.runs.files import check_not_read
from flowvae.runs.table import check_format, comma_separated, write_table


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
        check_not_read(out, sources)
    run = Run(path)
    check_range("samples", num_samples, 1, MOST)
    if not run.model.conditional:
        needs(Classifying, run)
    run.model.to(joined(on))
    noise = torch.Generator().manual_seed(seed)

    def classes_of(batch: Batch) -> Tensor:
        return classify(run.model, batch.images, num_samples, noise, **run.model.given(batch))

    found = named_images(sources, run.spec, run.config.data, split, seed)
    with reporting(f"classifying with {run.name}") as report:
        parts: list[Tensor] = []
        pieces = list(found.batch.split(IMAGES_SCORED if run.model.conditional else IMAGES_AT_ONCE))
        for part in spread(pieces, classes_of):
            parts.append(part)
            report(len(parts) / len(pieces))
    leave_to_first()
    log_class = torch.cat(parts)
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


def _class_names(run: Run, count: int) -> Sequence[str | int]:
    """Return the names of the classes in the run's data, or their numbers."""
    with contextlib.suppress(UserError):  # the data may not be on this machine
        if len(run.dataset.classes) == count:
            return run.dataset.classes
    return range(count)
