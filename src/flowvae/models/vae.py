"""The variational autoencoder as a system: options, and presets."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from flowvae.batch import DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.densities import (
    BernoulliLikelihood,
    FlowPosterior,
    GaussianPosterior,
    Likelihood,
    Posterior,
    Prior,
)
from flowvae.errors import UserError, check_range, checked_shape
from flowvae.flows import Flow
from flowvae.models.autoencoder import VAE
from flowvae.models.base import evaluating
from flowvae.models.bounds import ELBO, ImportanceWeighted
from flowvae.models.couplings import CodeShape
from flowvae.models.labels import classes_of
from flowvae.models.likelihoods import (
    BernoulliOptions,
    CausalLikelihoodOptions,
    GaussianPixelsOptions,
    LikelihoodOptions,
    LogisticMixtureOptions,
)
from flowvae.models.networks import ConvolutionalOptions, DenseOptions, NetworkOptions
from flowvae.models.posteriors import (
    GaussianOptions,
    InverseAutoregressiveOptions,
    PlanarOptions,
    PosteriorOptions,
    RealNVPOptions,
    build_posterior,
)
from flowvae.models.priors import NormalOptions, PriorOptions, RealNVPPriorOptions, VampOptions
from flowvae.networks.convolutional import STRIDE, fewer
from flowvae.networks.labels import table
from flowvae.parts import MOST, WIDEST, Part, from_dict, ranged, training_only

MOST_LEVELS = 2**16


@dataclass(frozen=True)
class VectorOptions(Part):
    """A code of D numbers."""

    name = "vector"
    features: int = ranged(256, 1, WIDEST)
    """width of the encoder's embedding and of the decoder's first layer"""


@dataclass(frozen=True)
class MapOptions(Part):
    """A code of feature maps at a quarter of the images' height and width, with convolutional flows."""

    name = "map"


@dataclass(frozen=True)
class VAEOptions(System):
    """A variational autoencoder: its posterior, prior, likelihood and networks."""

    name = "vae"

    posterior: PosteriorOptions = GaussianOptions()
    """approximate posterior q(z|x): a Gaussian, alone or transformed by a flow"""
    prior: PriorOptions = NormalOptions()
    """prior p(z): standard normal, Real NVP flow, or VampPrior, a mixture of posteriors of pseudo-inputs"""
    likelihood: LikelihoodOptions = BernoulliOptions()
    """likelihood p(x|z): for binary pixels, bernoulli; for 8-bit pixels, discretized logistic, or a mixture
    of these; for both, causal, which is autoregressive over 2x2 patches; for continuous pixels, gaussian"""
    code: VectorOptions | MapOptions = VectorOptions()
    """kind of code z: a vector of D numbers, or feature maps at a quarter of the images' height and width"""
    objective: ELBO | ImportanceWeighted = training_only(ELBO())
    """bound that training maximizes; validation uses the same one"""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """covariance of the posterior's Gaussian: diagonal, or full, by a Cholesky factor from the encoder"""
    latent: int = ranged(40, 1, WIDEST)
    """D, number of latent dimensions; with code map, number of channels"""
    networks: NetworkOptions = ConvolutionalOptions()
    """networks of images: convolutional, or dense, which are fully connected"""
    samples: int = ranged(1, 1, MOST, training_only=True)
    """S, number of posterior samples per image in training"""
    kl_warm_up: int = ranged(500, 0, MOST, training_only=True)
    """number of steps over which the weight of the KL term, log p(z) - log q(z|x), rises from 0 to 1"""
    labels: bool = False
    """make the density that of images given their labels, p(x|y), for data with labels"""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_map = isinstance(self.code, MapOptions)
        if self.covariance == "full" and (is_map or isinstance(self.prior, VampOptions)):
            what = "a code that is a map" if is_map else "the vamp prior"
            raise UserError(f"{what} needs a Gaussian with diagonal covariance; choose --covariance diagonal")
        if is_map and not isinstance(self.networks, ConvolutionalOptions):
            raise UserError(f"{self.networks.name} networks need a code that is a vector; omit --code map")

    def code_shape(self, shape: tuple[int, int, int]) -> CodeShape:
        """Return the shape of a code, for images of ``shape`` (C, H, W)."""
        sides = fewer(shape[1:], STRIDE) if isinstance(self.code, MapOptions) else None
        return CodeShape(self.latent, sides)

    def build(self, data: DataSpec) -> VAE:
        classes = classes_of(data) if self.labels else 0
        return self.with_parts(data.shape, sees_mask=data.missing, classes=classes, levels=data.levels)

    def with_parts(
        self,
        shape: tuple[int, int, int],
        encoder: nn.Module | None = None,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        flow: Flow | None = None,
        sees_mask: bool = False,
        classes: int = 0,
        levels: int | None = None,
    ) -> VAE:
        """Build the autoencoder for images of ``shape`` (C, H, W); given parts replace those described.

        With ``sees_mask``, the encoder takes images and masks, [B, 2 C, H, W]. With ``classes``, the model is
        that of images given their labels. ``levels``: number of values of a pixel, for a causal likelihood;
        None for 2.
        """
        seen = (shape[0] * (2 if sees_mask else 1), *shape[1:])
        code = self.code_shape(shape)._replace(classes=classes)
        width = self.code.features if isinstance(self.code, VectorOptions) else None
        channels, blocks = 0, 0  # of maps, which only convolutional networks have
        if isinstance(self.networks, ConvolutionalOptions):
            channels, blocks = self.networks.channels, self.networks.blocks
        features = channels if width is None else width
        # Parts draw their weights in this order; changing it changes the weights of a seed.
        if encoder is not None:
            own = encoder
            with evaluating(encoder), torch.no_grad():
                features = encoder(torch.zeros(2, *seen)).shape[1]
        else:
            own = self.networks.encoder(seen, width)
        full, transformations = self.covariance == "full", 0
        if flow is not None:
            posterior = FlowPosterior(GaussianPosterior(features, self.latent, full=full), flow, features)
        elif posterior is None:
            posterior = build_posterior(self.posterior, code, features, full, blocks)
            transformations = getattr(self.posterior, "transformations", 0)
        if prior is None:
            prior = self.prior.prior(code, blocks, seen, own, posterior)
        if likelihood is None:
            likelihood = self.likelihood.likelihood(self.networks, code, width, DataSpec(shape, levels))
        training = self.objective, self.samples, self.kl_warm_up
        of_label = table(classes, features) if classes else None
        model = VAE(own, posterior, prior, likelihood, *training, transformations, sees_mask, of_label)
        model.image_shape = shape
        return model

    def describe(self) -> str:
        size = f"D = {self.latent}" if isinstance(self.code, VectorOptions) else f"{self.latent} maps as code"
        transformations = getattr(self.posterior, "transformations", 0)
        posterior = self.posterior.name + (f", K = {transformations}" if transformations else "")
        what = f"autoencoder, {size}; posterior {posterior}"
        if self.prior.name != "normal" or self.likelihood.name != "bernoulli":
            what += f"; prior {self.prior.name}, likelihood {self.likelihood.name}"
        if not isinstance(self.networks, ConvolutionalOptions):
            what += f"; {self.networks.name} networks"
        return what + ("; given labels" if self.labels else "")


