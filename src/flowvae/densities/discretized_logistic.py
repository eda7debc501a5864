"""Discretized logistic: pixels with grey levels, as logistic variables rounded to the nearest level."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.densities.likelihood import Likelihood, PartlyObserved
from flowvae.densities.tabulated import Choose, Tabulated
from flowvae.flows import at_least_float32
from flowvae.noise import uniform

LOWEST_LOG_SCALE = -7.0  # an eighth of the distance between 8-bit levels


def log_mass(level: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Compute ``log P(round(clip(X)) = level)`` for ``X ~ Logistic(location, exp(log_scale))``, elementwise.

    Everything is on the scale [-1, 1], where neighbouring levels are ``2 / (levels - 1)`` apart. With ``a``
    and ``b`` the standardized upper and lower edge of the level, and sigma the logistic function, the mass is
    ``sigma(a) - sigma(b)``; the outermost levels extend to infinity (Salimans et al. 2017, equation 2). To
    avoid cancellation, this is ``sigma(a) sigma(-b) (1 - exp(b - a))``.
    """
    inverse_scale = (-log_scale).exp()
    width = 2 / (levels - 1)
    middle = (level - location) * inverse_scale
    half = 0.5 * width * inverse_scale
    zero = torch.zeros((), dtype=middle.dtype, device=middle.device)
    # Compared with a margin of half a level, since levels are floating-point numbers.
    lowest, highest = level < -1 + 0.5 * width, level > 1 - 0.5 * width
    above = torch.where(highest, zero, F.softplus(-middle - half))
    below = torch.where(lowest, zero, F.softplus(middle - half))
    within = torch.where(lowest | highest, zero, torch.log(-torch.expm1(-2 * half)))
    return within - above - below


def below_levels(location: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Compute ``P(round(clip(X)) < level)`` of all levels but the lowest, [..., levels - 1]."""
    edges = torch.arange(1, levels, dtype=location.dtype, device=location.device) * 2 - 1
    above = edges / (levels - 1) - 1 - location.unsqueeze(-1)
    return above.mul_((-log_scale).exp().unsqueeze(-1)).sigmoid_()


def of_levels(below: Tensor) -> Tensor:
    """Return the probabilities of all levels, given those of `below_levels`.

    Improbable levels have no accurate ones, unlike by `log_mass`, which takes five times as long.
    """
    return F.pad(below, (0, 1), value=1.0) - F.pad(below, (1, 0))


def clipped_mean(location: Tensor, log_scale: Tensor) -> Tensor:
    """Compute the mean of a logistic variable clipped to [-1, 1].

    Rounding to levels changes it by at most half a level.

    ``E clip(X) = -1 + integral of P(X > t) over [-1, 1]``, an integral of the logistic function.
    """
    scale = log_scale.exp()
    return scale * (F.softplus((location + 1) / scale) - F.softplus((location - 1) / scale)) - 1


def draw_level(
    location: Tensor, log_scale: Tensor, levels: int, noise: torch.Generator | None = None
) -> Tensor:
    """Draw ``round(clip(X))`` on the scale [-1, 1]."""
    quantile = uniform(noise, location.shape, location).clamp(1e-6, 1 - 1e-6)
    value = location + log_scale.exp() * quantile.logit()
    return ((value.clamp(-1, 1) + 1) * (0.5 * (levels - 1))).round() * (2 / (levels - 1)) - 1


class DiscretizedLogistic(PartlyObserved, Tabulated):
    """Independent pixels of ``levels`` grey levels in [0, 1], event shape [C, H, W].

    Args:
        location, log_scale: [S, B, C, H, W], on the scale [-1, 1].
        levels: number of values, evenly spaced from 0 to 1, that a pixel takes.

    >>> location, log_scale = torch.zeros(5, 7, 3, 4, 4), torch.zeros(5, 7, 3, 4, 4)
    >>> DiscretizedLogistic(location, log_scale, levels=256).log_prob(torch.zeros(7, 3, 4, 4)).shape
    torch.Size([5, 7])
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012  # as PyTorch's own have it

    def __init__(self, location: Tensor, log_scale: Tensor, levels: int) -> None:
        self.location, self.log_scale, self.levels = location, log_scale, levels
        super().__init__(location.shape[:-3], location.shape[-3:], validate_args=False)

    def log_prob(self, value: Tensor, observed: Tensor | None = None) -> Tensor:
        mass = log_mass(2 * value - 1, self.location, self.log_scale, self.levels)
        if observed is not None:
            mass = torch.where(observed, mass, mass.new_zeros(()))
        return mass.flatten(-3).sum(-1)

    @property
    def mean(self) -> Tensor:
        """Mean of the logistic variables clipped to [0, 1]."""
        return 0.5 * (clipped_mean(self.location, self.log_scale) + 1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), noise: torch.Generator | None = None) -> Tensor:
        location = self.location.expand(*sample_shape, *self.location.shape)
        log_scale = self.log_scale.expand_as(location)
        return 0.5 * (draw_level(location, log_scale, self.levels, noise) + 1)

    def walk(self, choose: Choose) -> Tensor:
        location, log_scale = (each.flatten(0, 1).flatten(1) for each in (self.location, self.log_scale))
        table = of_levels(below_levels(location, log_scale, self.levels))
        return choose(table).unflatten(1, self.event_shape)

    def values(self, images: Tensor) -> Iterator[Tensor]:
        yield images.flatten(1)


class DiscretizedLogisticLikelihood(Likelihood):
    """Independent pixels of ``levels`` grey levels, with locations and log scales from the decoder.

    Args:
        decoder: maps z [N, D] to [N, 2 C, H, W], locations and then log scales.
        shape: (C, H, W).
        levels: number of values that a pixel takes.
    """

    initialized: Tensor

    def __init__(self, decoder: nn.Module, shape: tuple[int, int, int], levels: int = 256) -> None:
        super().__init__()
        self.decoder = decoder
        self.levels: int = levels
        channels, height, width = shape
        self.offset = nn.Parameter(torch.zeros(2 * channels, height, width))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize as the logistic with the mean and variance of each pixel, and set ``initialized``."""
        mean, log_scale = mean_and_log_scale(images)
        self.offset.copy_(torch.cat([mean, log_scale]))
        self.initialized.fill_(True)

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> "DiscretizedLogistic":
        parameters = (at_least_float32(self.decoder(z.flatten(0, 1))) + self.offset).unflatten(0, z.shape[:2])
        location, log_scale = parameters.chunk(2, dim=2)
        return DiscretizedLogistic(location, log_scale.clamp(min=LOWEST_LOG_SCALE), self.levels)


def mean_and_log_scale(images: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a logistic to the moments of each pixel of images [N, C, H, W], on the scale [-1, 1].

    The variance of a logistic variable is ``(pi scale)^2 / 3``. A pixel that hardly varies gets a scale of a
    few levels, since decoders learn slowly if they start too certain.
    """
    variance, mean = torch.var_mean(2 * images - 1, dim=0, correction=0)
    return mean, (variance.sqrt() * (math.sqrt(3) / math.pi)).clamp(min=0.02).log()
