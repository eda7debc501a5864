"""The scores of single images that an evaluation keeps, and differences between runs on the same images."""

import math
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from flowvae.errors import UserError
from flowvae.runs.files import as_safetensors, read_bytes, reason, replacing
from flowvae.runs.folder import SCORES, Run

Scores = Mapping[str, Tensor]
"""by name, [N] each: ``index`` of an image in its split, ``content`` (a number made of its pixels), both
int64, and float64 measures such as ``nll``"""
RANDOM = "random"
"""name of the state of the random numbers, beside the scores of an unfinished evaluation"""


def write_scores(run: Run, scores: Scores, name: str = SCORES) -> None:
    """Write the scores of single images into the directory of a run."""
    _write(run.path / name, scores)


def read_scores(run: Run, name: str = SCORES) -> Scores | None:
    """Read what `write_scores` wrote; None if the run has no such file.

    Raises:
        UserError: if it is damaged.
    """
    path = run.path / name
    tensors = _read(path)
    return None if tensors is None else _checked(path, tensors)


def write_unfinished(path: Path, scores: Scores, random: Tensor) -> None:
    """Write the scores of a part of the images, and the state of the random numbers after it, uint8."""
    _write(path, {**scores, RANDOM: random})


def read_unfinished(path: Path) -> tuple[Scores, Tensor] | None:
    """Read what `write_unfinished` wrote; None if there is no such file.

    Raises:
        UserError: if it is damaged.
    """
    tensors = _read(path)
    if tensors is None:
        return None
    random = tensors.pop(RANDOM, None)
    if random is None or random.dtype != torch.uint8:
        raise UserError(f"{path} is not an unfinished evaluation; remove it")
    return _checked(path, tensors), random


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as partial:
        partial.write_bytes(as_safetensors(tensors))


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        return safetensors.torch.load(read_bytes(path))
    except FileNotFoundError:
        return None
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path} is damaged ({reason(error)}); remove it and evaluate the run again"
        ) from None


def _checked(path: Path, scores: Scores) -> Scores:
    kinds = {"index": torch.int64, "content": torch.int64}
    fits = all(
        each.dim() == 1
        and len(each) == len(next(iter(scores.values())))
        and each.dtype == kinds.get(name, torch.float64)
        and (name == "pareto_k" or bool(each.isfinite().all()))
        for name, each in scores.items()
    )
    if not fits or not {"index", "content"} <= scores.keys() or not len(scores["index"]):
        raise UserError(
            f"{path} does not contain scores of single images; remove it and evaluate the run again"
        )
    return scores


def scores_of(run: Run, evaluation: Mapping[str, object], name: str = SCORES) -> Scores | None:
    """Read the scores that an evaluation of the run is the average of; None if there are none."""
    scores = read_scores(run, name)
    if scores is None or "nll" not in scores or len(scores["nll"]) != evaluation.get("images"):
        return None
    mean = evaluation.get("nll")
    if not isinstance(mean, int | float) or abs(mean) >= 2**63:  # more than a float can hold
        return None
    return scores if math.isclose(scores["nll"].mean().item(), mean, rel_tol=1e-9) else None


def paired(first: Scores, other: Scores) -> tuple[Scores, Scores] | None:
    """Return the scores of the images that both have, in the same order; None if there are none.

    >>> one = {"index": torch.tensor([4, 2, 7]), "content": torch.tensor([40, 20, 70])}
    >>> other = {"index": torch.tensor([7, 4]), "content": torch.tensor([70, 40])}
    >>> paired(one, other)[0]["index"]
    tensor([7, 4])
    """
    places = {pair: place for place, pair in enumerate(_identities(first))}
    both = [(places[pair], place) for place, pair in enumerate(_identities(other)) if pair in places]
    if not both:
        return None
    mine, others = map(list, zip(*both, strict=True))
    return (
        {name: values[mine] for name, values in first.items()},
        {name: values[others] for name, values in other.items()},
    )


def _identities(scores: Scores) -> list[tuple[int, int]]:
    return list(zip(scores["index"].tolist(), scores["content"].tolist(), strict=True))


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
