"""Bounds and estimates of log p(x), streamed: of all samples only the largest weights are kept."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Unpack, cast

import torch
from torch import Tensor

from flowvae.batch import Given
from flowvae.densities import LogDensities
from flowvae.errors import check_range, check_some
from flowvae.evaluation.pareto import pareto_k, tail_length
from flowvae.models import Bounded, Scored
from flowvae.noise import Noise
from flowvae.parts import MOST
from flowvae.shares import whole_of

CHUNK = 256
"""Pairs of image and sample at once. Maps of 128 channels and 14 x 14 places are then below the 32 MiB of
`keep_freed_memory`, above which memory comes anew each time."""


class Bounds(NamedTuple):
    """Per image, in nats, [B]: averages over S posterior samples, and the importance-weighted estimate."""

    negative_elbo: Tensor
    """``-E_q[log p(x, z) - log q(z|x)]``"""
    negative_log_marginal: Tensor
    """``-log (1/S) sum_s p(x, z_s) / q(z_s|x)``, an upper bound on -log p(x) in expectation"""
    reconstruction: Tensor | None = None
    """``-E_q log p(x|z)``, of a model with a code"""
    kl: Tensor | None = None
    """``E_q[log q(z|x) - log p(z)]``, of a model with a code"""
    effective_sample_size: Tensor | None = None
    """``(sum_s w_s)^2 / sum_s w_s^2`` of the weights ``w_s = p(x, z_s) / q(z_s|x)``, 1 to S (Kish 1965)"""
    pareto_k: Tensor | None = None
    """how heavy the tail of the weights is (see `flowvae.evaluation.pareto`); NaN where it cannot be told"""


@torch.no_grad()
def bounds(
    model: Bounded,
    images: Tensor,
    num_samples: int,
    chunk: int = CHUNK,
    noise: Noise = None,
    **given: Unpack[Given],
) -> Bounds:
    """Score images [B, C, H, W] with S posterior samples each, at most ``chunk`` pairs of the two at once.

    The samples of a dequantized density are draws of its noise. ``given``: labels, or which pixels are
    observed, if the model takes them (see `Model.given`).

    The embedding is computed once per image. Call it in ``eval()`` mode: a batch norm in training mode would
    make each density depend on the whole batch.

    Raises:
        UserError: if there are no samples or images, or the model does not take these images.
    """
    check_range("num_samples", num_samples, 1, MOST)
    return joined(
        accumulated(model.draws_for(few, noise, **rest), num_samples, max(1, chunk // whole_of(len(few))))
        for few, rest in pieces(images, chunk, given)
    )


def at(given: Given, places: slice, device: torch.device | None = None) -> Given:
    """Return what is given for some of the images, on a device; by default, where it is. None is nothing."""
    found = {name: cast(Tensor, values) for name, values in given.items() if values is not None}
    return cast(Given, {name: values[places].to(device) for name, values in found.items()})


def pieces(images: Tensor, size: int, given: Given) -> Iterator[tuple[Tensor, Given]]:
    """Split images, and what is given for each, into pieces of ``size`` images.

    Raises:
        UserError: if there are none, or the size is not positive.
    """
    check_some(images)
    check_range("chunk", size, 1, MOST)
    for start in range(0, len(images), size):
        few = slice(start, start + size)
        yield images[few], at(given, few)


def joined(parts: Iterable[Bounds]) -> Bounds:
    """The bounds of the images of all parts."""
    columns = zip(*parts, strict=True)
    return Bounds._make(None if column[0] is None else torch.cat(column) for column in columns)


def accumulated(draw: Callable[[int], LogDensities | Tensor], num_samples: int, at_once: int) -> Bounds:
    """Bounds from ``draw(n)``, the log densities of n samples, that is asked for few at a time."""
    likelihood = total = torch.zeros((), dtype=torch.float64)
    log_sum = log_sum_of_squares = torch.full_like(total, -math.inf)
    largest: list[Tensor] = []
    has_code = True
    for start in range(0, num_samples, at_once):
        drawn = draw(min(at_once, num_samples - start))
        has_code = isinstance(drawn, LogDensities)
        if isinstance(drawn, LogDensities):
            # On the CPU, since not every device has 64 bits.
            drawn = LogDensities(*(each.cpu().double() for each in drawn))
            likelihood = likelihood + drawn.likelihood.sum(0)
            weights = drawn.likelihood + drawn.prior - drawn.posterior
        else:
            weights = drawn.cpu().double()
        total = total + weights.sum(0)
        log_sum = torch.logaddexp(log_sum, weights.logsumexp(0))
        log_sum_of_squares = torch.logaddexp(log_sum_of_squares, (2 * weights).logsumexp(0))
        seen = torch.cat([*largest, weights])
        largest = [seen.topk(min(tail_length(num_samples) + 1, len(seen)), dim=0).values]
    negative_elbo = -total / num_samples
    found = Bounds(
        negative_elbo,
        math.log(num_samples) - log_sum,
        effective_sample_size=(2 * log_sum - log_sum_of_squares).exp(),
        pareto_k=pareto_k(*largest),
    )
    if not has_code:
        return found
    reconstruction = -likelihood / num_samples
    return found._replace(reconstruction=reconstruction, kl=negative_elbo - reconstruction)


@torch.no_grad()
def log_marginal(
    model: Bounded | Scored,
    images: Tensor,
    num_samples: int,
    chunk: int = CHUNK,
    noise: Noise = None,
    **given: Unpack[Given],
) -> Tensor:
    """log p(x) in nats, [B], exact or the importance-weighted estimate (Burda et al. 2016, equation 8).

    The estimate is in expectation a lower bound that grows towards log p(x) with the number of samples.

    Raises:
        UserError: if images have another shape than the model's, other levels, or are not in [0, 1], or if
            there are none, or no samples for an estimate.
    """
    if isinstance(model, Scored):
        parts = [model.log_prob(few, **rest) for few, rest in pieces(images, chunk, given)]
        return torch.cat([part.cpu().double() for part in parts])
    return -bounds(model, images, num_samples, chunk, noise, **given).negative_log_marginal
