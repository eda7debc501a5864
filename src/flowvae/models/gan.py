"""The deep convolutional generative adversarial network."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.models.base import Model, Sampler, Update
from flowvae.models.generator import GeneratorOptions
from flowvae.networks import Downsampler
from flowvae.networks.convolutional import NECK, STRIDE, fewer, kaiming
from flowvae.noise import Noise, normal
from flowvae.parts import LARGEST, WIDEST, Part, check_positive, ranged

SAMPLES = 512
"""number of samples from which one call of `GAN.validate` estimates the energy score"""
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


def gradient_penalty(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Compute ``E||grad_x D(x)||^2`` over images [B, C, H, W], a scalar.

    R1 without its factor gamma / 2 (Mescheder, Geiger & Nowozin 2018, equation 9).
    Each of the logits [B] of ``D`` must depend on its own image only.
    """
    images = images.detach().requires_grad_()
    # `forward` bypasses torch.compile, whose graphs cannot be differentiated twice.
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(discriminator.forward(images).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


class Discriminator(nn.Module):
    """Maps images [N, C, H, W] in [0, 1] to logits [N] of their being real.

    A `Downsampler` and two dense layers. No activation is normalized, so that each logit depends on one
    image.

    Args:
        shape: (C, H, W).
        features: width of the first dense layer.
        channels, blocks: as in `Downsampler`.
        scale: factor on the logits.
    """

    def __init__(
        self, shape: tuple[int, int, int], features: int, channels: int, blocks: int, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.scale = scale
        self.downsampler = Downsampler(shape[0], channels, blocks)
        self.neck = kaiming(nn.Conv2d(channels, NECK, 1))
        self.first = kaiming(nn.Linear(NECK * math.prod(fewer(shape[1:], STRIDE)), features))
        self.last = kaiming(nn.Linear(features, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = F.hardswish(self.neck(self.downsampler(2 * images - 1)))
        x = x.permute(0, 2, 3, 1).flatten(1)  # the order in memory
        return self.scale * self.last(F.hardswish(self.first(x))).squeeze(1)


class GAN(Model, Sampler):
    """A generative adversarial network (Goodfellow et al. 2014) of two players, G and D.

    The discriminator D learns to tell images x from samples G(z) of the generator, z standard normal. It
    minimizes ``E softplus(-D(x)) + E softplus(D(G(z))) + gamma / 2 E||grad_x D(x)||^2``. G minimizes
    ``E softplus(-D(G(z)))``, the non-saturating loss. In each step D is updated first, then G, with the same
    codes.

    There is no likelihood and no encoder. Validation uses the energy score of the samples.

    Args:
        generator: maps codes [N, D] to images [N, C, H, W] in [0, 1].
        discriminator: maps images [N, C, H, W] to logits [N], each of which depends on one image.
        latent: D, number of latent dimensions.
        gamma: weight of the gradient penalty; None for none.
    """

    best = "energy_score"

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, latent: int, gamma: float | None = None
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.latent, self.gamma = generator, discriminator, latent, gamma

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        images = batch.images
        made = self.generator(normal(None, (len(images), self.latent), images))
        real, fake = self.discriminator(torch.cat([images, made.detach()])).float().chunk(2)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        shown = {"discriminator_loss": loss.detach()}
        if self.gamma is not None:
            penalty = gradient_penalty(self.discriminator, images[: math.ceil(len(images) / PENALIZED)])
            loss = loss + self.gamma / 2 * penalty
            shown["penalty"] = penalty.detach()
        yield Update("discriminator", loss, shown)
        loss = F.softplus(-self.discriminator(made).float()).mean()
        yield Update("generator", loss, {"generator_loss": loss.detach()})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"energy_score": energy_score(self.sample(SAMPLES), batch.images)}

    def decode(self, codes: Tensor) -> Tensor:
        """Images [N, C, H, W] for codes [N, D]."""
        return self.generator(codes)

    @torch.no_grad()
    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        codes = normal(noise, (num_images, self.latent), next(self.generator.parameters()))
        return self.decode(temperature * codes)


@dataclass(frozen=True)
class GradientPenaltyOptions(Part):
    """The gradient penalty R1, on real images (Mescheder, Geiger & Nowozin 2018)."""

    name = "r1"
    gamma: float = ranged(1.0, 0, LARGEST, training_only=True)
    """weight of half the squared norm of the discriminator's gradient at real images, in logits per pixel"""


@dataclass(frozen=True)
class SpectralNormalizationOptions(Part):
    """Weights of the discriminator divided by their largest singular value (Miyato et al. 2018)."""

    name = "spectral"
    scale: float = 0.5
    """factor on the discriminator's logits, which bounds their slope; lower it if samples collapse"""

    def __post_init__(self) -> None:
        check_positive("scale", self.scale, LARGEST)


@dataclass(frozen=True)
class GANOptions(GeneratorOptions, System):
    """A deep convolutional generative adversarial network."""

    name = "gan"

    regularization: GradientPenaltyOptions | SpectralNormalizationOptions = GradientPenaltyOptions()
    """regularization of the discriminator: a gradient penalty on real images, or spectral normalization"""
    features: int = ranged(256, 1, WIDEST)
    """width of the generator's first layer and of the discriminator's first dense layer"""

    def build(self, data: DataSpec) -> GAN:
        generator = nn.Sequential(self.generator(data.shape), nn.Sigmoid())
        sizes = data.shape, self.features, self.channels, self.blocks
        if isinstance(self.regularization, GradientPenaltyOptions):
            return GAN(generator, Discriminator(*sizes), self.latent, self.regularization.gamma)
        discriminator = Discriminator(*sizes, self.regularization.scale)
        for layer in list(discriminator.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)
        return GAN(generator, discriminator, self.latent)

    def describe(self) -> str:
        return f"adversarial network, D = {self.latent}; discriminator with {self.regularization.name}"


# No momentum, as each player's loss changes with every step of the other; no weight decay, which would make
# the discriminator indifferent.
_TRAINING = TrainingConfig(
    batch_size=64, optimizer="adamw", beta1=0.0, learning_rate=1e-3, weight_decay=0.0, minutes=10.0
)

PRESETS: dict[str, Config] = {
    "gan-mnist": Config(DataConfig("mnist", "none"), GANOptions(channels=32), _TRAINING),
    "gan-cifar10": Config(
        DataConfig("cifar10", "none"), GANOptions(latent=128), replace(_TRAINING, minutes=180.0)
    ),
}
