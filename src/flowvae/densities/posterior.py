"""Approximate posteriors q(z|x)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flowvae.flows import (
    AffineStep,
    BatchNormFlow,
    Flow,
    NotInvertibleError,
    Step,
    at_least_float32,
    full_precision,
)
from flowvae.noise import Noise, normal

BATCH_NORMS = BatchNormFlow, _BatchNorm

Linear = Callable[[int, int], nn.Module]
"""Makes a linear map, given the numbers of inputs and outputs: `torch.nn.Linear`, or one for maps."""


class Posterior(nn.Module, ABC):
    """An approximate posterior that can be sampled, with the density of its samples."""

    path_derivative = False
    """whether the gradient of log q(z|x) goes through z only: see `take_path_derivative`"""

    @abstractmethod
    def forward(self, features: Tensor, num_samples: int = 1, noise: Noise = None) -> tuple[Tensor, Tensor]:
        """Draw from q(z|x), reparametrized.

        Args:
            features: the encoder's embedding of B images, [B, F], or maps [B, F, H, W].
            num_samples: S, number of samples per image.
            noise: standard normal, [S, B, D], or a generator to draw it from.

        Returns:
            ``z`` [S, B, D] and ``log q(z|x)`` [S, B] in nats.
        """

    def unroll(
        self, features: Tensor, num_samples: int = 1, noise: Noise = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Draw like ``forward``, with the values before and after each step: ``(z_k, log q_k(z_k|x))``.

        The last pair is a draw from q(z|x). By default, there is only this pair.
        """
        return [self(features, num_samples, noise)]

    @abstractmethod
    def center(self, features: Tensor) -> Tensor:
        """Return one representative code per image, without noise, [1, B, D]."""

    def density(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        """Return log q(z|x) as a function of any codes z [S, B, D], with values [S, B]; differentiable.

        Raises:
            NotInvertibleError: here or in the function, if only draws have a known density.
        """
        raise NotInvertibleError(f"{type(self).__name__} has no density at a given code")

    def steps(self, features: Tensor) -> list[Step]:
        """Return the map from standard normal noise to codes as affine maps, by which codes are compressed.

        Raises:
            NotInvertibleError: if it is not a sequence of affine maps.
        """
        raise NotInvertibleError(f"{type(self).__name__} is not a sequence of affine maps")


class Reparametrization(NamedTuple):
    """The affine map from noise to codes of N(mean, L L'): ``L = diag(scale) (1 + below)``."""

    mean: Tensor
    """[B, D]"""
    log_scale: Tensor
    """[B, D]"""
    below: Tensor | None
    """strictly lower triangular, [B, D, D]; None for a diagonal covariance"""

    def __call__(self, noise: Tensor) -> Tensor:
        """Compute the codes ``mean + L noise`` for noise [S, B, D]."""
        if self.below is not None:
            with full_precision(noise):
                noise = noise + torch.einsum("bij,sbj->sbi", self.below, noise)
        return torch.addcmul(self.mean, noise, self.log_scale.exp())

    def inverse(self, codes: Tensor) -> Tensor:
        """Compute the noise of codes [S, B, D]."""
        noise = (codes - self.mean) * (-self.log_scale).exp()
        if self.below is None:
            return noise
        with full_precision(noise):
            unit = torch.eye(noise.shape[2], dtype=noise.dtype, device=noise.device) + self.below
            return torch.linalg.solve_triangular(
                unit, noise.permute(1, 2, 0), upper=False, unitriangular=True
            ).permute(2, 0, 1)

    def step(self) -> AffineStep:
        """Return the map as one of values that depend on those before them."""
        below = self.below
        if below is None:
            return AffineStep(lambda noise: (self.log_scale, self.mean))

        def parameters(noise: Tensor) -> tuple[Tensor, Tensor]:
            moved = torch.einsum("bij,sbj->sbi", below, noise)
            return self.log_scale, torch.addcmul(self.mean, moved, self.log_scale.exp())

        return AffineStep(parameters, depth=self.mean.shape[1])

    def push_score(self, score: Tensor) -> Tensor:
        """Compute the score of the codes, ``L'^-1 score``, from the ``score`` of their noise [S, B, D]."""
        if self.below is not None:
            with full_precision(score):
                unit = torch.eye(score.shape[2], dtype=score.dtype, device=score.device) + self.below.mT
                score = torch.linalg.solve_triangular(
                    unit, score.permute(1, 2, 0), upper=True, unitriangular=True
                ).permute(2, 0, 1)
        return score * (-self.log_scale).exp()

    def noise(self, num_samples: int, noise: Noise = None) -> tuple[Tensor, Tensor]:
        """Return noise [S, B, D], given or drawn, and the log density [S, B] of its codes."""
        noise = normal(noise, (num_samples, *self.mean.shape), self.mean, images=1)
        return noise, self.log_density(noise)

    def log_density(self, noise: Tensor) -> Tensor:
        """Compute the log density [S, B] of the codes of noise [S, B, D]."""
        # The quadratic form of the density is that of the noise, and log|det L| = sum log scale.
        normalization = self.log_scale.sum(1) + 0.5 * self.mean.shape[1] * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(2) - normalization


class GaussianPosterior(Posterior):
    """``q(z|x) = N(mu(x), Sigma(x))`` with all parameters linear in the features.

    (Kingma & Welling 2014, appendix C.2, with diagonal covariance; Kingma et al. 2016, appendix A, for a full
    one by its Cholesky factor.)

    Args:
        features: F.
        dimension: D; if the embedding is a map, D / (H W), the dimensions per position.
        linear: makes the linear map to mean and log scale.
        full: use a full covariance, with D (D - 1) / 2 more parameters per image; not for maps.

    >>> posterior = GaussianPosterior(features=8, dimension=3, full=True)
    >>> z, log_density = posterior(torch.zeros(7, 8), num_samples=5)
    >>> z.shape, log_density.shape
    (torch.Size([5, 7, 3]), torch.Size([5, 7]))
    """

    def __init__(self, features: int, dimension: int, linear: Linear = nn.Linear, full: bool = False) -> None:
        super().__init__()
        # A layer of maps has the same parts.
        self.mean_and_log_scale = cast(nn.Linear, linear(features, 2 * dimension))
        # Initial means vary as much as the features, and scales are about 1/e and hardly depend on them, so
        # codes are informative for the decoder from the first step on.
        weight, bias = self.mean_and_log_scale.weight, self.mean_and_log_scale.bias
        nn.init.xavier_normal_(weight)
        nn.init.zeros_(bias)
        with torch.no_grad():
            weight[dimension:] *= 0.1
            bias[dimension:] = -1.0
        below = dimension * (dimension - 1) // 2
        self.below = nn.Linear(features, below) if full and below else None
        if self.below is not None:
            for parameter in self.below.parameters():
                nn.init.zeros_(parameter)
            # Index of the entry at each position of the matrix; index 0 is a padded zero.
            places = torch.zeros(dimension, dimension, dtype=torch.long)
            rows, columns = torch.tril_indices(dimension, dimension, -1)
            places[rows, columns] = torch.arange(1, len(rows) + 1)
            self.register_buffer("places", places.flatten(), persistent=False)

    def reparametrization(self, features: Tensor) -> Reparametrization:
        """Return the map from noise to codes of each image."""
        mean, log_scale = at_least_float32(self.mean_and_log_scale(features)).chunk(2, dim=1)
        mean, log_scale = mean.flatten(1), log_scale.flatten(1)
        if self.below is None:
            return Reparametrization(mean, log_scale, None)
        entries = F.pad(at_least_float32(self.below(features)), (1, 0))
        below = entries.index_select(1, cast(Tensor, self.places)).unflatten(1, (-1, mean.shape[1]))
        return Reparametrization(mean, log_scale, below)

    def forward(self, features: Tensor, num_samples: int = 1, noise: Noise = None) -> tuple[Tensor, Tensor]:
        return self.draw(*self.parameters_of(features), num_samples, noise)

    def parameters_of(self, features: Tensor) -> tuple[Reparametrization, None]:
        """Return the arguments of ``draw`` for each image."""
        return self.reparametrization(features), None

    def draw(
        self, codes: Reparametrization, context: Tensor | None, num_samples: int, noise: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Draw like ``forward``, given the images' parameters; the context is ignored."""
        noise, log_density = codes.noise(num_samples, noise)
        z = codes(noise)
        if self.path_derivative and torch.is_grad_enabled():
            with torch.no_grad():
                score = codes.push_score(-noise)
            log_density = _through(z, score, log_density)
        return z, log_density

    def center(self, features: Tensor) -> Tensor:
        """The mean."""
        return self.reparametrization(features).mean.unsqueeze(0)

    def density(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        codes = self.reparametrization(features)
        return lambda z: codes.log_density(codes.inverse(z))

    def steps(self, features: Tensor) -> list[Step]:
        return [self.reparametrization(features).step()]


class FlowPosterior(Posterior):
    """A Gaussian transformed by a flow: ``log q(z_K|x) = log q_0(z_0|x) - sum_k log|det df_k|``.

    (Rezende & Mohamed 2015, equations 5 to 7.) One linear map computes the context of all transformations
    from the features, once per image. It starts at zero.

    The flow transforms the codes of the Gaussian, ``z_0 = mu + L noise``, or the noise, before ``mu`` and
    ``L`` are applied: ``z_k = mu + L f_k(.. f_1(noise))``. Both densities have the same formula. Noise has
    the same scale for all images and throughout training, whereas the codes of an image are a small cloud
    around a mean that the encoder knows anyway.

    Args:
        base: q_0.
        flow: flow of codes [S, B, D].
        features: F, number of features of the encoder's embedding.
        linear: makes the linear map.
        of_noise: whether the flow transforms the noise.

    >>> from flowvae.flows import Planar
    >>> posterior = FlowPosterior(GaussianPosterior(8, 2), Planar(2, transformations=4, amortized=True), 8)
    >>> z, log_density = posterior(torch.zeros(7, 8), num_samples=5)
    >>> z.shape, log_density.shape
    (torch.Size([5, 7, 2]), torch.Size([5, 7]))
    """

    def __init__(
        self,
        base: GaussianPosterior,
        flow: Flow,
        features: int,
        linear: Linear = nn.Linear,
        of_noise: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.flow, self.of_noise = base, flow, of_noise
        self.context = linear(features, flow.context_features) if flow.context_features else None
        if self.context is not None:
            for parameter in self.context.parameters():
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor, num_samples: int = 1, noise: Noise = None) -> tuple[Tensor, Tensor]:
        return self.draw(*self.parameters_of(features), num_samples, noise)

    def parameters_of(self, features: Tensor) -> tuple[Reparametrization, Tensor | None]:
        """Return the arguments of ``draw``: the base's map, and the flow's context [B, context_features]."""
        context = at_least_float32(self.context(features)) if self.context is not None else None
        return self.base.reparametrization(features), context

    def draw(
        self, codes: Reparametrization, context: Tensor | None, num_samples: int, noise: Noise = None
    ) -> tuple[Tensor, Tensor]:
        """Draw like ``forward``, given the images' parameters."""
        noise, log_density = codes.noise(num_samples, noise)
        start = noise if self.of_noise else codes(noise)
        moved, log_determinant = self.flow(start, context)
        z, log_density = codes(moved) if self.of_noise else moved, log_density - log_determinant
        if self.path_derivative and torch.is_grad_enabled():
            with torch.no_grad(), full_precision(start):
                score = -noise if self.of_noise else codes.push_score(-noise)
                score = self.flow.push_score(start, score, context)[1]
                score = codes.push_score(score) if self.of_noise else score
            log_density = _through(z, score, log_density)
        return z, log_density

    def unroll(
        self, features: Tensor, num_samples: int = 1, noise: Noise = None
    ) -> list[tuple[Tensor, Tensor]]:
        codes, context = self.parameters_of(features)
        noise, log_density = codes.noise(num_samples, noise)
        z = codes(noise)
        steps = [(z, log_density)]
        for moved, log_determinant in self.flow.unroll(noise if self.of_noise else z, context):
            log_density = log_density - log_determinant
            steps.append((codes(moved) if self.of_noise else moved, log_density))
        return steps

    def center(self, features: Tensor) -> Tensor:
        """Return the transformed center of the base."""
        codes, context = self.parameters_of(features)
        start = torch.zeros_like(codes.mean) if self.of_noise else codes.mean
        moved = self.flow(start.unsqueeze(0), context)[0]
        return codes(moved) if self.of_noise else moved

    def density(self, features: Tensor) -> Callable[[Tensor], Tensor]:
        """As in `Posterior`, by the inverse of the flow."""
        codes, context = self.parameters_of(features)

        def log_prob(z: Tensor) -> Tensor:
            start, log_determinant = self.flow.inverse(codes.inverse(z) if self.of_noise else z, context)
            return codes.log_density(start if self.of_noise else codes.inverse(start)) + log_determinant

        return log_prob

    def steps(self, features: Tensor) -> list[Step]:
        codes, context = self.parameters_of(features)
        base, flow = [codes.step()], self.flow.steps(context)
        return flow + base if self.of_noise else base + flow


def take_path_derivative(model: nn.Module) -> None:
    """Let the gradient of log q(z|x) go through z only, in the posteriors within ``model``.

    ``d log q(z|x) / d parameters`` at a fixed z has mean 0 over draws, and is only noise. Without it the
    gradient of the ELBO stays unbiased, and if q(z|x) is the true posterior, it is 0 for every draw (Roeder,
    Wu & Duvenaud 2017). Values do not change.

    This is valid for the ELBO; for the importance-weighted bound, see
    `flowvae.objectives.take_double_reparametrization`. Posteriors with batch norm are left unchanged, since
    each use changes their map, and so are those with a flow that cannot push a score.
    """
    for module in model.modules():
        if isinstance(module, Posterior):
            module.path_derivative = not any(
                isinstance(part, BATCH_NORMS) or (isinstance(part, Flow) and not part.pushes_scores)
                for part in module.modules()
            )


def _through(z: Tensor, score: Tensor, log_density: Tensor) -> Tensor:
    """Return the log density with the gradient ``score`` with respect to z [S, B, D], and no other."""
    return log_density.detach() + ((z - z.detach()) * score).sum(2)
