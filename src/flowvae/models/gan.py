"""The deep convolutional generative adversarial network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.flows import at_least_float32
from flowvae.models.adversarial import SAMPLES, energy_score, gradient_penalty
from flowvae.models.base import Model, Update
from flowvae.models.generator import Generator, GeneratorOptions
from flowvae.models.networks import ConvolutionalOptions, DenseOptions
from flowvae.noise import normal
from flowvae.parts import LARGEST, WIDEST, Part, check_positive, ranged


class GAN(Model, Generator):
    """A generative adversarial network (Goodfellow et al. 2014) of two players, G and D.

    The discriminator D learns to tell images x from samples G(z) of the generator, z standard normal. It
    minimizes ``E softplus(-D(x)) + E softplus(D(G(z))) + gamma / 2 E||grad_x D(x)||^2``. G minimizes
    ``E softplus(-D(G(z)))``, the non-saturating loss. In each step D is updated first, then G, with the same
    codes.

    There is no likelihood of its own and no encoder. Validation uses the energy score of the samples.

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
        self.generator, self.discriminator = generator, discriminator
        self.dimension, self.gamma = latent, gamma

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        images = batch.images
        made = self.generator(normal(None, (len(images), self.dimension), images, images=0))
        real, fake = at_least_float32(self.discriminator(torch.cat([images, made.detach()]))).chunk(2)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        shown = {"discriminator_loss": loss.detach()}
        if self.gamma is not None:
            penalty = gradient_penalty(self.discriminator, images)
            loss = loss + self.gamma / 2 * penalty
            shown["penalty"] = penalty.detach()
        yield Update("discriminator", loss, shown)
        loss = F.softplus(-at_least_float32(self.discriminator(made))).mean()
        yield Update("generator", loss, {"generator_loss": loss.detach()})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"energy_score": energy_score(self.sample(SAMPLES), batch.images)}

    def generate(self) -> Callable[[Tensor], Tensor]:
        return self.generator


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
        if isinstance(self.regularization, GradientPenaltyOptions):
            discriminator = self.networks.discriminator(data.shape, self.features)
            return GAN(generator, discriminator, self.latent, self.regularization.gamma)
        discriminator = self.networks.discriminator(data.shape, self.features, self.regularization.scale)
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
    "gan-mnist": Config(
        DataConfig("mnist", "none"), GANOptions(networks=ConvolutionalOptions(channels=32)), _TRAINING
    ),
    "gan-cifar10": Config(
        DataConfig("cifar10", "none"), GANOptions(latent=128), replace(_TRAINING, minutes=180.0)
    ),
    # The generators of Wu et al. (2017), 50-1024-1024-1024-784 and 10-64-256-256-1024-784.
    "wu-gan-50": Config(
        DataConfig("mnist", "none"),
        GANOptions(latent=50, features=1024, networks=DenseOptions(widths="1024-1024")),
        replace(_TRAINING, minutes=None, epochs=20),
    ),
    "wu-gan-10": Config(
        DataConfig("mnist", "none"),
        GANOptions(latent=10, features=64, networks=DenseOptions(widths="256-256-1024")),
        replace(_TRAINING, minutes=None, epochs=20),
    ),
}
