"""Generative latent optimization: a generator, and a learned code for every training image."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from flowvae import shares
from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.densities import FlowPrior, NormalMixture, Prior
from flowvae.errors import UserError
from flowvae.flows import at_least_float32
from flowvae.models.base import Coded, MakeOptimizer, Model, Update
from flowvae.models.couplings import CodeShape, Couplings
from flowvae.models.generator import Generator, GeneratorOptions
from flowvae.noise import Noise
from flowvae.parts import DEEPEST, LARGEST, MOST, WIDEST, Part, check_positive, ranged, training_only

SMALLEST_SIDE = 8
"""images with a smaller side are not halved any further"""
SPREAD = 2.0
"""radius of the ball, relative to the root mean square length of codes that are principal components"""
FIRST_STEP = 0.1
"""largest length of the first step, and of most others, of the search for the code of a new image"""


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Compute what each halving of images [B, C, H, W] loses, finest first, and the smallest images.

    ``L^j = g^j - up(g^{j+1})`` with ``g^0`` the images and ``g^{j+1} = down(g^j)``; last, the smallest g
    itself (Burt & Adelson 1983). ``down`` blurs with the binomial taps (1, 3, 3, 1) / 8 and takes every other
    pixel; ``up`` is bilinear. Adding the levels back, from the last one ``up``, restores the images exactly.

    >>> [tuple(level.shape[2:]) for level in laplacian_pyramid(torch.rand(1, 1, 28, 28))]
    [(28, 28), (14, 14), (7, 7)]
    """
    levels = []
    while min(images.shape[2:]) >= SMALLEST_SIDE:
        smaller = _halved(images)
        resized = F.interpolate(smaller, images.shape[2:], mode="bilinear", align_corners=False)
        levels.append(images - resized)
        images = smaller
    return [*levels, images]


def laplacian_loss(images: Tensor, others: Tensor) -> Tensor:
    """Compute the distance Lap_1 of images [B, C, H, W] from others, per pixel and channel, [B].

    ``1 / (C H W) sum_j 2^{2j} |L^j(x) - L^j(x')|_1`` over the levels of the `laplacian_pyramid`, j = 0 the
    finest (Bojanowski et al. 2018, section 3, where the sum is not divided). A level has about ``2^{-2j}`` as
    many pixels as the image, so this is about the sum over levels of the mean absolute difference.
    """
    levels = laplacian_pyramid(
        at_least_float32(images) - at_least_float32(others)
    )  # of the difference: a pyramid is linear
    sums = [4**j * level.abs().flatten(1).sum(1) for j, level in enumerate(levels)]
    return torch.stack(sums).sum(0) / math.prod(images.shape[1:])


def _halved(images: Tensor) -> Tensor:
    """Filter images with (1, 3, 3, 1) / 8 along both axes, at every other position; edges are replicated."""
    images = F.pad(images, (1, 1, 1, 1), mode="replicate")
    for axis in (2, 3):
        size = images.shape[axis]
        first, second, third, fourth = (
            images.narrow(axis, start, size - 3)[(slice(None),) * axis + (slice(None, None, 2),)]
            for start in range(4)
        )
        images = (first + fourth) / 8 + (second + third) * (3 / 8)
    return images


def into_ball(codes: Tensor) -> Tensor:
    """Shorten codes [..., D] that are longer than 1 to length 1."""
    length = codes.norm(dim=-1, keepdim=True)
    # Slightly less than 1, so that rounding does not make them longer than 1.
    return torch.where(length > 1, codes / length * (1 - 1e-6), codes)


