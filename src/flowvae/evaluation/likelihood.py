"""Bounds and estimates of log p(x), streamed: of all samples only the largest weights are kept."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.densities import LogDensities
from flowvae.evaluation.pareto import pareto_k, tail_length
from flowvae.models import VAE, DequantizedDensity, ExactDensity, Model

CHUNK = 256
"""Pairs of image and sample at once. Maps of 128 channels and 14 x 14 places are then below the 32 MiB of
`keep_freed_memory`, above which memory comes anew each time."""


class Bounds(NamedTuple):
    """Per image, in nats, [B]: averages over S posterior samples, and the importance-weighted estimate."""

    reconstruction: Tensor
    """``-E_q log p(x|z)``"""
    kl: Tensor
    """``E_q[log q(z|x) - log p(z)]``"""
    negative_log_marginal: Tensor
    """``-log (1/S) sum_s w_s``, an upper bound on -log p(x) in expectation; ``w_s = p(x, z_s) / q(z_s|x)``"""
    effective_sample_size: Tensor
    """``(sum_s w_s)^2 / sum_s w_s^2``, from 1 to S (Kish 1965); NaN where there are no samples"""
    pareto_k: Tensor
    """how heavy the tail of the w_s is (see `flowvae.evaluation.pareto`); NaN where it cannot be told"""

    @property
    def negative_elbo(self) -> Tensor:
        return self.reconstruction + self.kl


@torch.no_grad()
def bounds(model: Model, images: Tensor, num_samples: int, chunk: int = CHUNK) -> Bounds:
    """Score images [B, C, H, W] with S posterior samples each, at most ``chunk`` pairs of the two at once.

    The samples of a dequantized density are draws of its noise.

    The embedding is computed once per image. Call it in ``eval()`` mode: a batch norm in training mode would
    make each density depend on the whole batch. An exact density needs no samples and gets the same number
    for all.

    Raises:
        ValueError: no samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; it must be at least 1")
    if isinstance(model, ExactDensity):
        exact = torch.cat([-model.log_prob(few).cpu().double() for few in images.split(chunk)])
        no_weights = torch.full_like(exact, math.nan)
        return Bounds(exact, torch.zeros_like(exact), exact, no_weights, no_weights)
    parts = [
        accumulated(_draws(model, few), num_samples, max(1, chunk // len(few))) for few in images.split(chunk)
    ]
    return Bounds(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _draws(model: VAE | DequantizedDensity, images: Tensor) -> Callable[[int], LogDensities]:
    if isinstance(model, VAE):
        return partial(model.log_densities, images, model.encoder(images))
    return partial(model, images)


def accumulated(draw: Callable[[int], LogDensities], num_samples: int, at_once: int) -> Bounds:
    """Bounds from ``draw(n)``, the log densities of n samples, that is asked for few at a time."""
    likelihood = divergence = torch.zeros((), dtype=torch.float64)
    log_sum = log_sum_of_squares = torch.full_like(likelihood, -math.inf)
    largest: list[Tensor] = []
    for start in range(0, num_samples, at_once):
        # On the CPU, since not every device has 64 bits.
        densities = LogDensities(*(each.cpu().double() for each in draw(min(at_once, num_samples - start))))
        likelihood = likelihood + densities.likelihood.sum(0)
        divergence = divergence + (densities.posterior - densities.prior).sum(0)
        log_weights = densities.likelihood + densities.prior - densities.posterior
        log_sum = torch.logaddexp(log_sum, log_weights.logsumexp(0))
        log_sum_of_squares = torch.logaddexp(log_sum_of_squares, (2 * log_weights).logsumexp(0))
        seen = torch.cat([*largest, log_weights])
        largest = [seen.topk(min(tail_length(num_samples) + 1, len(seen)), dim=0).values]
    return Bounds(
        -likelihood / num_samples,
        divergence / num_samples,
        math.log(num_samples) - log_sum,
        (2 * log_sum - log_sum_of_squares).exp(),
        pareto_k(*largest),
    )


def log_marginal(model: Model, images: Tensor, num_samples: int, chunk: int = CHUNK) -> Tensor:
    """Importance-weighted estimate of log p(x) in nats, [B] (Burda et al. 2016, equation 8).

    In expectation a lower bound that grows towards log p(x) with the number of samples.
    """
    return -bounds(model, images, num_samples, chunk).negative_log_marginal
