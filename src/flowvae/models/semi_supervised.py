"""A classifier and an autoencoder that learn together from few labels."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from flowvae import shares
from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, System
from flowvae.densities import (
    GaussianPosterior,
    Likelihood,
    LogDensities,
    Posterior,
    Prior,
    StandardNormal,
    take_path_derivative,
)
from flowvae.flows import at_least_float32
from flowvae.models.base import Bounded, Classifying, Model, Sampler, Source, Update
from flowvae.models.classification import divergence, information_loss, smoothness_loss
from flowvae.models.couplings import CodeShape
from flowvae.models.labels import classes_of, draw_labelled, few_of
from flowvae.models.likelihoods import BernoulliOptions, LikelihoodOptions
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.posteriors import GaussianOptions, PosteriorOptions, build_posterior
from flowvae.models.starting import start_from_data
from flowvae.networks import Encoder
from flowvae.networks.convolutional import kaiming
from flowvae.noise import Noise, integers, normal
from flowvae.parts import DEEPEST, LARGEST, MOST, WIDEST, Part, ranged, to_dict, training_only


class Labelled(NamedTuple):
    """Images with labels, for one step."""

    images: Tensor
    """[B, ...]"""
    seen: Tensor
    """what the classifier sees of them, [B, ...]"""
    labels: Tensor
    """int64 [B]"""


class ImageAndLabel(nn.Module):
    """Maps the embedding of images and their labels to the features of ``q(z|x, y)``.

    Args:
        features: F, width of the embedding and of the features.
        classes: K.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.of_image = kaiming(nn.Linear(features, features))
        self.of_label = nn.Embedding(classes, features)

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """``embedding`` [B, F], labels [S, B]; returns [S, B, F]."""
        return F.hardswish(self.of_image(embedding) + self.of_label(labels))


