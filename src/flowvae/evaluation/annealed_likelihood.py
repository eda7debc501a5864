"""log p(x) by annealed importance sampling: a second opinion on the importance-weighted estimate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Unpack

import torch
from torch import Tensor

from flowvae.batch import Given, labelled
from flowvae.densities import log_prob
from flowvae.errors import UserError
from flowvae.evaluation.annealed import Chains, LogDensities, anneal, sigmoid_schedule
from flowvae.evaluation.likelihood import at, pieces
from flowvae.flows import NotInvertibleError
from flowvae.models import Generating, Inferring, Model
from flowvae.models.base import evaluating
from flowvae.noise import Noise, uniform
from flowvae.objectives import log_mean_exp
from flowvae.parts import MOST, VARIANCES, Options, ranged

PAIRS_AT_ONCE = 64
"""chains times images that run together"""
LEAST_ACCEPTANCE = 0.1


@dataclass(frozen=True)
class Annealing(Options):
    """Options of annealed importance sampling."""

    chains: int = ranged(16, 2, 10_000)
    """C, number of chains per image"""
    distributions: int = ranged(1000, 2, MOST)
    """T, number of distributions after the first"""
    leapfrog_steps: int = ranged(10, 1, 10_000)
    """L, number of gradients per move from one distribution to the next"""
    start: Literal["prior", "posterior"] | None = None
    """first distribution: the prior, or q(z|x) of an encoder; by default, q(z|x) if its density at any code
    is known"""
    variance: float | None = ranged(None, *VARIANCES)
    """variance of each pixel around the generated image, for models without a likelihood of their own"""
    dequantize: bool = False
    """add uniform noise to 8-bit pixels x, for models of continuous pixels: (255 x + u) / 256"""

    @property
    def images_at_once(self) -> int:
        """number of images whose chains run together"""
        return max(1, PAIRS_AT_ONCE // self.chains)


class Annealed(NamedTuple):
    """Per image, float64 [B]."""

    log_prob: Tensor
    """log p(x) in nats, of which it is a lower bound in expectation"""
    acceptance: Tensor
    """share of accepted moves"""


class Bracket(NamedTuple):
    """Per simulated image, float64 [B]; bounds in expectation, in nats."""

    lower: Tensor
    upper: Tensor
    acceptance: Tensor
    """share of accepted moves, over both directions"""


@torch.no_grad()
def annealed_importance_sampling(
    model: Model,
    images: Tensor,
    annealing: Annealing = Annealing(),  # immutable
    noise: torch.Generator | None = None,
    report: Callable[[float], None] = lambda fraction: None,
    **given: Unpack[Given],
) -> Annealed:
    """Estimate log p(x) of images [B, C, H, W] by annealed importance sampling (Neal 2001; Wu et al. 2017).

    Chains of codes go from the prior, or from q(z|x), to the posterior p(z|x), by Hamiltonian moves (see
    `flowvae.evaluation.annealed.anneal`). The logarithm of their mean weight is a lower bound on log p(x) in
    expectation, up to the adaptation of step sizes, and grows towards it with chains and distributions.

    Time grows with C x T x L: each image needs that many gradients of log p(x|z).

    Args:
        model: one with codes; evaluated in ``eval()`` mode, and left as it was.
        images: of the shape and levels of the model.
        annealing: numbers of chains, distributions and leapfrog steps, the start, and the variance.
        noise: generator to draw from, or None for torch's own.
        report: called with the finished fraction.
        given: labels, or which pixels are observed, if the model takes them.

    Raises:
        UserError: if the model lacks a part, images do not fit it, chains hardly move, or a number is not
            finite.

    >>> import flowvae
    >>> model = flowvae.vae((1, 8, 8), latent=2, features=8, channels=4)
    >>> found = annealed_importance_sampling(model, torch.ones(3, 1, 8, 8), Annealing(2, distributions=5))
    >>> found.log_prob.shape
    torch.Size([3])
    """
    generating = check_annealed(model, annealing)
    model.check(images, **given)
    if annealing.dequantize:
        images = dequantized(images, noise)
    annealing = with_start(model, images, annealing, **given)
    with evaluating(model):
        return _estimates(generating, images, None, annealing, noise, report, given)


@torch.no_grad()
def bracket(
    model: Model,
    images: Tensor,
    codes: Tensor,
    annealing: Annealing = Annealing(),  # immutable
    noise: torch.Generator | None = None,
    **given: Unpack[Given],
) -> Bracket:
    """Bound log p(x) of simulated images from both sides (Grosse et al. 2015).

    Images [B, C, H, W] are draws of p(x|z) for ``codes`` z [B, D] drawn from p(z). So z is an exact draw from
    p(z|x), and chains from it in the reverse direction give an upper bound in expectation.

    Args and raises as in `annealed_importance_sampling`.
    """
    generating = check_annealed(model, annealing)
    annealing = with_start(model, images, annealing, **given)
    with evaluating(model):
        lower, upper = (
            _estimates(generating, images, exact, annealing, noise, lambda fraction: None, given)
            for exact in (None, codes)
        )
    return Bracket(lower.log_prob, -upper.log_prob, (lower.acceptance + upper.acceptance) / 2)


@torch.no_grad()
def simulate(
    model: Model,
    number: int,
    annealing: Annealing,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw codes [N, D] from p(z), and an image [N, C, H, W] of p(x|z) for each, from torch's own generator.

    ``labels``: int64 [N], if the model is conditional.

    Raises:
        UserError: as in `check_annealed`.
    """
    generating, given = check_annealed(model, annealing), labelled(labels)
    with evaluating(model):
        codes = generating.sample_codes(number, **given)
        density = generating.image_density(annealing.variance, **given)(codes.unsqueeze(0))
        return codes, density.sample()[0]


