"""The Bayesian generative adversarial network: posteriors over the weights of generator and discriminator."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae import shares
from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.errors import UserError
from flowvae.flows import at_least_float32
from flowvae.models.adversarial import (
    SAMPLES,
    energy_score,
    gradient_penalty,
    logit_of_real,
)
from flowvae.models.base import Classifying, MakeOptimizer, Model, Sampler, Update
from flowvae.models.classification import information_loss, smoothness_loss
from flowvae.models.generator import GeneratorOptions
from flowvae.models.labels import classes_of, draw_labelled, few_of
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.sghmc import SGHMC
from flowvae.noise import Noise, integers, normal
from flowvae.parts import LARGEST, MOST, WIDEST, Options, Part, check_positive, ranged, training_only

BETWEEN_RESTARTS = 100
"""number of steps of burn-in after which generators are looked at"""
LOOKED_AT = 64
"""number of images of each"""
NARROWER = 10
"""ratio of the spread of images from which on a generator makes one image only"""


class Chains(nn.Module):
    """Networks whose weights are the states of J chains, and weights that were collected from the chains.

    Args:
        networks: J networks of one architecture, without buffers.
        kept: number of weights kept per chain; when there are more, the oldest are replaced.
    """

    weights: Tensor
    collected: Tensor

    def __init__(self, networks: Sequence[nn.Module], kept: int) -> None:
        super().__init__()
        self.states = nn.ModuleList(networks)
        size = sum(parameter.numel() for parameter in networks[0].parameters())
        self.register_buffer("weights", torch.zeros(kept * len(networks), size))
        self.register_buffer("collected", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Count the networks that stand for the posterior: those collected, or else the J current ones."""
        return min(int(self.collected), len(self.weights)) or len(self.states)

    def network(self, place: int) -> Callable[[Tensor], Tensor]:
        """Return one of the ``len(self)`` networks that stand for the posterior."""
        if not self.collected:
            return self.states[place]
        parameters = dict(self.states[0].named_parameters())
        parts = self.weights[place].split([each.numel() for each in parameters.values()])
        taken = {
            name: part.view(each.shape) for (name, each), part in zip(parameters.items(), parts, strict=True)
        }
        return partial(torch.func.functional_call, self.states[0], taken)

    @torch.no_grad()
    def collect(self) -> None:
        """Keep the current weights of each chain."""
        for state in self.states:
            place = int(self.collected) % len(self.weights)
            self.weights[place] = torch.cat([each.flatten() for each in state.parameters()])
            self.collected += 1

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Apply the current network of each chain to inputs of its own, and stack the outputs, [J, ...]."""
        return torch.stack([state(own) for state, own in zip(self.states, inputs, strict=True)])

    def squares(self) -> Tensor:
        """Sum the squares of all current weights."""
        return torch.stack([each.square().sum() for each in self.parameters()]).sum()


@dataclass(frozen=True)
class ChainOptions(Options):
    """Options of the posterior over weights, and of the chains that draw from it."""

    prior_deviation: float = training_only(1.0)
    """standard deviation of the normal prior of each weight, whose mean is 0"""
    posterior_temperature: float = ranged(1.0, 0, LARGEST, training_only=True)
    """temperature of the posterior of the weights; 0 maximizes its density"""
    gamma: float = ranged(1.0, 0, LARGEST, training_only=True)
    """weight of the gradient penalty R1, a prior of discriminators that are flat at real images"""
    step_size: float = training_only(1e-3)
    """highest learning rate of the chains, for gradients of about 1; it follows the schedule of the run"""
    friction: float = ranged(0.8, 0, 1, training_only=True)
    """friction of the chains; in terms of gradient descent, 1 minus the momentum"""
    noise_estimate: float = ranged(0.0, 0, 1, training_only=True)
    """part of the friction for which the noise of the gradients already makes up"""
    burn_in: int = ranged(2000, 0, MOST, training_only=True)
    """number of steps before weights are collected, in which the learning rates of the weights adapt"""
    share_batch: bool = training_only(True)
    """whether all generators together make as many images per step as the batch has, and not each of them"""
    thinning: int = ranged(500, 1, MOST, training_only=True)
    """number of steps between weights that are collected"""
    collected: int = ranged(10, 1, 1000)
    """number of weights that are kept of each chain, the latest"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prior_deviation", "step_size"):
            check_positive(name, getattr(self, name), LARGEST)
        if self.noise_estimate > self.friction:
            raise UserError(
                f"noise_estimate is {self.noise_estimate:g}; it is part of friction, so choose at most "
                f"{self.friction:g}"
            )