class SemiSupervised(Model, Sampler, Bounded, Classifying):
    """M2 of Kingma, Mohamed, Rezende & Welling (2014): an autoencoder whose code is a class y and a vector z.

    ``p(x, y, z) = p(y) p(z) p(x|y, z)`` with uniform p(y), and ``q(y, z|x) = q(y|x) q(z|x, y)``. With

        ``L(x, y) = E_q(z|x,y)[log p(x|y, z) + log p(y) + log p(z) - log q(z|x, y)]  <=  log p(x, y)``
        ``U(x) = sum_y q(y|x) (L(x, y) - log q(y|x))  <=  log p(x)``

    training maximizes the mean of U over all images, plus the means of ``L(x, y)`` and of
    ``weight log q(y|x)`` over the labelled ones. The sum over classes in U is exact. `smoothness_loss` and
    `information_loss` of all images regularize the classifier: they move its borders away from the images.

    The labelled images are drawn once, by `initialize_each`; the labels of batches are never read. Validation
    uses U of validation images, and its regularized form with these losses, so no other label affects the
    weights that are kept.

    Args:
        classifier: maps images [B, C, H, W] to logits of classes [B, K].
        encoder: maps images to an embedding [B, F].
        joint: maps embedding and labels to the features of ``q(z|x, y)``, as `ImageAndLabel`.
        posterior: q(z|x, y), from these features.
        prior: ``prior()`` is the distribution p(z).
        likelihood: ``likelihood(c)`` is the distribution p(x|y, z), for ``c`` [S, B, D + K], z and y one-hot.
        classes: K.
        labels: number of labelled images.
        labelled: number of labelled images drawn for each step.
        weight: weight of ``log q(y|x)``.
        smoothness: weight of `smoothness_loss`.
        radius: its radius.
        information: weight of `information_loss`.
    """

    best = "negative_elbo"

    def __init__(
        self,
        classifier: nn.Module,
        encoder: nn.Module,
        joint: nn.Module,
        posterior: Posterior,
        prior: Prior,
        likelihood: Likelihood,
        classes: int,
        labels: int = 100,
        labelled: int = 32,
        weight: float = 1.0,
        smoothness: float = 0.0,
        radius: float = 1.0,
        information: float = 0.0,
    ) -> None:
        super().__init__()
        self.classifier, self.encoder, self.joint = classifier, encoder, joint
        self.posterior, self.prior, self.likelihood = posterior, prior, likelihood
        self.classes, self.labels, self.labelled, self.weight = classes, labels, labelled, weight
        self.smoothness, self.radius, self.information = smoothness, radius, information
        self.levels = likelihood.levels
        self.draws = likelihood.pixel_noise is not None
        self.known: Batch | None = None
        """the labelled images; under dynamic binarization, intensities"""
        self.best = "regularized_bound" if smoothness or information else "negative_elbo"
        take_path_derivative(self)

    def initialize(self, images: Tensor) -> None:
        self.prior.initialize(images)
        self.likelihood.initialize(images)
        start_from_data(self, images)

    def initialize_each(self, batches: Iterator[Batch]) -> None:
        """Draw the labelled images, the same for the same seed, whatever the networks."""
        noise = torch.Generator().manual_seed(torch.initial_seed())
        self.known = draw_labelled(batches, self.labels, noise)

    # Training.

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        known = None
        if self.known is not None:
            images, labels = few_of(self.known, self.labelled, self.levels, batch.images)
            known = Labelled(images, images, labels)
        yield Update("model", *self.loss(batch.images, batch.images, known))

    def loss(self, images: Tensor, seen: Tensor, known: Labelled | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and what to log, of images without and with labels; ``seen`` as in forward."""
        terms, log_class = self(images, seen)
        loss = -(log_class.exp() * (self._joint_bound(terms) - log_class)).sum(0).mean()
        shown = {"negative_elbo": loss.detach()}
        if self.smoothness:
            smoothness = smoothness_loss(self.classifier, seen, log_class.t(), self.radius)
            if seen is not images:  # draws about the center have its class
                smoothness = smoothness + divergence(log_class.t().detach(), self.classify(images))
            loss = loss + self.smoothness * smoothness
            shown["smoothness"] = smoothness.detach()
        if self.information:
            information = information_loss(log_class.t())
            loss = loss + self.information * information
            shown["information"] = -information.detach()
        if known is not None:
            labels = known.labels
            with shares.sharing(None):  # they are the same in all processes
                of_labelled = -self._joint_bound(self.log_densities(known.images, labels.unsqueeze(0))).mean()
                classification = F.nll_loss(self.classify(known.seen), labels)
            loss = loss + of_labelled + self.weight * classification
            shown |= {"labelled": of_labelled.detach(), "classification": classification.detach()}
        return loss, shown

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return self.bound(batch.images)

    def bound(self, images: Tensor, seen: Tensor | None = None) -> dict[str, Tensor]:
        """Compute -U of images, and its parts, [B] each; ``seen`` as in forward."""
        terms, log_class = self(images, seen)
        chance = log_class.exp()
        reconstruction = -(chance * terms.likelihood).sum(0)
        negative_elbo = -(chance * (self._joint_bound(terms) - log_class)).sum(0)
        return {
            "negative_elbo": negative_elbo,
            "kl": negative_elbo - reconstruction,
            "reconstruction": reconstruction,
            **self._regularized(negative_elbo, log_class, images),
        }

    def _regularized(self, negative_elbo: Tensor, log_class: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Add to -U what single images have of the classifier's losses; it chooses regularized weights.

        These are the entropy of q(y|x) and, if the classifier sees centers, the divergence from draws.
        """
        if self.best == "negative_elbo":
            return {}
        entropy = -(log_class.exp() * log_class).sum(0)
        apart = (log_class.exp() * (log_class - self.classify(images).t())).sum(0)
        return {"regularized_bound": negative_elbo + self.information * entropy + self.smoothness * apart}

    # Densities.

    def forward(
        self, images: Tensor, seen: Tensor | None = None, noise: Noise = None
    ) -> tuple[LogDensities, Tensor]:
        """Return the log densities with each class, one draw of z each, and log q(y|x): [K, B] all.

        The classes of an image share the noise of z, so that their bounds differ by the class only: it makes
        the gradient of q(y|x) less noisy.

        Args:
            images: x.
            seen: what the classifier sees in place of them.
            noise: standard normal, [1, B, D], or a generator of all that is drawn.
        """
        classes = torch.arange(self.classes, device=images.device)
        labels = classes.unsqueeze(1).expand(-1, len(images))
        log_class = self.classify(images if seen is None else seen).t()
        shared = normal(noise, (1, len(images), self.prior().event_shape[0]), images, images=1)
        generator = None if isinstance(noise, Tensor) else noise
        drawn = shared.repeat(1, self.classes, 1)
        return self._log_densities(images, self.encoder(images), labels, drawn, generator), log_class

    def log_densities(self, images: Tensor, labels: Tensor, noise: Noise = None) -> LogDensities:
        """Return log p(x|y, z), log p(z) and log q(z|x, y), for images [B, C, H, W] and labels [S, B].

        ``noise``: standard normal, [1, S B, D], or a generator of all that is drawn.
        """
        generator = None if isinstance(noise, Tensor) else noise
        return self._log_densities(images, self.encoder(images), labels, noise, generator)

    def _log_densities(
        self,
        images: Tensor,
        embedding: Tensor,
        labels: Tensor,
        noise: Noise,
        generator: torch.Generator | None,
    ) -> LogDensities:
        z, log_q = self.posterior(self.joint(embedding, labels).flatten(0, 1), 1, noise)
        z, log_q = z.view(*labels.shape, -1), log_q.view(labels.shape)
        likelihood = self.likelihood(self._code(z, labels), generator)
        return LogDensities(likelihood.log_prob(images), self.prior().log_prob(z), log_q)

    def _code(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([z, F.one_hot(labels, self.classes).to(z.dtype)], -1)

    def _joint_bound(self, terms: LogDensities) -> Tensor:
        """L(x, y) with one draw of z."""
        return terms.likelihood + terms.prior - terms.posterior - math.log(self.classes)

    def draws_for(
        self, images: Tensor, noise: Noise = None, seen: Tensor | None = None
    ) -> Callable[[int], LogDensities]:
        """Return a function of n, the log densities at n draws of (y, z); ``seen`` as in forward."""
        embedding, log_class = self.encoder(images), self.classify(images if seen is None else seen)
        generator = noise if isinstance(noise, torch.Generator) else None

        def draw(num_samples: int) -> LogDensities:
            chance = log_class.exp()
            labels = torch.multinomial(chance, num_samples, replacement=True, generator=generator).t()
            terms = self._log_densities(images, embedding, labels, generator, generator)
            prior = terms.prior - math.log(self.classes)
            return LogDensities(terms.likelihood, prior, terms.posterior + log_class.t().gather(0, labels))

        return draw

    def classify(self, images: Tensor) -> Tensor:
        return at_least_float32(self.classifier(images)).log_softmax(1)

    # Images.

    @torch.no_grad()
    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Draw images, with classes and codes from the prior; ``noise`` is a generator or None."""
        generator = noise if isinstance(noise, torch.Generator) else None
        z = self.prior.sample(num_images, generator, temperature)
        labels = integers(generator, self.classes, (num_images,), z)
        return self.likelihood.images(self._code(z, labels).unsqueeze(0), generator)[0]

    draws_pixels = True

    @torch.no_grad()
    def draw(self, num_images: int, labels: Tensor | None = None) -> Tensor:
        z = self.prior.sample(num_images)
        classes = integers(None, self.classes, (num_images,), z)
        return self.likelihood(self._code(z, classes).unsqueeze(0)).sample()[0]


class CodeLikelihood(Likelihood):
    """A Gaussian of codes [B, D_1], with mean and log scale from a network of (z, y)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> Distribution:
        mean, log_scale = at_least_float32(self.network(z)).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)


class Autoencoder(nn.Module):
    """M1: encoder, posterior q(z_1|x), standard normal prior, likelihood p(x|z_1)."""

    def __init__(
        self, encoder: nn.Module, posterior: Posterior, prior: Prior, likelihood: Likelihood
    ) -> None:
        super().__init__()
        self.encoder, self.posterior, self.prior, self.likelihood = encoder, posterior, prior, likelihood

    def forward(
        self, images: Tensor, num_samples: int = 1, noise: Noise = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes [S, B, D_1], log q(z_1|x) and log p(x|z_1), [S, B]."""
        codes, log_q = self.posterior(self.encoder(images), num_samples, noise)
        generator = noise if isinstance(noise, torch.Generator) else None
        return codes, log_q, self.likelihood(codes, generator).log_prob(images)

    def center(self, images: Tensor) -> Tensor:
        """Encode without noise, [B, D_1]."""
        return self.posterior.center(self.encoder(images))[0]


class Stacked(Model, Sampler, Bounded, Classifying):
    """M1+M2 of Kingma et al. (2014): M2 of the codes of an autoencoder, M1.

    ``p(x, z_1, y, z_2) = p(y) p(z_2) p(z_1|y, z_2) p(x|z_1)``. M1 maximizes its own ELBO, with a standard
    normal prior, or is fixed. M2 maximizes its objective on draws of M1's posterior, which are data for it.
    Validation uses

        ``E_q(z_1|x)[log p(x|z_1) - log q(z_1|x) + U(z_1)]  <=  log p(x)``

    The classifier q(y|x) sees the center of q(z_1|x), also in U: draws of one image have one class.

    Args:
        first: M1.
        second: M2.
        source: the run that M1 is taken from, in which case it is fixed; None to train both.
    """

    best = "negative_elbo"

    def __init__(self, first: Autoencoder, second: SemiSupervised, source: Source | None = None) -> None:
        super().__init__()
        self.source = source
        self.first, self.second = first, second
        self.classes, self.levels = second.classes, first.likelihood.levels
        self.best = second.best
        self.draws = first.likelihood.pixel_noise is not None
        self.known: Batch | None = None
        take_path_derivative(self.first)

    def players(self) -> dict[str, nn.Module]:
        return {"second": self.second} if self.source else {"first": self.first, "second": self.second}

    def sources(self) -> dict[str, Source]:
        return {"first": self.source} if self.source else {}

    def initialize(self, images: Tensor) -> None:
        if self.source is None:
            self.first.likelihood.initialize(images)
            start_from_data(self.first, images)
        with torch.no_grad():
            start_from_data(self.second, self.first.center(images[:256]))

    def initialize_each(self, batches: Iterator[Batch]) -> None:
        """Draw the labelled images, as M2 does."""
        noise = torch.Generator().manual_seed(torch.initial_seed())
        self.known = draw_labelled(batches, self.second.labels, noise)

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        if self.source is None:
            codes, log_q, log_p = self.first(batch.images)
            loss = -(log_p + self.first.prior().log_prob(codes) - log_q).mean()
            yield Update("first", loss, {"first_negative_elbo": loss.detach()})
        known = None
        with torch.no_grad():
            codes = self._encoded(batch.images)
            if self.known is not None:
                images, labels = few_of(self.known, self.second.labelled, self.levels, batch.images)
                with shares.sharing(None):
                    known = Labelled(*self._encoded(images), labels)
        loss, shown = self.second.loss(*codes, known)
        yield Update("second", loss, {f"second_{name}": value for name, value in shown.items()})

    def _encoded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and centers of q(z_1|x), [B, D_1] both."""
        embedding = self.first.encoder(images)
        return self.first.posterior(embedding)[0][0], self.first.posterior.center(embedding)[0]

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        codes, log_q, log_p = self.first(batch.images)
        of_codes = self.second.bound(codes[0], self.first.center(batch.images))
        kl = of_codes["negative_elbo"] + log_q[0]
        scores = {"negative_elbo": kl - log_p[0], "kl": kl, "reconstruction": -log_p[0]}
        if self.best not in scores:
            scores[self.best] = of_codes[self.best] + log_q[0] - log_p[0]
        return scores

    def draws_for(self, images: Tensor, noise: Noise = None) -> Callable[[int], LogDensities]:
        centers = self.first.center(images)

        def draw(num_samples: int) -> LogDensities:
            codes, log_q, log_p = self.first(images, num_samples, noise)
            seen = centers.expand(num_samples, -1, -1).flatten(0, 1)
            terms = self.second.draws_for(codes.flatten(0, 1), noise, seen)(1)
            likelihood, prior, posterior = (term.view(log_q.shape) for term in terms)
            return LogDensities(log_p, likelihood + prior, log_q + posterior)

        return draw

    def classify(self, images: Tensor) -> Tensor:
        return self.second.classify(self.first.center(images))

    @torch.no_grad()
    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Draw images from means of p(z_1|y, z_2) for classes and codes from the prior."""
        generator = noise if isinstance(noise, torch.Generator) else None
        codes = self.second.sample(num_images, generator, temperature)
        return self.first.likelihood.images(codes.unsqueeze(0), generator)[0]

    draws_pixels = True

    @torch.no_grad()
    def draw(self, num_images: int, labels: Tensor | None = None) -> Tensor:
        return self.first.likelihood(self.second.draw(num_images).unsqueeze(0)).sample()[0]


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
