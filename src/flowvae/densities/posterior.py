"""Approximate posteriors q(z|x)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from flowvae.flows import Flow, at_least_float32

Linear = Callable[[int, int], nn.Module]
"""Makes the linear map between so many features and so many numbers: `torch.nn.Linear`, or one for maps."""


class Posterior(nn.Module, ABC):
    """An approximate posterior that can be sampled, with the density of its samples."""

    @abstractmethod
    def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        """Draw from q(z|x), reparametrized.

        Args:
            features: the encoder's embedding of B images, [B, F], or its maps of them, [B, F, H, W].
            num_samples: S.

        Returns:
            ``z`` [S, B, D] and ``log q(z|x)`` [S, B] in nats.
        """

    def unroll(self, features: Tensor, num_samples: int = 1) -> list[tuple[Tensor, Tensor]]:
        """As ``forward``, with what lies between: ``(z_k, log q_k(z_k|x))`` for k = 0 .. number of steps.

        The last pair is a draw from q(z|x). A posterior that is not made of steps is one pair.
        """
        return [self(features, num_samples)]

    @abstractmethod
    def center(self, features: Tensor) -> Tensor:
        """One representative code for each image, without noise, [1, B, D]."""


class GaussianPosterior(Posterior):
    """``q(z|x) = N(mu(x), diag sigma(x)^2)`` with mean and log scale linear in the features.

    (Kingma & Welling 2014, appendix C.2.)

    Args:
        features: F.
        dimension: D; where the embedding is a map, of each of its places, which are D / (H W).
        linear: makes the linear map.
    """

    def __init__(self, features: int, dimension: int, linear: Linear = nn.Linear) -> None:
        super().__init__()
        # A layer of maps has the same parts.
        self.mean_and_log_scale = cast(nn.Linear, linear(features, 2 * dimension))
        # Means as spread as the features at the start, with scales of about 1/e that hardly depend on them:
        # the decoder has something to go by from the first step on.
        weight, bias = self.mean_and_log_scale.weight, self.mean_and_log_scale.bias
        nn.init.xavier_normal_(weight)
        nn.init.zeros_(bias)
        with torch.no_grad():
            weight[dimension:] *= 0.1
            bias[dimension:] = -1.0

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log scale, [B, D] each."""
        mean, log_scale = at_least_float32(self.mean_and_log_scale(features)).chunk(2, dim=1)
        return mean.flatten(1), log_scale.flatten(1)

    def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        noise, mean, scale, log_density = self.standardized(features, num_samples)
        return torch.addcmul(mean, noise, scale), log_density

    def standardized(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noise [S, B, D], mean and scale [B, D]; and log q [S, B] of ``mean + scale * noise``."""
        mean, log_scale = self.moments(features)
        noise = torch.randn(num_samples, *mean.shape, dtype=mean.dtype, device=mean.device)
        # The quadratic form of the density is that of the noise itself.
        log_density = (
            -0.5 * noise.square().sum(2) - log_scale.sum(1) - 0.5 * mean.shape[1] * math.log(2 * math.pi)
        )
        return noise, mean, log_scale.exp(), log_density

    def center(self, features: Tensor) -> Tensor:
        """The mean."""
        return self.moments(features)[0].unsqueeze(0)


class FlowPosterior(Posterior):
    """A Gaussian pushed through a flow: ``log q(z_K|x) = log q_0(z_0|x) - sum_k log|det df_k|``.

    (Rezende & Mohamed 2015, equations 5 to 7.) One linear map turns the features into the context of all the
    flow's transformations, once per image. It starts at zero.

    The flow transforms the codes of the Gaussian, ``z_0 = mu + sigma * noise``, or the noise itself, with
    ``mu`` and ``sigma`` after it: ``z_k = mu + sigma * f_k(.. f_1(noise))``. Their densities have the same
    formula. Noise has the same scale for every image and at every time of the training, where the codes of an
    image are a small cloud around a mean that the encoder knows anyway: conditioners see what there is to
    transform.

    Args:
        base: q_0.
        flow: of codes [S, B, D].
        features: F, of the encoder's embedding.
        linear: makes the linear map.
        of_noise: the flow transforms the noise.

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

    def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        noise, mean, scale, log_density = self.base.standardized(features, num_samples)
        begun = noise if self.of_noise else torch.addcmul(mean, noise, scale)
        moved, log_determinant = self.flow(begun, self._context(features))
        return self._code(moved, mean, scale), log_density - log_determinant

    def unroll(self, features: Tensor, num_samples: int = 1) -> list[tuple[Tensor, Tensor]]:
        noise, mean, scale, log_density = self.base.standardized(features, num_samples)
        z = torch.addcmul(mean, noise, scale)
        steps = [(z, log_density)]
        for moved, log_determinant in self.flow.unroll(
            noise if self.of_noise else z, self._context(features)
        ):
            log_density = log_density - log_determinant
            steps.append((self._code(moved, mean, scale), log_density))
        return steps

    def center(self, features: Tensor) -> Tensor:
        """Where the base's center goes."""
        mean, log_scale = self.base.moments(features)
        begun = torch.zeros_like(mean) if self.of_noise else mean
        moved = self.flow(begun.unsqueeze(0), self._context(features))[0]
        return self._code(moved, mean, log_scale.exp())

    def _code(self, moved: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(mean, moved, scale) if self.of_noise else moved

    def _context(self, features: Tensor) -> Tensor | None:
        return at_least_float32(self.context(features)) if self.context is not None else None
