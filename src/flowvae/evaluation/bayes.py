"""Densities over all classes of a model of images given their labels, p(x|y), with uniform p(y)."""

from typing import Unpack

import torch
from torch import Tensor

from flowvae.batch import Given
from flowvae.evaluation.likelihood import CHUNK, log_marginal
from flowvae.models import Bounded, Scored
from flowvae.noise import Noise
from flowvae.objectives import log_mean_exp


@torch.no_grad()
def log_prob_of_classes(
    model: Bounded | Scored,
    images: Tensor,
    classes: int,
    num_samples: int,
    chunk: int = CHUNK,
    noise: Noise = None,
    **given: Unpack[Given],
) -> Tensor:
    """Compute log p(x|y) in nats of images [B, C, H, W] and every class, float64 [B, classes].

    Exact, or estimated with ``num_samples`` // ``classes`` samples per class, at least 1: together as many
    as for one class. ``given``: which pixels are observed, if the model takes that.

    Raises:
        UserError: as in `log_marginal`.
    """
    of_class = max(1, num_samples // classes)
    columns: list[Tensor] = []
    for label in range(classes):
        labels = torch.full((len(images),), label, device=images.device)
        given["labels"] = labels
        columns.append(log_marginal(model, images, of_class, chunk, noise, **given))
    return torch.stack(columns, 1)


def log_posterior(log_prob: Tensor) -> Tensor:
    """Apply Bayes' rule: log p(y|x) from log p(x|y), both [B, classes].

    >>> log_posterior(torch.tensor([[0.2, 0.6]]).log()).exp()
    tensor([[0.2500, 0.7500]])
    """
    return log_prob.log_softmax(1)


def log_mixture(log_prob: Tensor) -> Tensor:
    """Compute log p(x) [B] of the mixture of the classes, from log p(x|y) [B, classes].

    >>> log_mixture(torch.tensor([[0.2, 0.6]]).log()).exp()
    tensor([0.4000])
    """
    return log_mean_exp(log_prob.t())
