"""From a configuration to modules: the only factory."""

from collections.abc import Callable

from flowvae.config import ModelConfig
from flowvae.densities import BernoulliLikelihood, FlowPosterior, GaussianPosterior, Posterior, StandardNormal
from flowvae.errors import UserError
from flowvae.flows import AffineCoupling, BatchNormFlow, Chain, Flow, InverseAutoregressive, Planar
from flowvae.models import VAE
from flowvae.networks import Decoder, Dense, Encoder, MaskedDense


def build_model(config: ModelConfig, shape: tuple[int, int, int]) -> VAE:
    """The model for images of ``shape`` (C, H, W), freshly initialised from torch's generator.

    >>> from flowvae.presets import preset
    >>> model = build_model(preset("realnvp-2").model, (1, 28, 28))
    """
    channels, height, width = shape
    if channels != 1 or height % 4 or width % 4:
        raise UserError(
            f"images are {channels} x {height} x {width}; expected one channel and sides that 4 divides"
        )
    return VAE(
        Encoder(shape, config.features),
        posterior(config),
        StandardNormal(config.latent),
        BernoulliLikelihood(Decoder(config.latent, shape)),
    )


def posterior(config: ModelConfig) -> Posterior:
    """q(z|x): a Gaussian, pushed through the flow that the configuration names."""
    base = GaussianPosterior(config.features, config.latent)
    if config.posterior == "gaussian":
        return base
    return FlowPosterior(base, FLOWS[config.posterior](config), config.features)


def _planar(config: ModelConfig) -> Flow:
    return Planar(config.latent, config.transformations, amortized=config.context)


def _real_nvp(config: ModelConfig) -> Flow:
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
