"""A classifier and an autoencoder that learn together from few labels."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, System
from flowvae.densities import (
    Likelihood,
    LogDensities,
    Posterior,
    Prior,
    StandardNormal,
    take_path_derivative,
)
from flowvae.errors import UserError
from flowvae.flows import at_least_float32
from flowvae.models.base import Bounded, Classifying, Model, Sampler, Update
from flowvae.models.couplings import CodeShape
from flowvae.models.likelihoods import BernoulliOptions, LikelihoodOptions
from flowvae.models.posteriors import GaussianOptions, PosteriorOptions, build_posterior
from flowvae.models.starting import start_from_data
from flowvae.networks import Encoder, VectorCode
from flowvae.networks.convolutional import kaiming
from flowvae.noise import Noise, integers
from flowvae.parts import DEEPEST, LARGEST, MOST, WIDEST, ranged


def draw_labelled(batches: Iterable[Batch], number: int, noise: torch.Generator) -> Batch:
    """Draw ``number`` labelled images, the same number of each class, without replacement.

    Images with the label -1 are not drawn.

    Raises:
        UserError: if there are no labels, ``number`` is not a multiple of the number of classes, or a class
            has too few images.
    """
    kept: list[Tensor] = []  # images, index, labels and keys; the draw is the images with the smallest keys
    counts: Counter[int] = Counter()
    for batch in batches:
        if batch.labels is None:
            continue
        known = batch.labels >= 0
        counts.update(batch.labels[known].tolist())
        keys = torch.rand(len(known), generator=noise)
        new = [each[known] for each in (batch.images, batch.index, batch.labels, keys)]
        kept = [torch.cat(pair) for pair in zip(kept, new, strict=True)] if kept else new
        kept = _smallest(kept, max(1, number // len(counts))) if counts else kept
    if not counts:
        raise UserError("the training images have no labels; choose data with labels")
    if number % len(counts):
        raise UserError(
            f"labels_used is {number}; it must be a multiple of the number of classes, {len(counts)}"
        )
    label, fewest = min(counts.items(), key=lambda item: (item[1], item[0]))
    if fewest < number // len(counts):
        raise UserError(
            f"labels_used is {number}, {number // len(counts)} of each class, but class {label} has only "
            f"{fewest} labelled training images; choose at most --labels-used {fewest * len(counts)}"
        )
    images, index, labels, _ = _smallest(kept, number // len(counts))
    return Batch(images, index, labels)


def _smallest(kept: list[Tensor], of_each: int) -> list[Tensor]:
    """Keep the images with the smallest keys of each class."""
    *_, labels, keys = kept
    order = keys.argsort()
    places = torch.cat([order[labels[order] == label][:of_each] for label in labels.unique()])
    return [each[places] for each in kept]


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
    ``weight log q(y|x)`` over the labelled ones. The sum over classes in U is exact.

    The labelled images are drawn once, by `initialize_each`; the labels of batches are never read. Validation
    uses U of validation images, so no other label affects the weights that are kept.

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
    ) -> None:
        super().__init__()
        self.classifier, self.encoder, self.joint = classifier, encoder, joint
        self.posterior, self.prior, self.likelihood = posterior, prior, likelihood
        self.classes, self.labels, self.labelled, self.weight = classes, labels, labelled, weight
        self.levels = likelihood.levels
        self.draws = likelihood.pixel_noise is not None
        self.known: Batch | None = None
        """the labelled images; under dynamic binarization, intensities"""
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
        terms, log_class = self(batch.images)
        elbo = (log_class.exp() * (self._joint_bound(terms) - log_class)).sum(0)
        loss = -elbo.mean()
        shown = {"negative_elbo": loss.detach()}
        if self.known is not None:
            images, labels = self._labelled_images(batch.images)
            of_labelled = -self._joint_bound(self.log_densities(images, labels.unsqueeze(0))).mean()
            classification = F.nll_loss(self.classify(images), labels)
            loss = loss + of_labelled + self.weight * classification
            shown |= {"labelled": of_labelled.detach(), "classification": classification.detach()}
        yield Update("model", loss, shown)

    def _labelled_images(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Draw labelled images for one step, with their labels; binary images are drawn from intensities."""
        assert self.known is not None
        assert self.known.labels is not None
        few = torch.randint(len(self.known.images), (self.labelled,))
        images = self.known.images[few]
        images = torch.bernoulli(images) if self.levels == 2 else images
        return images.to(like.device), self.known.labels[few].to(like.device)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Compute -U of the images; their labels are not used."""
        terms, log_class = self(batch.images)
        chance = log_class.exp()
        reconstruction = -(chance * terms.likelihood).sum(0)
        negative_elbo = -(chance * (self._joint_bound(terms) - log_class)).sum(0)
        return {
            "negative_elbo": negative_elbo,
            "kl": negative_elbo - reconstruction,
            "reconstruction": reconstruction,
        }

    # Densities.

    def forward(self, images: Tensor, noise: Noise = None) -> tuple[LogDensities, Tensor]:
        """Return the log densities with each class, one draw of z each, and log q(y|x): [K, B] all.

        ``noise``: as in `log_densities`.
        """
        classes = torch.arange(self.classes, device=images.device)
        labels = classes.unsqueeze(1).expand(-1, len(images))
        return self.log_densities(images, labels, noise), self.classify(images).t()

    def log_densities(self, images: Tensor, labels: Tensor, noise: Noise = None) -> LogDensities:
        """Return log p(x|y, z), log p(z) and log q(z|x, y), for images [B, C, H, W] and labels [S, B].

        ``noise``: standard normal, [1, S B, D], or a generator of all that is drawn.
        """
        return self._log_densities(images, self.encoder(images), labels, noise)

    def _log_densities(self, images: Tensor, embedding: Tensor, labels: Tensor, noise: Noise) -> LogDensities:
        z, log_q = self.posterior(self.joint(embedding, labels).flatten(0, 1), 1, noise)
        z, log_q = z.view(*labels.shape, -1), log_q.view(labels.shape)
        generator = None if isinstance(noise, Tensor) else noise
        likelihood = self.likelihood(self._code(z, labels), generator)
        return LogDensities(likelihood.log_prob(images), self.prior().log_prob(z), log_q)

    def _code(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([z, F.one_hot(labels, self.classes).to(z.dtype)], -1)

    def _joint_bound(self, terms: LogDensities) -> Tensor:
        """L(x, y) with one draw of z."""
        return terms.likelihood + terms.prior - terms.posterior - math.log(self.classes)

    def draws_for(self, images: Tensor, noise: Noise = None) -> Callable[[int], LogDensities]:
        """Return a function of n, the log densities at n draws of (y, z)."""
        embedding, log_class = self.encoder(images), self.classify(images)
        generator = noise if isinstance(noise, torch.Generator) else None

        def draw(num_samples: int) -> LogDensities:
            chance = log_class.exp()
            labels = torch.multinomial(chance, num_samples, replacement=True, generator=generator).t()
            terms = self._log_densities(images, embedding, labels, generator)
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


@dataclass(frozen=True)
class SemiSupervisedOptions(System):
    """A classifier and an autoencoder whose code is a class and a vector, with few labels."""

    name = "semi-supervised"

    labels_used: int = ranged(100, 1, MOST, training_only=True)
    """number of labelled training images, the same number of each class; all other labels are ignored"""
    posterior: PosteriorOptions = GaussianOptions()
    """approximate posterior q(z|x, y): a Gaussian, alone or transformed by a flow"""
    likelihood: LikelihoodOptions = BernoulliOptions()
    """likelihood p(x|y, z): for binary pixels, bernoulli or causal; for 8-bit pixels, logistic or
    logistic-mixture"""
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

    def build(self, data: DataSpec) -> SemiSupervised:
        if data.classes < 2:
            what = "no labels" if data.classes == 0 else "a single class"
            raise UserError(f"the training images have {what}; choose data with labels of several classes")
        sizes = data.shape, self.features, self.channels, self.blocks
        classifier = nn.Sequential(Encoder(*sizes), kaiming(nn.Linear(self.features, data.classes), gain=0.1))
        encoder, joint = Encoder(*sizes), ImageAndLabel(self.features, data.classes)
        posterior = build_posterior(
            self.posterior, CodeShape(self.latent), self.features, full=False, blocks=self.blocks
        )
        code = VectorCode(self.latent + data.classes, data.shape[1:], self.features, self.channels)
        likelihood = self.likelihood.likelihood(code, self.blocks, data.shape)
        return SemiSupervised(
            classifier,
            encoder,
            joint,
            posterior,
            StandardNormal(self.latent),
            likelihood,
            data.classes,
            self.labels_used,
            self.labelled_per_step,
            self.classification_weight,
        )

    def describe(self) -> str:
        return f"classifier and autoencoder, {self.labels_used} labels, D = {self.latent}"


PRESETS: dict[str, Config] = {"semi-supervised": Config(model=SemiSupervisedOptions())}
