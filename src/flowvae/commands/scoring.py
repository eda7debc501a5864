"""`flowvae score`: the likelihood of each image."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowvae import runs
from flowvae.batch import Batch
from flowvae.commands.continuing import Kept, continued
from flowvae.commands.evaluating import key_of, warn
from flowvae.commands.progress import reporting
from flowvae.data.named import named_images, numbers_of
from flowvae.errors import UserError, check_range
from flowvae.evaluation import MEASURES, Finished, score
from flowvae.evaluation.reliability import weight_diagnostics
from flowvae.models import Bounded, Scored
from flowvae.parts import LARGEST_SEED
from flowvae.processes import joined, leave_to_first, spread
from flowvae.runs import Run
from flowvae.runs.capability import labels_of, needs
from flowvae.runs.scores import scores_of
from flowvae.runs.table import check_format, comma_separated, read_evaluation, write_table

IMAGES_SCORED = 16  # one by one, so that progress is seen


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
    with continued(None if out is None else _unfinished(run, batch, num_samples, seed, out)) as kept:
        scores = _scored(run, batch, num_samples, seed, kept)
        leave_to_first()
        marginal = run.model.conditional and label is None
        whole = batch.observed is None
        if (tested := _test_nll(run, "marginal_nll" if marginal else "nll", whole)) is not None:
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
    return f"{out}\n"


def _unfinished(run: Run, batch: Batch, num_samples: int, seed: int, out: Path) -> Path:
    """Return the file beside ``out`` for scores of a part of the images."""
    given = () if batch.labels is None else tuple(batch.labels.tolist())
    content = hashlib.sha256(numbers_of(batch).numpy().tobytes()).hexdigest()
    key = key_of(run, num_samples, seed, content, *given)
    return out.with_name(f"{out.name}.{key}.unfinished.safetensors")


def _scored(run: Run, batch: Batch, num_samples: int, seed: int, kept: Kept) -> dict[str, Tensor]:
    """Score the images that are not yet ``kept``, in pieces; return the scores of all."""
    content = numbers_of(batch)
    scores = {} if kept.latest is None else dict(kept.latest.scores)
    done = len(scores["content"]) if scores else 0
    if scores and not torch.equal(scores["content"], content[:done]):
        raise UserError(f"{kept.path} has scores of other images; remove it")

    def scores_of_few(few: Batch) -> dict[str, Tensor]:
        noise = torch.Generator().manual_seed(seed)
        return score(run.model, few.images, num_samples, noise, **run.model.given(few))

    with reporting(f"scoring with {run.name}") as report:
        for new in spread(list(batch.at(slice(done, None)).split(IMAGES_SCORED)), scores_of_few):
            after = done + len(new["nll"])
            new = {**new, "content": content[done:after], "index": torch.arange(done, after)}
            scores = {name: torch.cat([scores[name], new[name]]) if scores else new[name] for name in new}
            done = after
            kept(Finished(scores, torch.empty(0, dtype=torch.uint8)))
            report(done / len(content))
    return {name: scores[name] for name in MEASURES if name in scores}


def _test_nll(run: Run, name: str, whole: bool) -> Tensor | None:
    """Return the scores ``name`` of the test images that the run was evaluated on, sorted; None if absent.

    Also None if those were whole images and the scored ones are not ``whole``, or the reverse: fewer pixels
    cost less.
    """
    if not (run.path / runs.EVALUATION).exists():
        return None
    evaluation = read_evaluation(run)
    found = scores_of(run, evaluation) if evaluation.get("split") == "test" else None
    if found is None or name not in found or ("observed" not in found) != whole:
        return None
    return found[name].sort().values
