"""The scores of single images that an evaluation keeps, and differences between runs on the same images."""

import math
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from flowvae.errors import UserError
from flowvae.runs.files import read_bytes, reason, replacing
from flowvae.runs.folder import SCORES, Run

Scores = Mapping[str, Tensor]
"""by name, [N] each: ``index`` of an image in its split, ``content`` (a number made of its pixels), both
int64, and float64 measures such as ``nll``"""


def write_scores(run: Run, scores: Scores) -> None:
    """Write the scores of single images into the directory of a run."""
    with replacing(run.path / SCORES) as partial:
        partial.write_bytes(
            safetensors.torch.save({name: each.contiguous() for name, each in scores.items()})
        )


def read_scores(run: Run) -> Scores | None:
    """Read what `write_scores` wrote; None if the run has no such file.

    Raises:
        UserError: if it is damaged.
    """
    path = run.path / SCORES
    try:
        scores = safetensors.torch.load(read_bytes(path))
    except FileNotFoundError:
        return None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged ({reason(error)}); evaluate the run again") from None
    kinds = {"index": torch.int64, "content": torch.int64}
    fits = all(
        each.dim() == 1
        and len(each) == len(next(iter(scores.values())))
        and each.dtype == kinds.get(name, torch.float64)
        and (name == "pareto_k" or bool(each.isfinite().all()))
        for name, each in scores.items()
    )
    if not fits or not {"index", "content"} <= scores.keys() or not len(scores["index"]):
        raise UserError(f"{path} does not contain scores of single images; evaluate the run again")
    return scores


def scores_of(run: Run, evaluation: Mapping[str, object]) -> Scores | None:
    """Read the scores that an evaluation of the run is the average of; None if there are none."""
    scores = read_scores(run)
    if scores is None or "nll" not in scores or len(scores["nll"]) != evaluation.get("images"):
        return None
    mean = evaluation.get("nll")
    same = isinstance(mean, int | float) and math.isclose(scores["nll"].mean().item(), mean, rel_tol=1e-9)
    return scores if same else None


def difference(first: Scores, other: Scores) -> dict[str, float]:
    """Mean of other's minus first's -log p(x) in nats, over the same images, and its standard error.

    >>> one = {"nll": torch.tensor([80.0, 90.0, 100.0])}
    >>> difference(one, {"nll": one["nll"] + torch.tensor([-1.0, -2.0, -3.0])})["nll_difference"]
    -2.0
    """
    differences = other["nll"] - first["nll"]
    found = {"nll_difference": differences.mean().item()}
    if len(differences) > 1:  # one value does not vary
        found["nll_difference_standard_error"] = differences.std().item() / math.sqrt(len(differences))
    return found
