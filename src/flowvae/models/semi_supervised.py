"""A classifier and an autoencoder that learn together from few labels."""

from dataclasses import dataclass

from torch import nn

from flowvae.batch import DataSpec
from flowvae.config import Config, System
from flowvae.densities import GaussianPosterior, Likelihood, StandardNormal
from flowvae.models.base import Source
from flowvae.models.class_and_code import ImageAndLabel, SemiSupervised
from flowvae.models.couplings import CodeShape
from flowvae.models.labels import classes_of
from flowvae.models.likelihoods import BernoulliOptions, LikelihoodOptions
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.posteriors import GaussianOptions, PosteriorOptions, build_posterior
from flowvae.models.stacked import Autoencoder, CodeLikelihood, Stacked
from flowvae.networks import Encoder
from flowvae.networks.convolutional import kaiming
from flowvae.parts import DEEPEST, LARGEST, MOST, WIDEST, Part, ranged, to_dict, training_only


@dataclass(frozen=True)
class ImageInput(Part):
    """Images: the model M2."""

    name = "images"


@dataclass(frozen=True)
class CodeInput(Part):
    """Codes of a first autoencoder: the models M1+M2."""

    name = "codes"
    first_latent: int = ranged(50, 1, WIDEST)
    """number of latent dimensions of the first autoencoder"""
    first: str | None = training_only(None)
    """directory of a run of vae that becomes the first autoencoder and is not trained any further; without
    it, both are trained at the same time"""


@dataclass(frozen=True)
class SemiSupervisedOptions(System):
    """A classifier and an autoencoder whose code is a class and a vector, with few labels."""

    name = "semi-supervised"

    labels_used: int = ranged(100, 1, MOST, training_only=True)
    """number of labelled training images, the same number of each class; all other labels are ignored"""
    inputs: ImageInput | CodeInput = ImageInput()
    """input of classifier and autoencoder: images, or codes of a first autoencoder"""
    posterior: PosteriorOptions = GaussianOptions()
    """approximate posterior q(z|x, y): a Gaussian, alone or transformed by a flow"""
    likelihood: LikelihoodOptions = BernoulliOptions()
    """likelihood p(x|y, z): for binary pixels, bernoulli; for 8-bit pixels, logistic or
    logistic-mixture; for both, causal; for continuous pixels, gaussian"""
    latent: int = ranged(50, 1, WIDEST)
    """D, number of latent dimensions beside the class"""
    features: int = ranged(256, 1, WIDEST)
    """width of the encoders' embeddings and of the decoder's first layer"""
    channels: int = ranged(32, 2, WIDEST)
    """number of channels of the convolutions at quarter resolution; at half resolution, half as many"""
    blocks: int = ranged(1, 0, DEEPEST)
    """number of residual blocks per resolution"""
    labelled_per_step: int = ranged(32, 1, MOST, training_only=True)
    """number of labelled images per step, drawn from those used; the batch is in addition to them"""
    classification_weight: float = ranged(1.0, 0, LARGEST, training_only=True)
    """weight of the loss -log q(y|x) of labelled images, relative to the bounds"""
    smoothness_weight: float = ranged(0.0, 0, LARGEST, training_only=True)
    """weight of the virtual adversarial loss, by which q(y|x) changes little between close inputs; for codes,
    also between draws for one image"""
    smoothness_radius: float = ranged(1.0, 0, LARGEST, training_only=True)
    """largest Euclidean distance of inputs that the virtual adversarial loss calls close"""
    information_weight: float = ranged(0.0, 0, LARGEST, training_only=True)
    """weight of the mutual information of input and class, by which classes become distinct and balanced"""

    def build(self, data: DataSpec) -> SemiSupervised | Stacked:
        classes, sizes = classes_of(data), (data.shape, self.features, self.channels, self.blocks)
        of_codes = self.inputs if isinstance(self.inputs, CodeInput) else None

        def encoder() -> nn.Module:
            return Encoder(*sizes) if of_codes is None else _dense(of_codes.first_latent, self.features)

        def of_images(latent: int) -> Likelihood:
            networks = ConvolutionalOptions(self.channels, self.blocks)
            return self.likelihood.likelihood(networks, CodeShape(latent), self.features, data)

        classifier = nn.Sequential(encoder(), kaiming(nn.Linear(self.features, classes)))
        embedding, joint = encoder(), ImageAndLabel(self.features, classes)
        posterior = build_posterior(
            self.posterior, CodeShape(self.latent), self.features, full=False, blocks=self.blocks
        )
        if of_codes is None:
            likelihood = of_images(self.latent + classes)
        else:
            last = kaiming(nn.Linear(self.features, 2 * of_codes.first_latent), gain=0.1)
            likelihood = CodeLikelihood(nn.Sequential(_dense(self.latent + classes, self.features), last))
        model = SemiSupervised(
            classifier,
            embedding,
            joint,
            posterior,
            StandardNormal(self.latent),
            likelihood,
            classes,
            self.labels_used,
            self.labelled_per_step,
            self.classification_weight,
            self.smoothness_weight,
            self.smoothness_radius,
            self.information_weight,
        )
        if of_codes is None:
            return model
        latent = of_codes.first_latent
        first = GaussianPosterior(self.features, latent), StandardNormal(latent), of_images(latent)
        source = None
        if of_codes.first is not None:
            options = {
                "posterior": "gaussian",
                "covariance": "diagonal",
                "prior": "normal",
                **to_dict(self.likelihood),
                "likelihood": self.likelihood.name,
                "networks": "convolutional",
                "code": "vector",
                "latent": latent,
                "features": self.features,
                "channels": self.channels,
                "blocks": self.blocks,
            }
            source = Source(of_codes.first, "vae", options)
        return Stacked(Autoencoder(Encoder(*sizes), *first), model, source)

    def describe(self) -> str:
        what = "" if isinstance(self.inputs, ImageInput) else " of another's codes"
        return f"classifier and autoencoder{what}, {self.labels_used} labels, D = {self.latent}"


def _dense(inputs: int, features: int) -> nn.Module:
    """Build a perceptron of two layers, whose activations are normalized as the encoder's are."""
    layers = [kaiming(nn.Linear(inputs, features)), kaiming(nn.Linear(features, features))]
    norms = [nn.LayerNorm(features), nn.LayerNorm(features)]
    return nn.Sequential(layers[0], norms[0], nn.Hardswish(), layers[1], norms[1], nn.Hardswish())


PRESETS: dict[str, Config] = {
    "semi-supervised": Config(model=SemiSupervisedOptions()),
    # M1 has the sizes of the preset vae. Weights and radius were tuned for the codes of binary MNIST.
    "semi-supervised-stacked": Config(
        model=SemiSupervisedOptions(
            inputs=CodeInput(first_latent=40),
            latent=10,
            channels=64,
            classification_weight=30.0,
            smoothness_weight=30.0,
            information_weight=30.0,
        )
    ),
}
