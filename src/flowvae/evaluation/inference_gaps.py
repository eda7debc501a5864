"""Inference gaps: what the ELBO loses to the encoder, and what to the family of posteriors."""

from collections.abc import Callable
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from flowvae.batch import Given
from flowvae.densities import FlowPosterior, GaussianPosterior, LogDensities, Reparametrization
from flowvae.evaluation.likelihood import CHUNK, accumulated, bounds
from flowvae.models import VAE


class InferenceGaps(NamedTuple):
    """Per image, in nats, [B] (Cremer, Li & Duvenaud 2018)."""

    negative_elbo: Tensor
    """with the encoder's posterior parameters"""
    own_negative_elbo: Tensor
    """with parameters optimized per image"""
    negative_log_marginal: Tensor
    """importance-weighted, with samples of the optimized posterior"""

    @property
    def amortization(self) -> Tensor:
        """Loss from sharing one encoder among all images."""
        return self.negative_elbo - self.own_negative_elbo

    @property
    def approximation(self) -> Tensor:
        """Loss from the family of posteriors, which does not contain the true one."""
        return self.own_negative_elbo - self.negative_log_marginal


def inference_gaps(
    model: VAE,
    images: Tensor,
    num_samples: int = 400,
    *,
    steps: int = 300,
    training_samples: int = 8,
    learning_rate: float = 0.02,
    **given: Unpack[Given],
) -> InferenceGaps:
    """Optimize the posterior parameters of each image [B, C, H, W], and measure the gain.

    The amortization gap found is a lower bound, as the optimization may be incomplete.

    Args:
        model: a model in ``eval()`` mode, with a Gaussian posterior, alone or transformed by a flow.
        images: the images.
        num_samples: S, number of samples for all three numbers.
        steps, training_samples, learning_rate: as in `fitted_posteriors`.
        given: labels, or which pixels are observed, if the model takes them.

    Raises:
        TypeError: for any other posterior.
    """
    draw = fitted_posteriors(model, images, steps, training_samples, learning_rate, **given)
    encoded = bounds(model, images, num_samples, **given)
    with torch.no_grad():
        found = accumulated(draw, num_samples, at_once=max(1, CHUNK // len(images)))
    return InferenceGaps(encoded.negative_elbo, found.negative_elbo, found.negative_log_marginal)


def fitted_posteriors(
    model: VAE,
    images: Tensor,
    steps: int,
    samples: int = 8,
    learning_rate: float = 0.02,
    **given: Unpack[Given],
) -> Callable[[int], LogDensities]:
    """Optimize the posterior parameters of each image, and return a function that draws S samples from them.

    The parameters are those that are linear in the encoder's embedding: the moments of the Gaussian, and the
    context of the flow. They start at the encoder's output and maximize the image's ELBO, by Adam with cosine
    decay. The weights of the model do not change.

    Args:
        model, images, given: as in `inference_gaps`.
        steps: number of optimizer steps.
        samples: number of samples for the ELBO that is maximized.
        learning_rate: highest learning rate.
    """
    posterior = model.posterior
    if not isinstance(posterior, GaussianPosterior | FlowPosterior):
        raise TypeError(f"posterior is a {type(posterior).__name__}; expected a Gaussian or a flow of one")
    model.check(images, **given)
    with torch.no_grad():
        codes, context = posterior.parameters_of(model.features(images, **given))
    learnt = [each.clone().requires_grad_() for each in (*codes, context) if each is not None]

    def draw(samples: int) -> LogDensities:
        own = iter(learnt)
        mean, log_scale = next(own), next(own)
        below = None if codes.below is None else next(own).tril(-1)
        z, density = posterior.draw(Reparametrization(mean, log_scale, below), next(own, None), samples)
        return model.log_densities(images, z, density, **given)

    optimizer = torch.optim.Adam(learnt, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        densities = draw(samples)
        # A sum over images: each image's gradient is that of its own term.
        loss = (densities.posterior - densities.likelihood - densities.prior).mean(0).sum()
        for each, gradient in zip(learnt, torch.autograd.grad(loss, learnt), strict=True):
            each.grad = gradient
        optimizer.step()
        schedule.step()
    return draw
