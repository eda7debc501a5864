"""From a configuration to modules: the only factory."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from flowvae.config import ModelConfig
from flowvae.densities import (
    BernoulliLikelihood,
    CausalLikelihood,
    DiscretizedLogisticLikelihood,
    FlowPosterior,
    FlowPrior,
    GaussianPosterior,
    Likelihood,
    LogisticMixtureLikelihood,
    Posterior,
    Prior,
    StandardNormal,
    VampPrior,
)
from flowvae.errors import UserError
from flowvae.flows import (
    ActNorm,
    AffineCoupling,
    BatchNormFlow,
    Chain,
    Checkerboard,
    Flattened,
    Flow,
    InverseAutoregressive,
    Planar,
    RealNVP,
)
from flowvae.models import VAE, Model, PixelCNN, RealNVPDensity
from flowvae.networks import (
    CausalNetwork,
    ConvolutionalConditioner,
    Decoder,
    Dense,
    Downsampler,
    Encoder,
    MapCode,
    MaskedDense,
    Upsampler,
    VectorCode,
)
from flowvae.networks.convolutional import STRIDE

MOST_PARAMETERS = 2**30  # 4 GiB of weights; training takes five times as much
_TOO_LARGE = (
    f"the model has more than {MOST_PARAMETERS:,} parameters, or memory for them is missing; make it smaller"
)


def build_model(config: ModelConfig, shape: tuple[int, int, int]) -> Model:
    """The model for images of ``shape`` (C, H, W), freshly initialised from torch's generator.

    >>> from flowvae.presets import preset
    >>> model = build_model(preset("realnvp-2").model, (1, 28, 28))

    Raises:
        UserError: the networks do not take images of this shape, or the model is too large.
    """
    with _refusing_too_large():
        model = FAMILIES[config.family](config, shape)
    # What convolutions on a CPU like best.
    return nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)


@contextmanager
def _refusing_too_large() -> Iterator[None]:
    """Count the parameters of what is built inside, and stop before the memory of too many is touched."""
    total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal total
        total += parameter.numel()
        if total > MOST_PARAMETERS:
            raise UserError(_TOO_LARGE)

    counting = register_module_parameter_registration_hook(count)
    try:
        yield
    except (MemoryError, RuntimeError, TypeError) as error:  # one layer is more than can be addressed
        raise UserError(_TOO_LARGE) from error
    finally:
        counting.remove()


def build_vae(config: ModelConfig, shape: tuple[int, int, int]) -> VAE:
    """The autoencoder for images of ``shape`` (C, H, W)."""
    _check_sides(shape)
    if config.code == "map":
        encoder = Downsampler(shape[0], config.channels, config.blocks)
    else:
        encoder = Encoder(shape, config.features, config.channels, config.blocks)
    q = posterior(config, shape)
    return VAE(encoder, q, prior(config, encoder, q, shape), likelihood(config, shape))


def code_shape(config: ModelConfig, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """(D,), or (c, H/4, W/4) of a code that is a map, for images of ``shape`` (C, H, W)."""
    if config.code == "map":
        return config.latent, shape[1] // STRIDE, shape[2] // STRIDE
    return (config.latent,)


def _check_sides(shape: tuple[int, int, int]) -> None:
    _, height, width = shape
    if height % STRIDE or width % STRIDE:
        raise UserError(f"images are {height} x {width}; the networks take sides that {STRIDE} divides")


def _pixel_cnn(config: ModelConfig, shape: tuple[int, int, int]) -> PixelCNN:
    _check_sides(shape)
    return PixelCNN(_causal_network(config, shape, config.causal_channels), shape)


def prior(
    config: ModelConfig, encoder: nn.Module, posterior: Posterior, shape: tuple[int, int, int]
) -> Prior:
    """p(z); the encoder and the posterior are for the pseudo-inputs of a VampPrior."""
    if config.prior == "vamp":
        base = posterior.base if isinstance(posterior, FlowPosterior) else posterior
        return VampPrior(encoder, cast(GaussianPosterior, base), shape, config.pseudo_inputs)
    if config.prior == "realnvp":
        # The couplings of a posterior, with nothing to condition on.
        couplings = replace(
            config,
            posterior="realnvp",
            transformations=config.prior_transformations,
            context=False,
            # The density of a code must not depend on the others of its batch.
            normalization="none" if config.normalization == "batch" else config.normalization,
            flow_batch_norm=False,
        )
        return FlowPrior(math.prod(code_shape(config, shape)), _real_nvp(couplings, shape))
    return StandardNormal(math.prod(code_shape(config, shape)))


def likelihood(config: ModelConfig, shape: tuple[int, int, int]) -> Likelihood:
    """p(x|z): the distribution of pixels that the configuration names, with the decoder."""
    channels = shape[0]

    if config.code == "map":
        code = MapCode(cast(tuple[int, int, int], code_shape(config, shape)), config.channels)
    else:
        code = VectorCode(config.latent, shape[1:], config.features, config.channels)

    def decoder(outputs: int) -> Decoder:
        return Decoder(code, outputs, config.blocks)

    if config.likelihood == "causal":
        upsampler = Upsampler(code, config.blocks)
        return CausalLikelihood(upsampler, _causal_network(config, shape, config.channels // 2), shape)
    if config.likelihood == "logistic":
        return DiscretizedLogisticLikelihood(decoder(2 * channels), shape)
    if config.likelihood == "logistic-mixture":
        outputs = LogisticMixtureLikelihood.outputs(channels, config.components)
        return LogisticMixtureLikelihood(decoder(outputs), shape, config.components)
    return BernoulliLikelihood(decoder(channels), shape)


def _causal_network(config: ModelConfig, shape: tuple[int, int, int], condition: int) -> CausalNetwork:
    if shape[0] != 1:
        raise UserError(f"images have {shape[0]} channels; the causal network takes binary images of one")
    if config.causal_orders > 4 and shape[1] != shape[2]:
        raise UserError(f"images are {shape[1]} x {shape[2]}; more than 4 orders are those of a square")
    return CausalNetwork(
        shape[1:],
        config.causal_channels,
        config.causal_blocks,
        condition,
        config.causal_dropout,
        config.causal_orders,
    )


def posterior(config: ModelConfig, shape: tuple[int, int, int]) -> Posterior:
    """q(z|x): a Gaussian, pushed through the flow that the configuration names."""
    features, linear, to_context = config.features, nn.Linear, nn.Linear
    if config.code == "map":
        features, linear = config.channels, partial(nn.Conv2d, kernel_size=1)
        # The parameters of planar transformations belong to the whole code, those of couplings to its places.
        to_context = _of_mean if config.posterior == "planar" else linear
    base = GaussianPosterior(features, config.latent, linear, full=config.covariance == "full")
    if config.posterior == "gaussian":
        return base
    flow = FLOWS[config.posterior](config, shape)
    return FlowPosterior(base, flow, features, to_context, of_noise=config.flow_of == "noise")


def _of_mean(features: int, outputs: int) -> nn.Module:
    """Maps [B, features, H, W] to numbers [B, outputs] that are linear in their mean."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, outputs))