def dequantized(images: Tensor, noise: Noise = None) -> Tensor:
    """Map 8-bit images k / 255, [B, C, H, W], to continuous ones, (k + u) / 256, u uniform in [0, 1).

    A pixel of level k then stands for the interval [k, k + 1) / 256 (Uria et al. 2013). ``noise``: u, or a
    generator to draw it from.
    """
    return ((255 * images).round() + uniform(noise, images.shape, images)) / 256


def check_annealed(model: Model, annealing: Annealing) -> Generating:
    """Return the model, checked to have what annealed importance sampling with these options needs.

    Raises:
        UserError: if it does not.
    """
    if not isinstance(model, Generating):
        raise UserError(
            "annealed importance sampling needs a model of codes, p(z) and p(x|z), and this one has none; "
            "choose --estimator importance, or a model such as vae or gan-mnist"
        )
    generating: Generating = model
    if generating.needs_variance and annealing.variance is None:
        raise UserError(
            "the model has no likelihood p(x|z) of its own; give the --variance of pixels around a generated "
            "image, such as 0.02"
        )
    if not generating.needs_variance and annealing.variance is not None:
        raise UserError(
            "the model has its own likelihood p(x|z), which has no free variance; omit --variance"
        )
    if annealing.dequantize and model.levels is not None:
        raise UserError(
            f"pixels of the model take {model.levels} values, and none in between; omit --dequantize"
        )
    if annealing.start == "posterior" and not isinstance(model, Inferring):
        raise UserError("the model has no encoder, so chains cannot start from q(z|x); choose --start prior")
    return generating


def with_start(model: Model, images: Tensor, annealing: Annealing, **given: Unpack[Given]) -> Annealing:
    """Return the options with the start that they mean for this model, which one of the images decides.

    Raises:
        UserError: if chains cannot start from q(z|x), as chosen.
    """
    if annealing.start == "prior" or not isinstance(model, Inferring):
        return replace(annealing, start="prior")
    one = slice(0, 1)
    with evaluating(model), torch.no_grad():
        try:
            density = model.posterior_density(images[one], **at(given, one))
            density(images.new_zeros(1, 1, model.dimension))
        except NotInvertibleError:
            if annealing.start == "posterior":
                raise UserError(
                    "the density of this model's q(z|x) is known at its own draws only; choose --start prior"
                ) from None
            return replace(annealing, start="prior")
    return replace(annealing, start="posterior")


def _estimates(
    model: Generating,
    images: Tensor,
    codes: Tensor | None,
    annealing: Annealing,
    noise: torch.Generator | None,
    report: Callable[[float], None],
    given: Given,
) -> Annealed:
    """Return the log mean weight of chains to p(z|x); or of those from ``codes`` [B, D], its exact draws."""
    betas = sigmoid_schedule(annealing.distributions)
    parts: list[Annealed] = []
    done = 0
    for few, rest in pieces(images, annealing.images_at_once, given):
        first, share = done / len(images), len(few) / len(images)
        start, densities = _problem(model, few, annealing, noise, rest)
        if codes is not None:
            start = codes[done : done + len(few)].expand_as(start)
        chains = anneal(
            start,
            densities,
            betas if codes is None else betas.flip(0),
            annealing.leapfrog_steps,
            noise,
            lambda fraction, first=first, share=share: report(first + share * fraction),
        )
        _check(chains)
        parts.append(Annealed(log_mean_exp(chains.log_weights), chains.acceptance))
        done += len(few)
    return Annealed(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _problem(
    model: Generating, images: Tensor, annealing: Annealing, noise: torch.Generator | None, given: Given
) -> tuple[Tensor, LogDensities]:
    """Return codes [C, B, D] from the first distribution, and the log densities of the first and the last."""
    own = labelled(given.get("labels"))
    prior, pixels = model.code_density(**own), model.image_density(annealing.variance, **own)
    posterior: Callable[[Tensor], Tensor] | None = None
    if isinstance(model, Inferring) and annealing.start == "posterior":
        posterior = model.posterior_density(images, **given)
        start = model.encode(images, annealing.chains, noise, **given)
    else:
        count = annealing.chains * len(images)
        labels = given.get("labels")
        repeated = labelled(None if labels is None else labels.repeat(annealing.chains))
        start = model.sample_codes(count, noise, **repeated).unflatten(0, (annealing.chains, -1))

    def densities(z: Tensor) -> tuple[Tensor, Tensor]:
        log_prior = prior.log_prob(z)
        joint = log_prior + log_prob(pixels(z), images, given.get("observed"))
        return log_prior if posterior is None else posterior(z), joint

    return start, densities


def _check(chains: Chains) -> None:
    """Make sure that chains have moved and that their weights are numbers.

    Raises:
        UserError: if not.
    """
    stuck = chains.acceptance < LEAST_ACCEPTANCE
    if stuck.any():
        raise UserError(
            f"the chains of {int(stuck.sum())} of {len(stuck)} images accept fewer than "
            f"{LEAST_ACCEPTANCE:.0%} of their moves, fewest near beta = {float(chains.worst[stuck][0]):.2g}; "
            "give more --distributions, or a larger --variance if the model takes one"
        )
    if not chains.log_weights.logsumexp(0).isfinite().all():
        raise UserError("log p(x) of an image is not finite; train again with a lower --learning-rate")
