"""The share of a batch that one process computes, so that several together compute what one would."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor

from flowvae.batch import Batch


class Share(NamedTuple):
    """Every ``step``-th of the ``whole`` images of a batch, from the ``first`` on.

    >>> Share(first=1, step=3, whole=8).count, Share(1, 3, 8).of(torch.arange(8))
    (3, tensor([1, 4, 7]))
    """

    first: int
    step: int
    whole: int

    @property
    def count(self) -> int:
        """Number of the share's images."""
        return self.count_of(self.whole)

    def count_of(self, number: int) -> int:
        """Return how many of ``number`` things are the share's."""
        return len(range(self.first, number, self.step))

    @property
    def weight(self) -> float:
        """Weight of a mean over the share's images in the mean over the batch."""
        return self.count / self.whole

    def of(self, values: Tensor, axis: int = 0) -> Tensor:
        """Return the share's entries along an axis."""
        return values[(slice(None),) * (axis % values.ndim) + (slice(self.first, None, self.step),)]


class ProcessEndedError(RuntimeError):
    """Another process has ended, and so nothing can be computed together with it."""


class SeparateError(RuntimeError):
    """A mean over a batch is needed of which some images are computed at another time."""


ALL = Share(0, 1, 1)
_share: Share | None = None


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Inside, the functions of this module are given the images of ``share``; with None, those of all."""
    global _share
    before, _share = _share, None if share is None or share.step == 1 else share
    try:
        yield
    finally:
        _share = before


def current() -> Share | None:
    """Return the share; None if it is everything."""
    return _share


def whole_of(count: int) -> int:
    """Return the number of the batch's images, or of several of each, of which the share has ``count``."""
    return count if _share is None else count // _share.count * _share.whole


def count_of(number: int) -> int:
    """Return how many of ``number`` things, such as the first images of a batch, are the share's."""
    return number if _share is None else _share.count_of(number)


def part_of(values: Tensor, axis: int = 0) -> Tensor:
    """Return the share's entries along an axis."""
    return values if _share is None else _share.of(values, axis)


def drawn(draw: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...], axis: int | None) -> Tensor:
    """Return ``draw(shape)``, where ``axis`` has the images of a share, or these several times over.

    All processes draw for the whole batch, so an image has the same numbers whatever process it is in, and
    generators stay in step. Without an axis, all draw the same.
    """
    if _share is None or axis is None:
        return draw(shape)
    times = shape[axis] // _share.count
    values = draw((*shape[:axis], times * _share.whole, *shape[axis + 1 :]))
    return _share.of(values.unflatten(axis, (times, _share.whole)), axis + 1).flatten(axis, axis + 1)


def mean_of(values: Tensor, number: int) -> Tensor:
    """Compute a share's part of the mean over ``number`` values of all shares, a scalar.

    The mean over shares, each with its weight, is the mean of all values. If each image has as many values as
    any other, that of the share's own values is the same.
    """
    return values.mean() if _share is None else values.sum() / (number * _share.weight)


def total(values: Tensor) -> Tensor:
    """Compute a share's part of the sum over the values of a batch, a scalar, as in `mean_of`."""
    return values.sum() if _share is None else values.sum() / _share.weight


def overall(mean: Tensor) -> Tensor:
    """Compute the mean over a batch, with its gradient, from the mean over a share's images.

    For functions of the mean that are not means themselves. All processes must call it.

    Raises:
        SeparateError: if the images of all processes are not all of the batch, as it passes in portions.
    """
    if _share is None:
        return mean
    if _share.step != processes()[1]:
        raise SeparateError
    return _Overall.apply(mean, _share.weight)


def var_mean(values: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Compute variance, without Bessel's correction, and mean over a batch, with their gradients.

    ``axes``: that of the images, and others.
    """
    variance, mean = torch.var_mean(values, dim=list(axes), correction=0)
    if _share is None:
        return variance, mean
    of_all = overall(mean)
    return overall(variance + (mean - of_all).square()), of_all


class _Overall(torch.autograd.Function):
    """``sum weight x`` over processes.

    Losses are weighted before they are differentiated, so the gradients that come back are already.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return reduced(mean * weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # one output
        return ctx.weight * reduced(gradient.clone()), None


def processes() -> tuple[int, int]:
    """Return the rank of this process, and the number of processes that work together."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def everyones(mine: Any) -> list[Any]:
    """Return what each process calls this with, by rank.

    Raises:
        ProcessEndedError: if another process has ended.
    """
    _, number = processes()
    if number == 1:
        return [mine]
    found: list[Any] = [None] * number
    with _together():
        torch.distributed.all_gather_object(found, mine)
    return found


def measured(batch: Batch, measure: Callable[[Batch], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return ``measure(batch)``, numbers per image, [B] each, of a batch that the processes share."""
    rank, number = processes()
    share = Share(rank, number, len(batch.images))
    if share.whole < number or number == 1:
        return dict(measure(batch))
    with sharing(share):
        mine = measure(batch.at(slice(share.first, None, share.step)))
    parts = everyones({name: values.cpu() for name, values in mine.items()})
    of_all = {name: values.new_zeros(share.whole) for name, values in parts[0].items()}
    for first, part in enumerate(parts):
        for name, values in part.items():
            share._replace(first=first).of(of_all[name]).copy_(values)
    return of_all


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of any backend, with a message about sockets
        raise ProcessEndedError(str(error)) from error


def reduced(values: Tensor, largest: bool = False) -> Tensor:
    """Replace values by their sum, or their ``largest``, over processes, and return them.

    Raises:
        ProcessEndedError: if another process has ended.
    """
    operation = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
    with _together():
        torch.distributed.all_reduce(values, operation)
    return values