def vae(
    shape: tuple[int, int, int],
    *,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
    flow: Flow | None = None,
    posterior: Posterior | str = "gaussian",
    prior: Prior | str = "normal",
    likelihood: Likelihood | str = "bernoulli",
    classes: int = 0,
    levels: int | None = None,
    **options: Any,
) -> VAE:
    """Build a variational autoencoder for images of ``shape`` (C, H, W) from named parts and your own.

    Args:
        shape: (C, H, W).
        encoder: maps images [B, C, H, W] to features [B, F].
        decoder: maps codes [N, D] to logits of binary pixels [N, C, H, W].
        flow: flow of codes [S, B, D] that transforms a Gaussian posterior.
        posterior: q(z|x), or its name.
        prior: p(z), or its name.
        likelihood: p(x|z), or its name.
        classes: K, number of classes, for a model of images given their labels, p(x|y). A prior of your own
            then takes labels, and a decoder or likelihood codes [..., D + K] that end with the one-hot label.
        levels: number of values, evenly spaced from 0 to 1, that a pixel takes: 256 for a causal likelihood
            of 8-bit images. By default that of the likelihood, 2 for a causal one.
        options: other options, by the names that ``flowvae train vae --help`` lists.

    Raises:
        UserError: for an unknown option, a shape that is none, two parts of which one would replace the
            other, a flow of maps, or a likelihood for another number of levels.

    >>> from flowvae.flows import Planar
    >>> model = vae((1, 28, 28), latent=8, flow=Planar(8, transformations=4, amortized=True))
    >>> model.encode(torch.zeros(7, 1, 28, 28), num_samples=5).shape
    torch.Size([5, 7, 8])
    """
    shape = checked_shape(shape)
    if decoder is not None and likelihood != "bernoulli":
        raise UserError("a decoder of your own outputs logits of binary pixels; omit likelihood")
    if flow is not None and posterior != "gaussian":
        raise UserError("a flow of your own transforms a Gaussian; omit posterior")
    if decoder is not None:
        likelihood = BernoulliLikelihood(decoder, shape)
    given = {"posterior": posterior, "prior": prior, "likelihood": likelihood}
    named = {name: value for name, value in given.items() if isinstance(value, str)}
    made = {name: value for name, value in given.items() if not isinstance(value, str)}
    described = from_dict(VAEOptions, {**named, **options})
    if described.labels:
        raise UserError("labels has no effect here; give the number of classes instead")
    if flow is not None and not isinstance(described.code, VectorOptions):
        raise UserError(
            "a flow of your own transforms a code that is a vector; omit code, or give a posterior"
        )
    if levels is not None:
        check_range("levels", levels, 2, MOST_LEVELS)
    model = described.with_parts(shape, encoder=encoder, flow=flow, classes=classes, levels=levels, **made)
    if levels not in (None, model.levels):
        values = "any value" if model.levels is None else f"{model.levels} values"
        raise UserError(f"levels is {levels}, and pixels of this likelihood take {values}; choose another")
    return model


