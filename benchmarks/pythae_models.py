"""pythae's models: with its own networks or with ours inside, and as our estimators want them."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pythae.models import VAE, VAE_IAF, VAE_IAF_Config, VAE_LinNF, VAE_LinNF_Config, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST
from pythae.models.normalizing_flows import PlanarFlow
from torch import Tensor, nn

from flowvae import models
from flowvae.densities import BernoulliLikelihood, GaussianPosterior, LogDensities
from flowvae.models import Bounded
from flowvae.noise import Noise, normal

Kind = Literal["VAE", "VAE_LinNF", "VAE_IAF"]

SHAPE = (1, 28, 28)
# As many and as wide as in our presets planar-10 and iaf-4.
PLANAR = 10
BLOCKS, HIDDEN_LAYERS, HIDDEN = 4, 1, 320
# What pythae adds within the logarithm of a planar flow's determinant.
PLANAR_OFFSET = 1e-4


class EncoderWithOurs(BaseEncoder):
    """Our encoder and the linear layer of our Gaussian posterior."""

    def __init__(self, encoder: nn.Module, posterior: GaussianPosterior) -> None:
        super().__init__()
        self.encoder, self.posterior = encoder, posterior

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_scale = self.posterior.mean_and_log_scale(self.encoder(x)).chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=2 * log_scale)


class DecoderWithOurs(BaseDecoder):
    """The means of our likelihood: our decoder, and the offsets that start as the mean training image."""

    def __init__(self, likelihood: BernoulliLikelihood) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.likelihood(z.unsqueeze(0)).mean[0])


def with_our_networks(kind: Kind, ours: models.VAE) -> VAE:
    """pythae's model around the encoder, the Gaussian posterior and the decoder of ``ours``, shared."""
    posterior = cast(GaussianPosterior, ours.posterior)
    encoder = EncoderWithOurs(ours.encoder, posterior)
    decoder = DecoderWithOurs(cast(BernoulliLikelihood, ours.likelihood))
    return _make(kind, ours.dimension, encoder, decoder)


def with_its_own_networks(kind: Kind, latent: int) -> VAE:
    """pythae's model with the convolutional networks that it ships for MNIST."""
    config = VAEConfig(input_dim=SHAPE, latent_dim=latent)
    return _make(kind, latent, Encoder_Conv_VAE_MNIST(config), Decoder_Conv_AE_MNIST(cast(dict, config)))


def _make(kind: Kind, latent: int, encoder: BaseEncoder, decoder: BaseDecoder) -> VAE:
    common = {"input_dim": SHAPE, "latent_dim": latent, "reconstruction_loss": "bce"}
    if kind == "VAE":
        return VAE(VAEConfig(**common), encoder, decoder)
    if kind == "VAE_LinNF":
        return VAE_LinNF(VAE_LinNF_Config(**common, flows=["Planar"] * PLANAR), encoder, decoder)
    config = VAE_IAF_Config(
        **common, n_made_blocks=BLOCKS, n_hidden_in_made=HIDDEN_LAYERS, hidden_size=HIDDEN
    )
    return VAE_IAF(config, encoder, decoder)


class BoundedPythae(nn.Module, Bounded):
    """A pythae model as `flowvae.evaluation.bounds` takes a model.

    Its own Gaussian and flow, its own decoder's means, and the log densities that belong to them.
    """

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def draws_for(self, images: Tensor, noise: Noise = None) -> Callable[[int], LogDensities]:
        output = self.model.encoder(images)
        scale = (0.5 * output.log_covariance).exp()
        base = torch.distributions.Normal(output.embedding, scale, validate_args=False)
        return lambda num_samples: self._densities(images, base, num_samples, noise)

    def _densities(
        self, images: Tensor, base: torch.distributions.Normal, num_samples: int, noise: Noise
    ) -> LogDensities:
        shape = (num_samples, *base.mean.shape)
        z = base.mean + base.stddev * normal(noise, shape, base.mean)
        log_density = base.log_prob(z).sum(2)
        moved, log_determinant = flow(self.model, z.flatten(0, 1))
        means = self.model.decoder(moved)["reconstruction"].reshape(*z.shape[:2], *images.shape[1:])
        cross_entropy = F.binary_cross_entropy(means, images.expand_as(means), reduction="none")
        moved, log_determinant = moved.view_as(z), log_determinant.view(z.shape[:2])
        prior = torch.distributions.Normal(0.0, 1.0, validate_args=False).log_prob(moved).sum(2)
        return LogDensities(-cross_entropy.flatten(2).sum(2), prior, log_density - log_determinant)


def flow(model: VAE, z: Tensor) -> tuple[Tensor, Tensor]:
    """A model's flow in the sampling direction: ``z'`` [N, D] and ``log|det dz'/dz|`` [N]."""
    total = z.new_zeros(len(z))
    if isinstance(model, VAE_LinNF):
        for layer in model.net:
            output: Any = layer(z)
            z = output.out
            total = total + (output.log_abs_det_jac.view(-1).exp() - PLANAR_OFFSET).log()
    elif isinstance(model, VAE_IAF):
        output: Any = model.iaf_flow.inverse(z)  # it calls the direction from data to prior "forward"
        z, total = output.out, output.log_abs_det_jac
    return z, total


def invertible_share(model: VAE) -> float | None:
    """Share of a model's planar transformations that are invertible, ``w'u >= -1``; None where it has none.

    pythae does not enforce it. Where it fails, several codes go to the same one, the density that the
    formula gives is smaller than the true one, and -ELBO comes out lower than it is.
    """
    if not isinstance(model, VAE_LinNF):
        return None
    layers = cast(list[PlanarFlow], model.net)
    return sum((layer.w * layer.u).sum().item() >= -1 for layer in layers) / len(layers)
