"""The variational autoencoder, composed of its parts."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from flowvae.batch import Batch, Given, labelled
from flowvae.densities import (
    Likelihood,
    LogDensities,
    Posterior,
    Prior,
    Tabulated,
    VampPrior,
    log_prob,
    take_path_derivative,
)
from flowvae.errors import UserError
from flowvae.flows import NotInvertibleError, Step
from flowvae.models.autoencoder_graphs import autoencoder_graphs
from flowvae.models.base import Graph, Graphed, Inferring, Model, Sampler, Update
from flowvae.models.bounds import ELBO, ImportanceWeighted
from flowvae.models.compressible import CompressibleWithCode
from flowvae.models.imputation import CANDIDATES_AT_ONCE, Completing
from flowvae.models.starting import start_from_data
from flowvae.networks.labels import on_maps
from flowvae.noise import Noise, normal
from flowvae.objectives import importance_weighted_bound, take_double_reparametrization, warm_up

STARTS, SWEEPS, CODES_OF_A_START = 64, 6, 16
"""of pseudo-Gibbs sampling before an imputation: numbers of starts, of steps, and of codes of each start"""
WIDER = 1.2
"""factor on the covariance of codes before an imputation, as weights have heavy tails if it is too small"""


class VAE(Model, Sampler, Inferring, Completing, CompressibleWithCode, Graphed):
    """A variational autoencoder (Kingma & Welling 2014), composed of its parts.

    Args:
        encoder: maps images [B, C, H, W] to features [B, F].
        posterior: q(z|x), from the features.
        prior: ``prior()`` is the distribution p(z).
        likelihood: ``likelihood(z)`` is the distribution p(x|z), batch shape [S, B].
        objective: bound that training maximizes.
        samples: S, number of posterior samples per image in training.
        kl_warm_up: number of steps over which the weight of ``log p(z) - log q(z|x)`` rises from 0 to 1.
        transformations: K, number of the posterior's transformations; 0 if each step of its flow is one.
        sees_mask: whether the encoder takes images and their masks of known pixels, [B, 2 C, H, W].
        of_label: maps labels to what is added to the features, for p(x|y). Then the prior is
            ``prior(labels)``, and the likelihood takes codes [S, B, D + K] that end with the one-hot label.
    """

    accepts_missing = True

    def __init__(
        self,
        encoder: nn.Module,
        posterior: Posterior,
        prior: Prior,
        likelihood: Likelihood,
        objective: ELBO | ImportanceWeighted = ELBO(),  # immutable
        samples: int = 1,
        kl_warm_up: int = 0,
        transformations: int = 0,
        sees_mask: bool = False,
        of_label: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.sees_mask, self.of_label = sees_mask, of_label
        self.conditional = of_label is not None
        self.classes = 0 if of_label is None else of_label.num_embeddings
        self.encoder, self.posterior, self.prior, self.likelihood = encoder, posterior, prior, likelihood
        self.objective, self.num_samples, self.kl_warm_up = objective, samples, kl_warm_up
        self.transformations = transformations
        weighted = isinstance(objective, ImportanceWeighted)
        self.best = "importance_weighted" if weighted else "negative_elbo"
        self.levels, self.margin = likelihood.levels, likelihood.margin
        self.pixel_noise = likelihood.pixel_noise
        self.draws = self.pixel_noise is not None
        if objective.path_derivative:
            take_path_derivative(self)

    @cached_property
    def dimension(self) -> int:  # read once: a VampPrior encodes for it
        """D"""
        labels = torch.zeros(1, dtype=torch.int64, device=next(self.parameters()).device)
        return self._prior(labels if self.conditional else None).event_shape[0]

    def initialize(self, images: Tensor) -> None:
        self.prior.initialize(self.seen(images))
        self.likelihood.initialize(images)
        start_from_data(self, images)

    # Training.

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        beta = warm_up(step, self.kl_warm_up)
        # Of the ELBO, the gradient of codes does not depend on it: a compiled graph need not know it.
        of_codes = beta if isinstance(self.objective, ImportanceWeighted) else None
        densities = self(batch.images, self.num_samples, beta=of_codes, **self.given(batch))
        with torch.no_grad():
            reconstruction = -densities.likelihood.mean()
            kl = (densities.posterior - densities.prior).mean()
        shown = {"negative_elbo": reconstruction + kl, "kl": kl, "reconstruction": reconstruction}
        yield Update("model", -self.objective(densities, beta), shown)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        weighted = self.best == "importance_weighted"
        densities = self(batch.images, self.num_samples if weighted else 1, **self.given(batch))
        reconstruction = -densities.likelihood.mean(0)
        kl = (densities.posterior - densities.prior).mean(0)
        scores = {"negative_elbo": reconstruction + kl, "kl": kl, "reconstruction": reconstruction}
        if weighted:
            scores = {"importance_weighted": -importance_weighted_bound(densities), **scores}
        return scores

    # Densities.

    def seen(self, images: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return what the encoder sees: images [B, C, H, W], or images and masks [B, 2 C, H, W].

        Values of missing pixels are replaced by 0.
        """
        images = images if observed is None else torch.where(observed, images, images.new_zeros(()))
        if not self.sees_mask:
            return images
        known = torch.ones_like(images) if observed is None else observed.to(images.dtype)
        return torch.cat([images, known], 1)

    def features(self, images: Tensor, **given: Unpack[Given]) -> Tensor:
        """Return what q(z|x), or q(z|x, y), depends on, [B, F, ...]."""
        features = self.encoder(self.seen(images, given.get("observed")))
        if self.of_label is None:
            return features
        return features + on_maps(self.of_label(given.get("labels")), features)

    def _prior(self, labels: Tensor | None) -> Distribution:
        return self.prior() if labels is None else self.prior(labels)

    def with_label(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return what the likelihood takes for codes [S, B, D]: these, with one-hot labels [B] if any."""
        if labels is None:
            return z
        one_hot = F.one_hot(labels, self.classes).to(z.dtype)
        return torch.cat([z, one_hot.expand(z.shape[0], -1, -1)], 2)  # len would fix the size of a graph

    def forward(
        self,
        images: Tensor,
        num_samples: int = 1,
        noise: Noise = None,
        beta: float | None = None,
        **given: Unpack[Given],
    ) -> LogDensities:
        """Log densities at ``num_samples`` draws from the posterior of each of the images [B, C, H, W].

        Args:
            images: [B, C, H, W].
            num_samples: S.
            noise: the posterior's, [S, B, D], or a generator of all that is drawn.
            beta: weight of ``log p(z) - log q(z|x)``, if the importance-weighted bound is maximized.
            given: labels and known pixels.
        """
        return self._densities(images, self.features(images, **given), num_samples, noise, given, beta)

    def _densities(
        self,
        images: Tensor,
        features: Tensor,
        num_samples: int,
        noise: Noise,
        given: Given,
        beta: float | None = None,
    ) -> LogDensities:
        z, posterior = self.posterior(features, num_samples, noise)
        random = None if isinstance(noise, Tensor) else noise
        densities = self.log_densities(images, z, posterior, random, **given)
        if beta is not None and self.posterior.path_derivative and z.requires_grad:
            take_double_reparametrization(z, densities, beta)
        return densities

    def log_densities(
        self,
        images: Tensor,
        z: Tensor,
        posterior: Tensor,
        noise: torch.Generator | None = None,
        **given: Unpack[Given],
    ) -> LogDensities:
        """Return the log densities at codes z [S, B, D], with log q(z|x) [S, B], of images [B, C, H, W].

        ``noise``: a generator for random choices of the likelihood.
        """
        labels = given.get("labels")
        distribution = self.likelihood(self.with_label(z, labels), noise)
        likelihood = log_prob(distribution, images, given.get("observed"))
        return LogDensities(likelihood, self._prior(labels).log_prob(z), posterior)

    def draws_for(
        self, images: Tensor, noise: Noise = None, **given: Unpack[Given]
    ) -> Callable[[int], LogDensities]:
        self.check(images, **given)
        features = self.features(images, **given)
        return lambda num_samples: self._densities(images, features, num_samples, noise, given)

    def posterior_density(self, images: Tensor, **given: Unpack[Given]) -> Callable[[Tensor], Tensor]:
        self.check(images, **given)
        return self.posterior.density(self.features(images, **given))

    def code_density(self, labels: Tensor | None = None) -> Distribution:
        return self._prior(labels)

    def image_density(
        self, variance: float | None = None, labels: Tensor | None = None
    ) -> Callable[[Tensor], Distribution]:
        if not self.likelihood.differentiable:
            raise UserError(
                "log p(x|z) of this model depends on a random order of the pixels; choose a model with one "
                "order, such as --causal-orders 1"
            )
        return lambda z: self.likelihood(self.with_label(z, labels))

    # Compression.

    @property
    def pixel_orders(self) -> int:
        return self.likelihood.orders

    def to_codes(self, images: Tensor) -> list[Step]:
        try:
            return self.posterior.steps(self.features(images))
        except NotInvertibleError as error:
            raise UserError(f"{error}, and so codes cannot be compressed; choose another posterior") from None

    def from_codes(self) -> list[Step]:
        return self.prior.steps()

    def log_weights(self, images: Tensor, codes: Tensor, orders: Tensor) -> Tensor:
        try:
            log_posterior = self.posterior.density(self.features(images))(codes)
        except NotInvertibleError as error:
            raise UserError(f"{error}, and several samples need one; omit --samples") from None
        log_likelihood = self.likelihood.in_orders(codes, orders).log_prob(images)
        return log_likelihood + self.prior().log_prob(codes) - log_posterior

    def pixels(self, codes: Tensor, orders: Tensor) -> Tabulated:
        distribution = self.likelihood.in_orders(codes.unsqueeze(0), orders.unsqueeze(0))
        if not isinstance(distribution, Tabulated):
            raise UserError(f"{type(distribution).__name__} has no tables to compress by; subclass Tabulated")
        return distribution

    # Missing pixels.

    def candidates(
        self,
        image: Tensor,
        observed: Tensor,
        number: int,
        noise: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Complete one image given each of S codes; log weights are log p(x_known, z) - log q(z).

        Codes are drawn from q(z|x) if the encoder sees which pixels are known. Otherwise q(z|x) is for
        complete images, too narrow where much is missing, and codes are drawn from a Gaussian fitted to it
        for many different completions (see `_fitted`).
        """
        given = labelled(labels)
        self.check(image, observed=observed, **given)
        if self.sees_mask:
            z, log_q = self.posterior(self.features(image, observed=observed, **given), number, noise)
        else:
            proposal = self._fitted(image, observed, noise, labels)
            plain = normal(noise, (number, 1, self.dimension), proposal.loc)
            z = proposal.loc + plain @ proposal.scale_tril.mT
            log_q = proposal.log_prob(z)
        parts = [
            (
                *self.likelihood.complete(self.with_label(few, labels), image, observed, noise),
                self._prior(labels).log_prob(few),
            )
            for few in z.split(CANDIDATES_AT_ONCE)
        ]
        completed, log_p, log_prior = (torch.cat(each)[:, 0] for each in zip(*parts, strict=True))
        return completed, log_p + log_prior - log_q[:, 0]

    def _fitted(
        self, image: Tensor, observed: Tensor, noise: torch.Generator | None, labels: Tensor | None
    ) -> MultivariateNormal:
        """Fit a Gaussian to the codes of completions of an image.

        The completions come from a few steps of pseudo-Gibbs sampling (Rezende, Mohamed & Wierstra 2014,
        appendix F) from many starts: a code from q(z|x), and missing pixels given the code, in turn.
        """
        images, known = (each.expand(STARTS, *each.shape[1:]) for each in (image, observed))
        labels = None if labels is None else labels.expand(STARTS)
        codes = z = self.prior.sample(STARTS, noise, **labelled(labels)).unsqueeze(0)
        for _ in range(SWEEPS):
            completed, _ = self.likelihood.complete(self.with_label(z, labels), images, known, noise)
            features = self.features(completed[0], **labelled(labels))
            codes, _ = self.posterior(features, CODES_OF_A_START, noise)
            z = codes[:1]
        variance, center = torch.var_mean(codes, 0)  # [STARTS, D]
        covariance = torch.cov(center.mT) + variance.mean(0).diag_embed()
        return MultivariateNormal(codes.mean((0, 1)), WIDER * covariance, validate_args=False)

    # Codes.

    def encode(
        self, images: Tensor, num_samples: int = 1, noise: Noise = None, **given: Unpack[Given]
    ) -> Tensor:
        self.check(images, **given)
        return self.posterior(self.features(images, **given), num_samples, noise)[0]

    def center(self, images: Tensor, **given: Unpack[Given]) -> Tensor:
        self.check(images, **given)
        return self.posterior.center(self.features(images, **given))[0]

    def unroll(
        self, images: Tensor, num_samples: int = 1, noise: Noise = None, **given: Unpack[Given]
    ) -> list[tuple[Tensor, Tensor]]:
        self.check(images, **given)
        steps = self.posterior.unroll(self.features(images, **given), num_samples, noise)
        # The layers of one transformation, such as two couplings and a batch norm, are one step.
        return steps[:: (len(steps) - 1) // self.transformations if self.transformations else 1]

    def decode(self, codes: Tensor, noise: Noise = None, labels: Tensor | None = None) -> Tensor:
        self.check_codes(codes, self.dimension)
        self.check_labels(labels, len(codes))
        noise = noise.unsqueeze(0) if isinstance(noise, Tensor) else noise
        return self.likelihood.images(self.with_label(codes.unsqueeze(0), labels), noise)[0]

    def path(
        self, first: Tensor, second: Tensor, steps: int, given: tuple[Given, Given] | None = None
    ) -> Tensor:
        """Interpolate the embedding linearly, and take the posterior's center at each point.

        For a Gaussian posterior this is a straight line between the two means. A flow, whose context is
        interpolated as well, bends the line towards where the prior has its mass. What the label adds to the
        embedding is interpolated with it.
        """
        of_first, of_second = given or (Given(), Given())
        self.check(first, **of_first)
        self.check(second, **of_second)
        start, end = self.features(first, **of_first), self.features(second, **of_second)
        weights = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
        weights = weights.view(-1, *[1] * (start.ndim - 1))
        path = torch.lerp(start.unsqueeze(1), end.unsqueeze(1), weights)  # [B, steps, F, ...]
        return self.posterior.center(path.flatten(0, 1))[0].unflatten(0, path.shape[:2])

    def sample_codes(
        self,
        num_codes: int,
        noise: Noise = None,
        temperature: float = 1.0,
        labels: Tensor | None = None,
    ) -> Tensor:
        self.check_labels(labels, num_codes)
        return self.prior.sample(num_codes, noise, temperature, **labelled(labels))

    # Images.

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        noise: Noise = None,
        temperature: float = 1.0,
        labels: Tensor | None = None,
    ) -> Tensor:
        generator = None if isinstance(noise, Tensor) else noise
        labels = self.labels_to_sample(num_images, labels, noise, next(self.parameters()))
        codes = self.sample_codes(num_images, noise, temperature, labels)
        return self.decode(codes, generator, labels)

    draws_pixels = True

    @torch.no_grad()
    def draw(self, num_images: int, labels: Tensor | None = None) -> Tensor:
        labels = self.labels_to_sample(num_images, labels, None, next(self.parameters()))
        codes = self.sample_codes(num_images, labels=labels)
        return self.likelihood(self.with_label(codes.unsqueeze(0), labels)).sample()[0]

    def graphs(self, shape: tuple[int, int, int]) -> dict[str, Graph]:
        """Return ``encoder``, ``decoder`` and ``sampler``, which take their noise as an input.

        - encoder: ``images`` [B, C, H, W] and ``noise`` [S, B, D] to ``z`` [S, B, D], a draw from q(z|x), and
          ``log_posterior`` [S, B], log q(z|x) in nats;
        - decoder: ``z`` [S, B, D] to ``images`` [S, B, C, H, W], the means of p(x|z);
        - sampler: ``noise`` [B, D] to ``images`` [B, C, H, W], the means of p(x|z) for z from the prior.

        Those of a conditional model also take ``labels``, int64 [B].

        Raises:
            UserError: if the model needs other noise than standard normal.
        """
        if self.draws or isinstance(self.prior, VampPrior):
            what = "pixels one by one" if self.draws else "a component of its prior"
            raise UserError(
                f"the model draws {what}, and ONNX graphs support standard normal noise only; use the model "
                "from Python"
            )
        return autoencoder_graphs(self, shape)
