"""An autoencoder of images below one of its codes that has a class: the models M1+M2."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from flowvae import shares
from flowvae.batch import Batch
from flowvae.densities import Likelihood, LogDensities, Posterior, Prior, take_path_derivative
from flowvae.flows import at_least_float32
from flowvae.models.base import Bounded, Classifying, Model, Sampler, Source, Update
from flowvae.models.class_and_code import Labelled, SemiSupervised
from flowvae.models.labels import draw_labelled, few_of
from flowvae.models.starting import start_from_data
from flowvae.noise import Noise


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
        self.check(images)
        centers = self.first.center(images)

        def draw(num_samples: int) -> LogDensities:
            codes, log_q, log_p = self.first(images, num_samples, noise)
            seen = centers.expand(num_samples, -1, -1).flatten(0, 1)
            terms = self.second.draws_for(codes.flatten(0, 1), noise, seen)(1)
            likelihood, prior, posterior = (term.view(log_q.shape) for term in terms)
            return LogDensities(log_p, likelihood + prior, log_q + posterior)

        return draw

    def classify(self, images: Tensor) -> Tensor:
        self.check(images)
        return self.second.log_class(self.first.center(images))

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
