"""Generative latent optimization: a generator, and a learned code for every training image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.errors import UserError, check_range
from flowvae.models.base import Coded, MakeOptimizer, Model, Sampler, Update
from flowvae.models.sides import check_sides
from flowvae.networks import Decoder, VectorCode
from flowvae.networks.convolutional import STRIDE
from flowvae.noise import Noise, normal
from flowvae.parts import DEEPEST, LARGEST, MOST, WIDEST, check_positive, training_only

SMALLEST_SIDE = 8
"""Images with a smaller side are not halved any further."""

SPREAD = 2.0
"""Radius of the ball, in root mean square lengths of the codes that are principal components."""

FIRST_STEP = 0.1
"""Largest length of the first step, and of most others, by which the code of a new image is looked for."""


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """What each halving of images [B, C, H, W] loses, finest first, and at the end what is left of them.

    ``L^j = g^j - up(g^{j+1})`` with ``g^0`` the images and ``g^{j+1} = down(g^j)``, and last the smallest g
    itself (Burt & Adelson 1983). ``down`` blurs with the binomial taps (1, 3, 3, 1) / 8 and takes every other
    pixel; ``up`` is bilinear. The images come back, exactly, where from the last level on what there is goes
    ``up`` and the next level is added.

    >>> [tuple(level.shape[2:]) for level in laplacian_pyramid(torch.rand(1, 1, 28, 28))]
    [(28, 28), (14, 14), (7, 7)]
    """
    levels = []
    while min(images.shape[2:]) >= SMALLEST_SIDE:
        smaller = _halved(images)
        levels.append(images - _resized(smaller, images))
        images = smaller
    return [*levels, images]


def laplacian_loss(images: Tensor, others: Tensor) -> Tensor:
    """The distance Lap_1 of images [B, C, H, W] from others, a pixel and channel, [B].

    ``1 / (C H W) sum_j 2^{2j} |L^j(x) - L^j(x')|_1`` over the levels of the `laplacian_pyramid`, j = 0 the
    finest (Bojanowski et al. 2018, section 3, where the sum is not divided). A level has about ``2^{-2j}`` as
    many pixels as the image, so this is about the sum over levels of the mean absolute difference.
    """
    levels = laplacian_pyramid(images.float() - others.float())  # that of the difference: a pyramid is linear
    sums = [4**j * level.abs().flatten(1).sum(1) for j, level in enumerate(levels)]
    return torch.stack(sums).sum(0) / math.prod(images.shape[1:])


def _halved(images: Tensor) -> Tensor:
    """Images with (1, 3, 3, 1) / 8 along either side, at every other place; edges are continued."""
    images = F.pad(images, (1, 1, 1, 1), mode="replicate")
    for axis in (2, 3):
        size = images.shape[axis]
        first, second, third, fourth = (
            images.narrow(axis, start, size - 3)[(slice(None),) * axis + (slice(None, None, 2),)]
            for start in range(4)
        )
        images = (first + fourth) / 8 + (second + third) * (3 / 8)
    return images


def _resized(images: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(images, like.shape[2:], mode="bilinear", align_corners=False)


def into_ball(codes: Tensor) -> Tensor:
    """Codes [..., D], those longer than 1 shortened to 1."""
    length = codes.norm(dim=-1, keepdim=True)
    # A little less than 1, so that what was shortened is not longer than 1 by rounding.
    return torch.where(length > 1, codes / length * (1 - 1e-6), codes)


class GLO(Model, Sampler, Coded):
    """Generative latent optimization (Bojanowski, Joulin, Lopez-Paz & Szlam 2018).

    ``min over theta and z_1, ..., z_N of 1/N sum_i Lap_1(x_i, G_theta(z_i))`` with ``|z_i| <= 1``: the
    generator G and a code z_i for each training image x_i are learned together. There is no encoder, no
    prior and no likelihood. The code of any other image is the one whose image is nearest to it, which is
    looked for by gradient descent.

    Args:
        generator: maps codes [B, D] to logits of pixels [B, C, H, W].
        shape: (C, H, W).
        codes: N, number of training images.
        dimension: D.
        start: codes start as the leading principal components of their images, or as normal noise.
        rate: of the codes' stochastic gradient descent.
        steps: of the search for the code of an image.
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
    ) -> None:
        super().__init__()
        self.generator = generator
        self.codes = nn.Embedding(codes, dimension)
        self.start, self.rate, self.steps = start, rate, steps
        with torch.no_grad():
            self.codes.weight.copy_(into_ball(self.codes.weight / dimension**0.5))
        # Where codes do not start from images, the code from which those of new images start is 0.
        self.register_buffer("mean", torch.zeros(math.prod(shape)))
        self.register_buffer("axes", torch.zeros(dimension, math.prod(shape)))

    # Training.

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "codes": self.codes}

    def optimizers(self) -> dict[str, MakeOptimizer]:
        """Without momentum or weight decay, so that a step moves the codes of its batch alone."""
        return {"codes": lambda parameters: torch.optim.SGD(parameters, self.rate)}

    def initialize(self, images: Tensor) -> None:
        """Take the principal axes from the images, scaled so that most codes lie within the ball."""
        if self.start == "random":
            return
        flat, dimension = images.flatten(1), len(self.axes)
        self.mean.copy_(flat.mean(0))
        # A few more than are wanted, and a few iterations: then they are the leading ones to three digits.
        _, scales, axes = torch.svd_lowrank(flat - self.mean, min(dimension + 10, *flat.shape), niter=4)
        deviations = scales[:dimension, None] / len(flat) ** 0.5
        axes = axes.T[:dimension] / (deviations * SPREAD * dimension**0.5)
        # Along an axis on which images do not differ there is rounding alone; such numbers start at 0.
        axes = torch.where(deviations > 1e-4 * deviations.max(), axes, 0)
        self.axes.zero_()[: len(axes)].copy_(axes)

    def initialize_each(self, batches: Iterator[Batch]) -> None:
        if self.start == "random":
            return
        with torch.no_grad():
            for batch in batches:
                self.codes.weight[batch.index] = self.guess(batch.images)

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        """The generator for the codes as they are, then the codes for the generator as it is now.

        The codes' loss is the sum over images: a code's gradient is that of its own image, whatever the size
        of the batch.
        """
        loss = laplacian_loss(self.decode(self.codes(batch.index).detach()), batch.images).mean()
        yield Update("generator", loss, {"laplacian_loss": loss.detach()})
        yield Update("codes", laplacian_loss(self.decode(self.codes(batch.index)), batch.images).sum(), {})

    def after_step(self) -> None:
        with torch.no_grad():
            self.codes.weight.copy_(into_ball(self.codes.weight))

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """``laplacian_loss`` of the images and what the generator makes of the codes found for them."""
        return {"laplacian_loss": laplacian_loss(self.reconstruct(batch.images), batch.images)}

    # Codes.

    def guess(self, images: Tensor) -> Tensor:
        """Codes [B, D] for images [B, C, H, W] to start from: their principal components, or 0."""
        return into_ball((images.flatten(1) - self.mean) @ self.axes.T)

    def center(self, images: Tensor) -> Tensor:
        """The code found for each of the images [B, C, H, W], [B, D].

        By Adam from the `guess`, kept in the ball, with a rate that falls in a straight line to 0. An image's
        code does not depend on what other images there are.
        """
        codes = self.guess(images)
        highest = FIRST_STEP / codes.shape[1] ** 0.5  # a step of Adam moves each number by about its rate
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
        return self.generator(codes).float().sigmoid()

    def path(self, first: Tensor, second: Tensor, steps: int) -> Tensor:
        """On the straight line between the two codes, which stays in the ball, as that is convex."""
        weights = torch.linspace(0, 1, steps, device=first.device).view(-1, 1)
        return torch.lerp(self.center(first).unsqueeze(1), self.center(second).unsqueeze(1), weights)

    # Images.

    @torch.no_grad()
    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Images of codes drawn from the Gaussian with mean and covariance of the training images' codes.

        As in the paper. ``noise``: standard normal [N, D], or a generator. Draws beyond the ball are moved to
        its surface.
        """
        codes = self.codes.weight
        variances, directions = torch.linalg.eigh(torch.cov(codes.T, correction=0).view(2 * codes.shape[1:]))
        # The symmetric root, for which it does not matter which signs the directions have.
        root = directions * variances.clamp(min=0).sqrt() @ directions.T
        deviation = normal(noise, (num_images, codes.shape[1]), codes) @ root
        return self.decode(into_ball(codes.mean(0) + temperature * deviation))


@dataclass(frozen=True)
class GLOOptions(System):
    """Generative latent optimization: a generator and a code for every training image, without an encoder."""

    name = "glo"

    latent: int = 32
    """D, number of dimensions of a code"""
    features: int = 256
    """width of the generator's first layer"""
    channels: int = 64
    """channels of the convolutions at a quarter of the images' sides; half as many at half of the sides"""
    blocks: int = 1
    """number of residual blocks at either size of the generator"""
    code_start: Literal["principal", "random"] = training_only("principal")
    """where the codes of training images start: at the images' principal components, or at random"""
    code_rate: float = training_only(0.3)
    """highest learning rate of the codes' plain gradient descent; it follows the run's schedule"""
    code_steps: int = 20
    """number of gradient steps that look for the code of an image outside the training split"""

    def __post_init__(self) -> None:
        check_range("latent", self.latent, 1, WIDEST)
        check_range("features", self.features, 1, WIDEST)
        check_range("channels", self.channels, 2, WIDEST)  # half as many at half of the images' sides
        check_range("blocks", self.blocks, 0, DEEPEST)
        check_range("code_steps", self.code_steps, 0, MOST)
        check_positive("code_rate", self.code_rate, LARGEST)

    def build(self, data: DataSpec) -> GLO:
        check_sides(data.shape, STRIDE)
        if data.training_images < 1:
            raise UserError(
                "a model with a code for every training image needs their number; give training_images"
            )
        first = VectorCode(self.latent, data.shape[1:], self.features, self.channels)
        generator = Decoder(first, data.shape[0], self.blocks)
        trained = self.code_start, self.code_rate, self.code_steps
        return GLO(generator, data.shape, data.training_images, self.latent, *trained)

    def describe(self) -> str:
        return f"generator with a code for every training image, D = {self.latent}"


PRESETS: dict[str, Config] = {
    "glo-mnist": Config(DataConfig("mnist", "none"), GLOOptions(), TrainingConfig(validation_images=500))
}