def _planar(config: ModelConfig, shape: tuple[int, int, int]) -> Flow:
    return Planar(math.prod(code_shape(config, shape)), config.transformations, amortized=config.context)


def _real_nvp(config: ModelConfig, shape: tuple[int, int, int]) -> Flow:
    if config.code == "map":
        return _real_nvp_of_maps(config, shape)
    if config.normalization in ("none", "weight") and not config.flow_batch_norm:
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


def _real_nvp_of_maps(config: ModelConfig, shape: tuple[int, int, int]) -> Flow:
    """The flow of a code that is a map.

    Every other transformation, the first among them, couples the fields of a checkerboard, as long as the
    sides of the map are even; those between them couple halves of the channels.
    """
    channels, height, width = cast(tuple[int, int, int], code_shape(config, shape))
    turns = iter(range(config.transformations))

    def pair(channels: int) -> list[Flow]:
        return [
            _convolutional_coupling(config, channels, config.hidden, swap, context=config.context)
            for swap in (False, True)
        ]

    def transformation() -> list[Flow]:
        if next(turns) % 2 == 0 and height % 2 == 0 and width % 2 == 0:
            return [Checkerboard(Chain(pair(4 * channels)))]
        return pair(channels)

    return Flattened(_chain(config, transformation), (channels, height, width))


def _convolutional_coupling(
    config: ModelConfig,
    channels: int,
    hidden: int,
    swap: bool,
    alternate: bool = False,
    context: bool = False,
) -> Flow:
    moved = AffineCoupling.transformed_features(channels, swap)
    conditioner = ConvolutionalConditioner(
        channels - moved,
        hidden,
        2 * moved,
        config.blocks,
        context=context,
        normalization=config.normalization,
    )
    return AffineCoupling(conditioner, channels, swap, config.bounded, alternate)


def _inverse_autoregressive(config: ModelConfig, shape: tuple[int, int, int]) -> Flow:
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


def real_nvp(config: ModelConfig, shape: tuple[int, int, int]) -> RealNVPDensity:
    """Real NVP as a density of images of ``shape`` (C, H, W).

    Scales halve the sides while those are even and the smaller one has 8 pixels or more. At each there are K
    transformations; every other one couples the fields of a checkerboard, those between them even and odd
    channels, which sets the colours of a pixel against each other. Each further scale has networks wider by
    half of the first one's width.
    """
    _, height, width = shape
    if height % 2 or width % 2:
        raise UserError(f"images are {height} x {width}; the first scale takes sides that 2 divides")
    scales = 1
    while min(height, width) >= 8 * 2**scales and not (
        height % 2 ** (scales + 1) or width % 2 ** (scales + 1)
    ):
        scales += 1

    def scale(channels: int, hidden: int) -> Flow:
        flows: list[Flow] = []
        # An image goes through it from its end: the checkerboard is what it meets first.
        for alternate in reversed([k % 2 == 1 for k in range(config.transformations)]):
            flows += [
                _convolutional_coupling(config, channels, hidden, swap, alternate) for swap in (False, True)
            ]
            flows.append(BatchNormFlow(channels) if config.flow_batch_norm else ActNorm(channels))
        return Chain(flows)

    maps = RealNVPDensity.maps(shape, scales)
    widths = [config.hidden * (2 + index) // 2 for index in range(scales)]
    return RealNVPDensity(
        shape, [scale(channels, wide) for (channels, _, _), wide in zip(maps, widths, strict=True)]
    )


FAMILIES: dict[str, Callable[[ModelConfig, tuple[int, int, int]], Model]] = {
    "vae": build_vae,
    "pixelcnn": _pixel_cnn,
    "realnvp": real_nvp,
}

FLOWS: dict[str, Callable[[ModelConfig, tuple[int, int, int]], Flow]] = {
    "planar": _planar,
    "realnvp": _real_nvp,
    "iaf": _inverse_autoregressive,
}
