"""From a configuration to modules: the only factory."""

from collections.abc import Callable

import torch
from torch import nn

from flowvae.config import ModelConfig
from flowvae.densities import (
    BernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    FlowPosterior,
    GaussianPosterior,
    Likelihood,
    LogisticMixtureLikelihood,
    Posterior,
    StandardNormal,
)
from flowvae.errors import UserError
from flowvae.flows import AffineCoupling, BatchNormFlow, Chain, Flow, InverseAutoregressive, Planar, RealNVP
from flowvae.models import VAE
from flowvae.networks import Decoder, Dense, Encoder, MaskedDense
from flowvae.networks.convolutional import STRIDE


def build_model(config: ModelConfig, shape: tuple[int, int, int]) -> VAE:
    """The model for images of ``shape`` (C, H, W), freshly initialised from torch's generator.

    >>> from flowvae.presets import preset
    >>> model = build_model(preset("realnvp-2").model, (1, 28, 28))
    """
    _, height, width = shape
    if height % STRIDE or width % STRIDE:
        raise UserError(f"images are {height} x {width}; the networks take sides that {STRIDE} divides")
    model = VAE(
        Encoder(shape, config.features, config.channels, config.blocks),
        posterior(config),
        StandardNormal(config.latent),
        likelihood(config, shape),
    )
    # What convolutions on a CPU like best.
    return nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)


def likelihood(config: ModelConfig, shape: tuple[int, int, int]) -> Likelihood:
    """p(x|z): the distribution of pixels that the configuration names, with the decoder."""
    channels, height, width = shape

    def decoder(outputs: int) -> Decoder:
        return Decoder(
            config.latent, (outputs, height, width), config.features, config.channels, config.blocks
        )

    if config.likelihood == "logistic":
        return DiscretizedLogisticLikelihood(decoder(2 * channels), shape)
    if config.likelihood == "logistic-mixture":
        outputs = LogisticMixtureLikelihood.outputs(channels, config.components)
        return LogisticMixtureLikelihood(decoder(outputs), shape, config.components)
    return BernoulliLikelihood(decoder(channels), shape)


def posterior(config: ModelConfig) -> Posterior:
    """q(z|x): a Gaussian, pushed through the flow that the configuration names."""
    base = GaussianPosterior(config.features, config.latent)
    if config.posterior == "gaussian":
        return base
    return FlowPosterior(base, FLOWS[config.posterior](config), config.features)


def _planar(config: ModelConfig) -> Flow:
    return Planar(config.latent, config.transformations, amortized=config.context)


def _real_nvp(config: ModelConfig) -> Flow:
    if config.normalization != "batch" and not config.flow_batch_norm:
        return RealNVP(
            config.latent,
            config.transformations,
            config.hidden,
            context=config.context,
            bounded=config.bounded,
            weight_norm=config.normalization == "weight",
        )

    def coupling(swap: bool) -> Flow:
        transformed = AffineCoupling.transformed_features(config.latent, swap)
        conditioner = Dense(
            config.latent - transformed,
            config.hidden,
            2 * transformed,
            context=config.context,
            normalization=config.normalization,
        )
        return AffineCoupling(conditioner, config.latent, swap, config.bounded)

    return _chain(config, lambda: [coupling(swap=False), coupling(swap=True)])


def _inverse_autoregressive(config: ModelConfig) -> Flow:
    orders = iter(range(config.transformations))

    def transformation() -> list[Flow]:
        reverse = next(orders) % 2 == 1
        conditioner = MaskedDense(config.latent, config.hidden, context=config.context, reverse=reverse)
        return [InverseAutoregressive(conditioner, config.latent, config.bounded)]

    return _chain(config, transformation)


def _chain(config: ModelConfig, transformation: Callable[[], list[Flow]]) -> Chain:
    flows: list[Flow] = []
    for _ in range(config.transformations):
        flows += transformation()
        if config.flow_batch_norm:
            flows.append(BatchNormFlow(config.latent))
    return Chain(flows)


FLOWS: dict[str, Callable[[ModelConfig], Flow]] = {
    "planar": _planar,
    "realnvp": _real_nvp,
    "iaf": _inverse_autoregressive,
}
