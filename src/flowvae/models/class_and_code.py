"""An autoencoder whose code is a class and a vector, and that learns from few labels: the model M2."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae import shares
from flowvae.batch import Batch
from flowvae.densities import Likelihood, LogDensities, Posterior, Prior, take_path_derivative
from flowvae.flows import at_least_float32
from flowvae.models.base import Bounded, Classifying, Model, Sampler, Update
from flowvae.models.classification import divergence, information_loss, smoothness_loss
from flowvae.models.labels import draw_labelled, few_of
from flowvae.models.starting import start_from_data
from flowvae.networks.convolutional import kaiming
from flowvae.noise import Noise, integers, normal


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
                smoothness = smoothness + divergence(log_class.t().detach(), self.log_class(images))
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
                classification = F.nll_loss(self.log_class(known.seen), labels)
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
        apart = (log_class.exp() * (log_class - self.log_class(images).t())).sum(0)
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
        log_class = self.log_class(images if seen is None else seen).t()
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
        self.check(images)
        embedding, log_class = self.encoder(images), self.log_class(images if seen is None else seen)
        generator = noise if isinstance(noise, torch.Generator) else None

        def draw(num_samples: int) -> LogDensities:
            chance = log_class.exp()
            labels = torch.multinomial(chance, num_samples, replacement=True, generator=generator).t()
            terms = self._log_densities(images, embedding, labels, generator, generator)
            prior = terms.prior - math.log(self.classes)
            return LogDensities(terms.likelihood, prior, terms.posterior + log_class.t().gather(0, labels))

        return draw

    def log_class(self, images: Tensor) -> Tensor:
        """Compute log q(y|x), [B, K], of images that are not checked."""
        return at_least_float32(self.classifier(images)).log_softmax(1)

    def classify(self, images: Tensor) -> Tensor:
        self.check(images)
        return self.log_class(images)

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