@dataclass(frozen=True)
class UnsupervisedOptions(Part):
    """No labels: discriminators tell real images from generated ones."""

    name = "none"


@dataclass(frozen=True)
class FewLabelsOptions(Part):
    """Few labels, from which discriminators learn to tell the classes of real images as well."""

    name = "few-labels"
    labels_used: int = ranged(100, 1, MOST, training_only=True)
    """number of labelled training images, the same number of each class; all other labels are ignored"""
    labelled_per_step: int = ranged(32, 1, MOST, training_only=True)
    """number of labelled images per step, drawn from those used; the batch is in addition to them"""
    classification_weight: float = ranged(1.0, 0, LARGEST, training_only=True)
    """weight of the loss -log p(y|x, real) of labelled images, relative to the loss of the batch"""
    smoothness_weight: float = ranged(0.0, 0, LARGEST, training_only=True)
    """weight of the virtual adversarial loss, by which p(y|x, real) changes little between close images"""
    smoothness_radius: float = ranged(1.5, 0, LARGEST, training_only=True)
    """largest Euclidean distance of images that the virtual adversarial loss calls close"""
    information_weight: float = ranged(0.0, 0, LARGEST, training_only=True)
    """weight of the mutual information of image and class, by which classes become distinct and balanced"""


class BayesianGAN(Model, Sampler):
    """A generative adversarial network with posteriors over the weights (Saatchi & Wilson 2017).

    The weights theta of generators G and discriminators D are drawn, in turn, from

        ``p(theta_G | D) ~ exp(-N E softplus(-D(G(z)))) p(theta_G)``
        ``p(theta_D | G) ~ exp(-N (E softplus(-D(x)) + E softplus(D(G(z))) + gamma / 2 E||grad_x D(x)||^2))
        p(theta_D)``

    where z is standard normal, x are the N training images, and the weights have the prior
    ``N(0, deviation^2 I)``. The expectations are also over the current states of the chains of the other
    player; a batch estimates them. In each step the chains of D move first, by a step of `SGHMC`, then those
    of G, with the same codes. Losses are ``-log p / N``, so that the temperature of the chains is ``T / N``.

    Each sample is drawn with weights chosen at random from those that were collected from the chains; before
    any are collected, from the current states. Validation uses the energy score of samples.

    Args:
        generators: map codes [n, D] to images [n, C, H, W] in [0, 1].
        discriminators: map images to logits [n] or [n, K], as `Discriminator`.
        latent: D, number of latent dimensions.
        images: N.
        options: those of prior and chains.
    """

    best = "energy_score"
    draws_weights = True

    def __init__(
        self,
        generators: Sequence[nn.Module],
        discriminators: Sequence[nn.Module],
        latent: int,
        images: int,
        options: ChainOptions,
    ) -> None:
        super().__init__()
        self.generators = Chains(generators, options.collected)
        self.discriminators = Chains(discriminators, options.collected)
        self.latent, self.images, self.options = latent, images, options

    def players(self) -> dict[str, nn.Module]:
        return {"generators": self.generators, "discriminators": self.discriminators}

    def optimizers(self) -> dict[str, MakeOptimizer]:
        mine = self.options
        make = partial(
            SGHMC,
            lr=mine.step_size,
            friction=mine.friction,
            noise_estimate=mine.noise_estimate,
            temperature=mine.posterior_temperature / self.images,
            adaptation=mine.burn_in,
        )
        return dict.fromkeys(self.players(), make)

    def check_steps(self, steps: int) -> None:
        first = self.options.burn_in + self.options.thinning
        if steps < first:
            raise UserError(
                f"the first weights are collected after {first} steps, burn_in + thinning, and there are "
                f"only {steps}; train longer, or choose a smaller --burn-in or --thinning"
            )

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        return self.moves(batch, step)

    def moves(
        self,
        batch: Batch,
        step: int,
        known: tuple[Tensor, Tensor] | None = None,
        few: FewLabelsOptions | None = None,
    ) -> Iterator[Update]:
        """Yield the updates of a step; ``known``: images with labels, int64, weighted as ``few`` says."""
        images, chains, others = batch.images, len(self.generators.states), len(self.discriminators.states)
        whole = shares.whole_of(len(images))
        each = -(-whole // chains) if self.options.share_batch else whole
        codes = shares.part_of(normal(None, (chains, each, self.latent), images), 1)
        made = self.generators(codes.unbind()).flatten(0, 1)
        labelled = images[:0] if known is None else known[0]
        seen = [torch.cat([images, made.detach(), labelled])] * others
        logits = at_least_float32(self.discriminators(seen))
        real, fake, of_known = logits.split([len(images), len(made), len(labelled)], 1)
        loss = F.softplus(-logit_of_real(real.flatten(0, 1))).mean()
        of_fake = others * chains * each
        loss = loss + shares.mean_of(F.softplus(logit_of_real(fake.flatten(0, 1))), of_fake)
        shown = {"discriminator_loss": loss.detach()}
        for name, weight, term in self._further(images, real, of_known, known, few):
            loss = loss + weight * term
            shown[name] = term.detach()
        # The chains of a player share no weights: the gradient of the sum of their losses is that of each.
        yield Update("discriminators", others * loss + self._prior(self.discriminators), shown)
        logits = at_least_float32(self.discriminators([made] * others))
        loss = shares.mean_of(F.softplus(-logit_of_real(logits.flatten(0, 1))), of_fake)
        shown = {"generator_loss": loss.detach()}
        yield Update("generators", chains * loss + self._prior(self.generators), shown)
        taken = step + 1 - self.options.burn_in
        if taken < 0 and (step + 1) % BETWEEN_RESTARTS == 0:
            self.restart(torch.Generator().manual_seed(step))
        if taken > 0 and taken % self.options.thinning == 0:
            self.generators.collect()
            self.discriminators.collect()

    @torch.no_grad()
    def restart(self, noise: torch.Generator) -> None:
        """Give the generators that make one image of all codes the weights of others, chosen at random.

        Their pixels are saturated, so no gradient is left by which they would learn again.
        """
        states = self.generators.states
        codes = normal(noise, (LOOKED_AT, self.latent), next(self.generators.parameters()))
        spreads = torch.stack([state(codes).std(0).mean() for state in states]).tolist()
        spreads = shares.everyones(spreads)[0]  # one decision, as rounding may differ between processes
        least = max(spreads) / NARROWER
        # A spread that is not a number is left to the next loss, which says what diverged.
        alive = [place for place, spread in enumerate(spreads) if not spread < least]
        for place, state in enumerate(states):
            if place not in alive:
                source = alive[int(torch.randint(len(alive), (), generator=noise))]
                state.load_state_dict(states[source].state_dict())

    def _further(
        self,
        images: Tensor,
        real: Tensor,
        of_known: Tensor,
        known: tuple[Tensor, Tensor] | None,
        few: FewLabelsOptions | None,
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Yield the discriminators' other losses, averaged over the chains, with their names and weights.

        ``real``: logits of ``images``, [J, B, K]; ``of_known``: logits of labelled images, [J, L, K].
        """
        states = self.discriminators.states
        if few is not None and known is not None:
            labels = known[1].repeat(len(states))
            term = F.cross_entropy(of_known.flatten(0, 1), labels)
            yield "classification", few.classification_weight, term
        if few is not None and few.smoothness_weight:
            each = [
                smoothness_loss(state, images, own.log_softmax(1), few.smoothness_radius)
                for state, own in zip(states, real, strict=True)
            ]
            yield "smoothness", few.smoothness_weight, torch.stack(each).mean()
        if few is not None and few.information_weight:
            each = [-information_loss(own.log_softmax(1)) for own in real]
            yield "information", -few.information_weight, torch.stack(each).mean()
        if self.options.gamma:
            each = [gradient_penalty(state, images) for state in states]
            yield "penalty", self.options.gamma / 2, torch.stack(each).mean()

    def _prior(self, chains: Chains) -> Tensor:
        """Compute ``-log p(theta) / N`` up to a constant, summed over the chains."""
        return chains.squares() / (2 * self.options.prior_deviation**2 * self.images)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"energy_score": energy_score(self.sample(SAMPLES), batch.images)}

    @torch.no_grad()
    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Draw images, each from weights chosen at random; ``noise`` is a generator or None."""
        generator = noise if isinstance(noise, torch.Generator) else None
        codes = normal(generator, (num_images, self.latent), next(self.generators.parameters()))
        chosen = integers(generator, len(self.generators), (num_images,), codes)
        order = chosen.argsort(stable=True)
        counts = chosen.bincount(minlength=len(self.generators)).tolist()
        parts = (temperature * codes[order]).split(counts)
        made = [self.generators.network(place)(part) for place, part in enumerate(parts)]
        return torch.cat(made)[order.argsort()]


class SemiSupervisedBayesianGAN(Model, Sampler, Classifying):
    """A Bayesian GAN whose discriminators also tell classes, from few labels.

    A discriminator has K + 1 classes, those of real images and "generated" (Salimans et al. 2016). Its
    posterior has the further factor ``exp(N weight E log p(y|x, real))``, over the labelled images, and those
    of `smoothness_loss` and `information_loss`, over all images. The labelled ones are drawn once, by
    `initialize_each`; the labels of batches are never read, and validation reads none.

    Args:
        gan: whose discriminators map images to logits [n, K].
        classes: K.
        few: how many labelled images, and the weights of the factors.
    """

    best = "energy_score"
    draws_weights = True

    def __init__(self, gan: BayesianGAN, classes: int, few: FewLabelsOptions) -> None:
        super().__init__()
        self.gan, self.classes, self.few = gan, classes, few
        self.known: Batch | None = None

    def players(self) -> dict[str, nn.Module]:
        return self.gan.players()

    def optimizers(self) -> dict[str, MakeOptimizer]:
        return self.gan.optimizers()

    def check_steps(self, steps: int) -> None:
        self.gan.check_steps(steps)

    def initialize_each(self, batches: Iterator[Batch]) -> None:
        """Draw the labelled images, the same for the same seed, whatever the networks."""
        noise = torch.Generator().manual_seed(torch.initial_seed())
        self.known = draw_labelled(batches, self.few.labels_used, noise)

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        known = None
        if self.known is not None:
            known = few_of(self.known, self.few.labelled_per_step, None, batch.images)
        return self.gan.moves(batch, step, known, self.few)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return self.gan.validate(batch)

    def classify(self, images: Tensor) -> Tensor:
        """Compute the logarithm of p(y|x, real), averaged over the posterior of the weights, [B, K]."""
        self.check(images)
        discriminators = self.gan.discriminators
        networks = [discriminators.network(place) for place in range(len(discriminators))]
        log_class = torch.stack([at_least_float32(network(images)).log_softmax(1) for network in networks])
        return log_class.logsumexp(0) - math.log(len(networks))

    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        return self.gan.sample(num_images, noise, temperature)


@dataclass(frozen=True)
class BayesianGANOptions(GeneratorOptions, ChainOptions, System):
    """An adversarial network with posteriors over the weights of generators and discriminators."""

    name = "bayesian-gan"

    supervision: UnsupervisedOptions | FewLabelsOptions = UnsupervisedOptions()
    """labels to learn from: none, or few, with which discriminators also tell classes"""
    generators: int = ranged(4, 1, 1000)
    """number of chains of generators"""
    discriminators: int = ranged(1, 1, 1000)
    """number of chains of discriminators"""
    features: int = ranged(256, 1, WIDEST)
    """width of the generators' first layer and of the discriminators' first dense layer"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generators == 1 and not self.share_batch:
            raise UserError(
                "share_batch has no effect on one generator; remove it, or give more --generators"
            )

    def build(self, data: DataSpec) -> BayesianGAN | SemiSupervisedBayesianGAN:
        if data.training_images < 1:
            raise UserError("the posterior depends on the number of training images; give training_images")
        classes = classes_of(data) if isinstance(self.supervision, FewLabelsOptions) else 0
        gan = BayesianGAN(
            [nn.Sequential(self.generator(data.shape), nn.Sigmoid()) for _ in range(self.generators)],
            [
                self.networks.discriminator(data.shape, self.features, classes=classes)
                for _ in range(self.discriminators)
            ],
            self.latent,
            data.training_images,
            self,
        )
        if not isinstance(self.supervision, FewLabelsOptions):
            return gan
        return SemiSupervisedBayesianGAN(gan, classes, self.supervision)

    def describe(self) -> str:
        few = (
            f"; {self.supervision.labels_used} labels"
            if isinstance(self.supervision, FewLabelsOptions)
            else ""
        )
        return (
            f"Bayesian adversarial network, D = {self.latent}; chains: {self.generators} generators, "
            f"{self.discriminators} discriminators{few}"
        )


PRESETS: dict[str, Config] = {
    "bayesian-gan-mnist": Config(
        DataConfig("mnist", "none"),
        BayesianGANOptions(posterior_temperature=0.01, networks=ConvolutionalOptions(channels=32)),
        TrainingConfig(batch_size=64, minutes=10.0),
    ),
    "bayesian-gan-few": Config(
        DataConfig("mnist", "none"),
        BayesianGANOptions(
            posterior_temperature=0.01,
            networks=ConvolutionalOptions(channels=32),
            gamma=0.1,
            supervision=FewLabelsOptions(smoothness_weight=1.0, information_weight=1.0),
        ),
        TrainingConfig(batch_size=64, minutes=10.0),
    ),
}
