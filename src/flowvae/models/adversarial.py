"""The discriminator of adversarial networks, and the score of their samples."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae import shares
from flowvae.networks import DenseEncoder, Downsampler
from flowvae.networks.convolutional import NECK, STRIDE, fewer, kaiming

SAMPLES = 512
"""number of samples from which one call of ``validate`` estimates the energy score"""
PENALIZED = 4
"""one real image in so many has the gradient penalty; with all of them, a step takes a third longer"""


def energy_score(samples: Tensor, images: Tensor) -> Tensor:
    """Estimate ``ES(y) = E||X - y|| - E||X - X'|| / 2`` of images y [B, ...], [B], from S >= 2 samples X.

    (Gneiting & Raftery 2007, section 4.3, with the opposite sign.) Lower is better: its mean over images is
    lowest if and only if samples and images have the same distribution. Norms are Euclidean over all pixels.
    The estimate is unbiased, as the second mean is over pairs of different samples. The images share the
    samples, and so much of the error.
    """
    samples, images = samples.flatten(1), images.flatten(1)
    exact = "donot_use_mm_for_euclid_dist"  # by matrix products, float32 loses short distances
    to_images = torch.cdist(images, samples, compute_mode=exact).mean(1)
    number = len(samples)
    between = torch.cdist(samples, samples, compute_mode=exact).sum() / (number * (number - 1))
    return to_images - between / 2


def logit_of_real(logits: Tensor) -> Tensor:
    """Return the logits [B] of images being real, from the logits [B] or [B, K] of a `Discriminator`.

    An image is generated with the logit 0, and real and of the class k with the logit ``l_k``; so it is real
    with the logit ``log sum_k exp l_k`` (Salimans et al. 2016, section 5).
    """
    return logits.logsumexp(1) if logits.ndim == 2 else logits


def gradient_penalty(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Compute the mean of ``||grad_x D(x)||^2`` over the first quarter of a batch [B, C, H, W], a scalar.

    R1 without its factor gamma / 2 (Mescheder, Geiger & Nowozin 2018, equation 9).
    """
    number = math.ceil(shares.whole_of(len(images)) / PENALIZED)
    return shares.mean_of(squared_slopes(discriminator, images[: shares.count_of(number)]), number)


def squared_slopes(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Compute ``||grad_x D(x)||^2`` of images x [B, C, H, W], [B], D(x) the logit of x being real.

    Each of the logits must depend on its own image only.
    """
    images = images.detach().requires_grad_()
    # `forward` bypasses torch.compile, whose graphs cannot be differentiated twice.
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        real = logit_of_real(discriminator.forward(images)).sum()
        (gradient,) = torch.autograd.grad(real, images, create_graph=True)
    return gradient.square().flatten(1).sum(1)


class Discriminator(nn.Module):
    """Maps images [N, C, H, W] in [0, 1] to logits [N] of being real, or [N, K] of being real and of a class.

    A `Downsampler` and two dense layers. No activation is normalized, so that each logit depends on one
    image.

    Args:
        shape: (C, H, W).
        features: width of the first dense layer.
        channels, blocks: as in `Downsampler`.
        scale: factor on the logits.
        classes: K, or 0.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        features: int,
        channels: int,
        blocks: int,
        scale: float = 1.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.scale, self.classes = scale, classes
        self.downsampler = Downsampler(shape[0], channels, blocks)
        self.neck = kaiming(nn.Conv2d(channels, NECK, 1))
        self.first = kaiming(nn.Linear(NECK * math.prod(fewer(shape[1:], STRIDE)), features))
        self.last = kaiming(nn.Linear(features, classes or 1))

    def forward(self, images: Tensor) -> Tensor:
        x = F.hardswish(self.neck(self.downsampler(2 * images - 1)))
        x = x.permute(0, 2, 3, 1).flatten(1)  # the order in memory
        logits = self.scale * self.last(F.hardswish(self.first(x)))
        return logits if self.classes else logits.squeeze(1)


class DenseDiscriminator(nn.Module):
    """A `Discriminator` of fully connected layers.

    Args:
        shape: (C, H, W).
        widths: of the hidden layers.
        scale, classes: as in `Discriminator`.
    """

    def __init__(
        self, shape: tuple[int, int, int], widths: Sequence[int], scale: float = 1.0, classes: int = 0
    ) -> None:
        super().__init__()
        self.scale, self.classes = scale, classes
        self.encoder = DenseEncoder(shape, widths)
        self.last = kaiming(nn.Linear(widths[-1], classes or 1))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.scale * self.last(self.encoder(images))
        return logits if self.classes else logits.squeeze(1)