class GLO(Model, Generator, Coded):
    """Generative latent optimization (Bojanowski, Joulin, Lopez-Paz & Szlam 2018).

    ``min over theta and z_1, ..., z_N of 1/N sum_i Lap_1(x_i, G_theta(z_i))`` with ``|z_i| <= 1``: the
    generator G and a code z_i for each training image x_i are learned together. There is no encoder and no
    likelihood of its own. The code of any other image is found by gradient descent: it is the one that
    generates the nearest image.

    Args:
        generator: maps codes [B, D] to logits of pixels [B, C, H, W].
        shape: (C, H, W).
        codes: N, number of training images.
        dimension: D, number of latent dimensions.
        start: initial codes: the leading principal components of their images, or normal noise.
        rate: learning rate of the codes' stochastic gradient descent.
        steps: number of steps of the search for the code of an image.
        density: learned distribution of the codes, times `scale`, from which samples have their codes; None
            for a Gaussian with the mean and covariance of the codes.
    """

    best = "laplacian_loss"
    draws = False
    mean: Tensor
    axes: Tensor

    def __init__(
        self,
        generator: nn.Module,
        shape: tuple[int, int, int],
        codes: int,
        dimension: int,
        start: Literal["principal", "random"] = "principal",
        rate: float = 0.3,
        steps: int = 20,
        density: Prior | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.codes = nn.Embedding(codes, dimension)
        self.dimension = dimension
        self.start, self.rate, self.steps, self.density = start, rate, steps, density
        self.scale = SPREAD * dimension**0.5
        """about 1 over the standard deviation of an entry of a code"""
        with torch.no_grad():
            self.codes.weight.copy_(into_ball(self.codes.weight / dimension**0.5))
        # With random initial codes these stay 0, so the search for the code of a new image starts at 0.
        self.register_buffer("mean", torch.zeros(math.prod(shape)))
        self.register_buffer("axes", torch.zeros(dimension, math.prod(shape)))

    # Training.

    def players(self) -> dict[str, nn.Module]:
        density = {} if self.density is None else {"density": self.density}
        return {"generator": self.generator, "codes": self.codes, **density}

    def optimizers(self) -> dict[str, MakeOptimizer]:
        """Return gradient descent without momentum or weight decay: a step changes the batch's codes only."""
        return {"codes": lambda parameters: torch.optim.SGD(parameters, self.rate)}

    def initialize(self, images: Tensor) -> None:
        """Compute the principal axes of the images, scaled so that most codes are within the ball."""
        if self.start == "random":
            return
        flat, dimension = images.flatten(1), len(self.axes)
        self.mean.copy_(flat.mean(0))
        # A few more axes than needed, and a few iterations, make the leading ones exact to three digits.
        _, scales, axes = torch.svd_lowrank(flat - self.mean, min(dimension + 10, *flat.shape), niter=4)
        deviations = scales[:dimension, None] / len(flat) ** 0.5
        axes = axes.T[:dimension] / (deviations * SPREAD * dimension**0.5)
        # Along an axis on which images do not differ there is only rounding; such entries start at 0.
        axes = torch.where(deviations > 1e-4 * deviations.max(), axes, 0)
        self.axes.zero_()[: len(axes)].copy_(axes)

    def initialize_each(self, batches: Iterator[Batch]) -> None:
        if self.start == "random":
            return
        with torch.no_grad():
            for batch in batches:
                self.codes.weight[batch.index] = self.guess(batch.images)

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        """Yield the losses of the generator, of the codes, with the updated generator, and of their density.

        The codes' loss is the sum over images, so that a code's gradient does not depend on the batch size.
        """
        loss = laplacian_loss(self.decode(self.codes(batch.index).detach()), batch.images).mean()
        yield Update("generator", loss, {"laplacian_loss": loss.detach()})
        of_codes = shares.total(laplacian_loss(self.decode(self.codes(batch.index)), batch.images))
        yield Update("codes", of_codes, {})
        if self.density is not None:
            code_nll = -self.density().log_prob(self.scale * self.codes(batch.index).detach()).mean()
            yield Update("density", code_nll, {"code_nll": code_nll.detach()})

    def after_step(self) -> None:
        with torch.no_grad():
            self.codes.weight.copy_(into_ball(self.codes.weight))

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the ``laplacian_loss`` between the images and their reconstructions."""
        return {"laplacian_loss": laplacian_loss(self.reconstruct(batch.images), batch.images)}

    # Codes.

    def guess(self, images: Tensor) -> Tensor:
        """Return initial codes [B, D] for images [B, C, H, W]: their principal components, or 0."""
        return into_ball((images.flatten(1) - self.mean) @ self.axes.T)

    @torch.inference_mode(False)  # which knows no gradients
    def center(self, images: Tensor) -> Tensor:
        """Find a code for each of the images [B, C, H, W], [B, D].

        Adam from the `guess`, kept within the ball, with linear decay of the learning rate to 0. The code of
        an image does not depend on the other images.
        """
        self.check(images)
        codes = self.guess(images)
        highest = FIRST_STEP / codes.shape[1] ** 0.5  # a step of Adam changes each entry by about its rate
        optimizer = torch.optim.Adam([codes], highest)
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = highest * (1 - step / self.steps)
            with torch.enable_grad():
                at = codes.detach().requires_grad_()
                (codes.grad,) = torch.autograd.grad(laplacian_loss(self.decode(at), images).sum(), at)
            with torch.no_grad():
                optimizer.step()
                codes.copy_(into_ball(codes))
        codes.grad = None
        return codes

    def decode(self, codes: Tensor, noise: Noise = None) -> Tensor:
        self.check_codes(codes, self.dimension)
        return at_least_float32(self.generator(codes)).sigmoid()

    def path(self, first: Tensor, second: Tensor, steps: int) -> Tensor:
        """Interpolate linearly between the two codes, within the ball, which is convex."""
        weights = torch.linspace(0, 1, steps, device=first.device).view(-1, 1)
        return torch.lerp(self.center(first).unsqueeze(1), self.center(second).unsqueeze(1), weights)

    # Images.

    def sample_codes(
        self, num_codes: int, noise: Noise = None, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        if self.density is None:
            return super().sample_codes(num_codes, noise, temperature)
        return self.density.sample(num_codes, noise, temperature)

    def code_density(self, labels: Tensor | None = None) -> Distribution:
        return super().code_density() if self.density is None else self.density()

    @torch.no_grad()
    def generate(self) -> Callable[[Tensor], Tensor]:
        """Return the function from draws of the learned density, or standard normal, to images.

        Without a learned density, codes get the mean and covariance of those of the training images, as in
        the paper. Codes outside the ball are moved to its surface.
        """
        if self.density is not None:
            return lambda codes: self.decode(into_ball(codes / self.scale))
        mean = self.codes.weight.mean(0)
        covariance = torch.cov(self.codes.weight.T, correction=0).view(2 * mean.shape)
        variances, directions = torch.linalg.eigh(covariance)
        # The symmetric root, which does not depend on the signs of the directions.
        root = directions * variances.clamp(min=0).sqrt() @ directions.T
        return lambda plain: self.decode(into_ball(mean + plain @ root))


@dataclass(frozen=True)
class CodeDensityPart(Part):
    """A kind of distribution of codes. To add one, subclass this class and implement `density`."""

    @abstractmethod
    def density(self, dimension: int) -> Prior | None:
        """Build what is learned, if anything is, for D dimensions."""


@dataclass(frozen=True)
class GaussianCodesOptions(CodeDensityPart):
    """A Gaussian with the mean and covariance of the training images' codes, as in the paper."""

    name = "gaussian"

    def density(self, dimension: int) -> None:
        return None


@dataclass(frozen=True)
class MixtureCodesOptions(CodeDensityPart):
    """A mixture of Gaussians that learns the density of the codes while they are learned."""

    name = "mixture"
    components: int = ranged(100, 1, WIDEST)
    """number of Gaussians of the mixture"""

    def density(self, dimension: int) -> Prior:
        return NormalMixture(dimension, self.components)


@dataclass(frozen=True)
class RealNVPCodesOptions(CodeDensityPart):
    """A Real NVP that learns the density of the codes while they are learned."""

    name = "realnvp"
    transformations: int = ranged(8, 1, DEEPEST)
    """K, number of Real NVP transformations of the codes"""
    hidden: int = ranged(128, 1, WIDEST)
    """number of hidden units of the conditioners"""

    def density(self, dimension: int) -> Prior:
        couplings = Couplings(self.transformations, self.hidden)
        return FlowPrior(dimension, couplings.flow(CodeShape(dimension)))


@dataclass(frozen=True)
class GLOOptions(GeneratorOptions, System):
    """Generative latent optimization: a generator and a code for every training image, without an encoder."""

    name = "glo"

    latent: int = ranged(32, 1, WIDEST)
    """D, number of latent dimensions"""
    code_start: Literal["principal", "random"] = training_only("principal")
    """initial codes of training images: the images' principal components, or random"""
    code_rate: float = training_only(0.3)
    """highest learning rate of the codes' plain gradient descent, which follows the run's schedule"""
    code_steps: int = ranged(20, 0, MOST)
    """number of gradient steps to find the code of an image outside the training split"""
    code_density: GaussianCodesOptions | MixtureCodesOptions | RealNVPCodesOptions = GaussianCodesOptions()
    """distribution of codes that samples are drawn from: fitted Gaussian, learned mixture or Real NVP"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("code_rate", self.code_rate, LARGEST)

    def build(self, data: DataSpec) -> GLO:
        generator = self.generator(data.shape)
        if data.training_images < 1:
            raise UserError("glo has a code for every training image; give their number, training_images")
        trained = self.code_start, self.code_rate, self.code_steps
        density = self.code_density.density(self.latent)
        return GLO(generator, data.shape, data.training_images, self.latent, *trained, density)

    def describe(self) -> str:
        return f"generator with a code for every training image, D = {self.latent}"


PRESETS: dict[str, Config] = {
    "glo-mnist": Config(DataConfig("mnist", "none"), GLOOptions(), TrainingConfig(validation_images=500))
}
