"""Measurements of many images, batch by batch, which can be stopped and continued to the same numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowvae.batch import Batch
from flowvae.data.named import numbers_of
from flowvae.errors import UserError

NOT_CONTINUED = (
    "the unfinished evaluation is damaged or of another model; remove it "
    "(in a run: scores-*.unfinished.safetensors)"
)


class Finished(NamedTuple):
    """What an evaluation has measured so far, with which another continues it."""

    scores: dict[str, Tensor]
    """by name, [N] each: ``index`` in the split and ``content`` (a number made of the pixels), both int64,
    and float64 measures"""
    random: Tensor
    """state of the random number generator after these images, uint8"""


def in_batches(
    batch_of: Callable[[Tensor], Batch],
    places: Sequence[Tensor],
    measure: Callable[[Batch], Mapping[str, Tensor]],
    device: torch.device,
    seed: int,
    report: Callable[[float], None],
    keep: Callable[[Finished], None],
    finished: Finished | None = None,
) -> dict[str, Tensor]:
    """Measure each image of the batches at ``places``, in their order.

    Seeds torch's own generator, from which measurements draw.

    Args:
        batch_of: returns the images at positions, int64 [B].
        places: positions of the images of each batch, at least one.
        measure: returns numbers per image, [B] each, of a batch on the ``device``.
        device: that of the model.
        seed: of all random numbers.
        report: called with the finished fraction.
        keep: called after each batch with all that is measured so far.
        finished: what ``keep`` was called with last. If it is of the same images, it is continued.

    Returns:
        Numbers per image by name, with ``index`` and ``content``, as in `Finished`.

    Raises:
        UserError: if ``finished`` is damaged, or has other numbers.
    """
    random: Any = torch if device.type == "cpu" else torch.get_device_module(device)
    own = () if device.type in ("cpu", "mps") else (device,)  # several may have a generator each
    total = sum(map(len, places))
    torch.manual_seed(seed)
    parts: list[dict[str, Tensor]] = []
    done = 0
    if finished is not None:
        done = _batches_of(finished, batch_of, places)
    if finished is not None and done:
        try:
            random.set_rng_state(finished.random, *own)
        except RuntimeError:
            raise UserError(NOT_CONTINUED) from None
        parts = [finished.scores]
    for few in places[done:]:
        batch = batch_of(few)
        content = numbers_of(batch)
        measured = {name: values.double().cpu() for name, values in measure(batch.to(device)).items()}
        parts.append({"index": few, "content": content, **measured})
        if parts[0].keys() != parts[-1].keys():
            raise UserError(NOT_CONTINUED)
        parts = [{name: torch.cat([part[name] for part in parts]) for name in parts[-1]}]
        keep(Finished(parts[0], random.get_rng_state(*own)))
        report(len(parts[0]["index"]) / total)
    return parts[0]


def _batches_of(finished: Finished, batch_of: Callable[[Tensor], Batch], places: Sequence[Tensor]) -> int:
    """Return how many of the batches are finished; 0 if what is finished does not consist of these."""
    count, done = len(finished.scores["index"]), 0
    while done < len(places) and sum(map(len, places[:done])) < count:
        done += 1
    expected = places[:done]
    if not done or not torch.equal(finished.scores["index"], torch.cat(list(expected))):
        return 0
    content = torch.cat([numbers_of(batch_of(each)) for each in expected])
    return done if torch.equal(finished.scores["content"], content) else 0
