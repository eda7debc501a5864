"""Losses of classifiers that need no labels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flowvae import shares
from flowvae.noise import normal

PROBE = 0.1
"""length of the step by which `smoothness_loss` finds a direction"""


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Compute the mean over images of KL(p || q), for log probabilities of classes [B, K]."""
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def smoothness_loss(
    classifier: Callable[[Tensor], Tensor], images: Tensor, log_class: Tensor, radius: float
) -> Tensor:
    """Virtual adversarial loss (Miyato et al. 2018): how far q(y|x) changes in its most sensitive direction.

    ``mean KL(q(y|x) || q(y|x + r))``, where r, of the Euclidean length ``radius``, approximately maximizes
    the divergence: a step of the power method finds its direction.

    Args:
        classifier: maps images [B, ...] to logits of classes [B, K].
        images: x.
        log_class: log q(y|x), [B, K]; no gradient passes through it.
    """
    target = log_class.detach()
    noise = normal(None, images.shape, images, images=0).requires_grad_()
    tried = classifier(images + PROBE * _unit(noise)).log_softmax(1)
    (gradient,) = torch.autograd.grad(divergence(target, tried), noise)
    return divergence(target, classifier(images + radius * _unit(gradient)).log_softmax(1))


def information_loss(log_class: Tensor) -> Tensor:
    """Minus the mutual information of image and class, ``mean H(q(y|x)) - H(mean q(y|x))``, in nats.

    ``log_class``: log q(y|x), [B, K]; the means are over the B images.
    """
    chance = log_class.exp()
    overall = shares.overall(chance.mean(0))
    return (overall * overall.clamp(min=torch.finfo(overall.dtype).tiny).log()).sum() - (
        chance * log_class
    ).sum(1).mean()


def _unit(vectors: Tensor) -> Tensor:
    """Scale each of the vectors [B, ...] to the Euclidean length 1."""
    return F.normalize(vectors.flatten(1), dim=1).view_as(vectors)
