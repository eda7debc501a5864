"""What a bound loses to the encoder, and what to the family of its posteriors."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.densities import FlowPosterior, GaussianPosterior, LogDensities, Reparametrization
from flowvae.evaluation.likelihood import CHUNK, accumulated, bounds
from flowvae.models import VAE


class InferenceGaps(NamedTuple):
    """Per image, in nats, [B] (Cremer, Li & Duvenaud 2018)."""

    negative_elbo: Tensor
    """with the parameters that the encoder gives"""
    own_negative_elbo: Tensor
    """with parameters of each image's own"""
    negative_log_marginal: Tensor
    """importance-weighted, with samples of the latter posterior"""

    @property
    def amortization(self) -> Tensor:
        """What is lost because one encoder serves all images."""
        return self.negative_elbo - self.own_negative_elbo

    @property
    def approximation(self) -> Tensor:
        """What is lost because no posterior of the family is the true one."""
        return self.own_negative_elbo - self.negative_log_marginal


def inference_gaps(
    model: VAE,
    images: Tensor,
    num_samples: int = 400,
    *,
    steps: int = 300,
    training_samples: int = 8,
    learning_rate: float = 0.02,
) -> InferenceGaps:
    """Give each image [B, C, H, W] posterior parameters of its own, and see what that is worth.

    These are what is linear in the encoder's embedding: the Gaussian's moments, and the context of the flow.
    They begin as the encoder's and maximize the image's own ELBO, by Adam with a rate that falls as a cosine.
    The model's weights stay as they are. The amortization found is a lower bound, as an optimizer finds no
    more than there is.

    Args:
        model: in ``eval()`` mode, with a Gaussian posterior or a flow of one.
        images: those to be looked at.
        num_samples: S of all three numbers.
        steps: of the optimizer.
        training_samples: S of its ELBO.
        learning_rate: its highest.

    Raises:
        TypeError: another posterior.
    """
    posterior = model.posterior
    if not isinstance(posterior, GaussianPosterior | FlowPosterior):
        raise TypeError(
            f"a {type(posterior).__name__} has no parameters of an image; give a Gaussian or a flow of one"
        )
    with torch.no_grad():
        codes, context = posterior.parameters_of(model.encoder(images))
    learnt = [each.clone().requires_grad_() for each in (*codes, context) if each is not None]

    def draw(samples: int) -> LogDensities:
        own = iter(learnt)
        mean, log_scale = next(own), next(own)
        below = None if codes.below is None else next(own).tril(-1)
        z, density = posterior.draw(Reparametrization(mean, log_scale, below), next(own, None), samples)
        return LogDensities(model.likelihood(z).log_prob(images), model.prior().log_prob(z), density)

    optimizer = torch.optim.Adam(learnt, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        densities = draw(training_samples)
        # Images are optimized side by side: each one's own gradient is that of its term.
        loss = (densities.posterior - densities.likelihood - densities.prior).mean(0).sum()
        for each, gradient in zip(learnt, torch.autograd.grad(loss, learnt), strict=True):
            each.grad = gradient
        optimizer.step()
        schedule.step()
    encoded = bounds(model, images, num_samples)
    with torch.no_grad():
        found = accumulated(draw, num_samples, at_once=max(1, CHUNK // len(images)))
    return InferenceGaps(encoded.negative_elbo, found.negative_elbo, found.negative_log_marginal)