# Measured for models with many more multiplications per image, which take fewer images per step.
_SMALL_STEPS = TrainingConfig(batch_size=64, learning_rate=2e-3, weight_decay=0.01)

_DENSE = TrainingConfig(learning_rate=1e-3, epochs=20)

_BOTH_FLOWS = VAEOptions(
    RealNVPOptions(transformations=2, flow_of="noise"),
    RealNVPPriorOptions(prior_transformations=4),
    CausalLikelihoodOptions(causal_channels=80, causal_blocks=5, causal_dropout=0.05, causal_orders=16),
    covariance="full",
    latent=32,
)

# The decoders of Wu et al. (2017), 50-1024-1024-1024-784 and 10-64-256-256-1024-784, with their variances.
_WU_50 = VAEOptions(
    likelihood=GaussianPixelsOptions(variance=0.005),
    networks=DenseOptions(widths="1024-1024"),
    code=VectorOptions(features=1024),
    latent=50,
)
_WU_10 = VAEOptions(
    likelihood=GaussianPixelsOptions(variance=0.01),
    networks=DenseOptions(widths="256-256-1024"),
    code=VectorOptions(features=64),
    latent=10,
)

# For colour images: the code is a map, and pixels are mixtures whose channels depend on each other.
_COLOUR = VAEOptions(
    likelihood=LogisticMixtureOptions(),
    networks=ConvolutionalOptions(channels=96, blocks=2),
    code=MapOptions(),
    latent=16,
)
_COLOUR_POSTERIORS = {
    "": _COLOUR,
    "-planar": replace(_COLOUR, posterior=PlanarOptions(transformations=10)),
    "-realnvp": replace(
        _COLOUR, posterior=RealNVPOptions(transformations=4, hidden=64, normalization="weight")
    ),
    "-realnvp-prior": replace(
        _COLOUR,
        prior=RealNVPPriorOptions(prior_transformations=4, prior_hidden=64, prior_normalization="weight"),
    ),
}

PRESETS: dict[str, Config] = {
    "vae": Config(model=VAEOptions()),
    **{f"planar-{k}": Config(model=VAEOptions(PlanarOptions(transformations=k))) for k in (4, 10, 20, 40)},
    **{
        f"realnvp-{k}": Config(
            model=VAEOptions(
                RealNVPOptions(transformations=k, flow_of="noise", normalization="weight"), covariance="full"
            )
        )
        for k in (2, 5, 10, 20)
    },
    "iaf-4": Config(
        model=VAEOptions(
            InverseAutoregressiveOptions(transformations=4, flow_of="noise", hidden=320), covariance="full"
        )
    ),
    **{
        f"wu-vae-{model.latent}": Config(DataConfig("mnist", "none"), model, _DENSE)
        for model in (_WU_50, _WU_10)
    },
    "density-small": Config(
        model=_BOTH_FLOWS,
        training=TrainingConfig(batch_size=128, learning_rate=4e-3, weight_decay=0.03, minutes=60.0),
    ),
    "density": Config(
        model=replace(
            _BOTH_FLOWS,
            likelihood=CausalLikelihoodOptions(
                causal_channels=96, causal_blocks=6, causal_dropout=0.2, causal_orders=8
            ),
            networks=ConvolutionalOptions(blocks=2),
            code=VectorOptions(features=512),
        ),
        training=replace(_SMALL_STEPS, minutes=160.0, weight_decay=0.05),
    ),
    "cifar10-causal": Config(
        DataConfig("cifar10", "none"),
        replace(
            _COLOUR_POSTERIORS["-realnvp-prior"],
            likelihood=CausalLikelihoodOptions(causal_channels=96, causal_blocks=6),
        ),
        replace(_SMALL_STEPS, batch_size=32, learning_rate=5e-3, minutes=360.0, validation_images=1000),
    ),
    **{
        data + suffix: Config(
            DataConfig(data, "none"), model, replace(_SMALL_STEPS, minutes=180.0, validation_images=1000)
        )
        for data in ("cifar10", "svhn", "celeba")
        for suffix, model in _COLOUR_POSTERIORS.items()
    },
}
