"""Missing pixels given the known ones, by importance resampling."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.batch import labelled
from flowvae.errors import check_range, check_some
from flowvae.models.base import check_observed, check_tensor
from flowvae.noise import uniform
from flowvae.parts import MOST

CANDIDATES_AT_ONCE = 256


class Imputation(NamedTuple):
    """Completions of B images, and what is known about them."""

    images: Tensor
    """[N, B, C, H, W]: known pixels unchanged, the others drawn or means of p(x|z), as the model has them"""
    mean: Tensor
    """[B, C, H, W]: mean of all candidates with their weights"""
    spread: Tensor
    """[B, C, H, W]: standard deviation of the candidates with their weights; 0 for known pixels"""
    log_prob: Tensor
    """[B], float64: estimate of log p of the known pixels, in nats, ``log (1/S) sum_s w_s``"""
    standard_error: Tensor
    """[B], float64: of ``log_prob``, from the spread of the weights (delta method)"""
    effective_sample_size: Tensor
    """[B], float64: of the weights, 1 to S; where it is small, completions are few different ones"""


class Completing(ABC):
    """A model that fills in missing pixels."""

    @abstractmethod
    def candidates(
        self,
        image: Tensor,
        observed: Tensor,
        number: int,
        noise: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return S completions of one image [1, C, H, W], as [S, C, H, W], and their log weights [S].

        The mean of the weights is the probability of the known pixels. ``labels``: that of the image, [1], if
        the model is conditional.
        """

    @torch.no_grad()
    def impute(
        self,
        images: Tensor,
        observed: Tensor,
        num_completions: int = 5,
        num_samples: int = 1000,
        noise: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> Imputation:
        """Draw completions from p(x_missing | x_known), by sampling importance resampling (Rubin 1987).

        Of S candidates with weights, N are chosen with probabilities proportional to the weights. As S grows,
        they become independent draws from the conditional distribution of the model.

        Args:
            images: [B, C, H, W]; values of missing pixels are ignored.
            observed: which pixels are known, bool [B, C, H, W].
            num_completions: N.
            num_samples: S, number of candidates.
            noise: a generator to draw from, or None for torch's own.
            labels: int64 [B], if the model is conditional.

        Raises:
            UserError: if the model cannot fill in such pixels.
        """
        check_tensor("images", images)
        check_some(images)
        check_observed(observed, images)
        check_range("num_completions", num_completions, 1, MOST)
        check_range("num_samples", num_samples, 1, MOST)
        images = torch.where(observed, images, images.new_zeros(()))
        found: list[Imputation] = []
        for place, (image, known) in enumerate(zip(images.split(1), observed.split(1), strict=True)):
            own = labelled(None if labels is None else labels[place : place + 1])
            completed, log_weights = self.candidates(image, known, num_samples, noise, **own)
            log_weights = log_weights.double()
            log_sum = log_weights.logsumexp(0, keepdim=True)
            shares = (log_weights - log_sum).exp()
            quantile = uniform(noise, (num_completions,), shares)
            chosen = torch.searchsorted(shares.cumsum(0), quantile, right=True).clamp(max=num_samples - 1)
            weights = shares.to(completed.dtype)
            mean = torch.einsum("s,schw->chw", weights, completed)
            variance = torch.einsum("s,schw->chw", weights, (completed - mean).square())
            size = 1 / shares.square().sum().view(1)
            relative_variance = (num_samples / size - 1).clamp(min=0) / max(1, num_samples - 1)
            found.append(
                Imputation(
                    completed[chosen].unsqueeze(1),
                    torch.where(known, image, mean),
                    torch.where(known, 0.0, variance.sqrt()),
                    log_sum - math.log(num_samples),
                    relative_variance.sqrt(),
                    size,
                )
            )
        completions, *rest = zip(*found, strict=True)
        return Imputation(torch.cat(completions, 1), *(torch.cat(each) for each in rest))
