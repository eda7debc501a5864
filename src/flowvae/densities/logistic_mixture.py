"""Mixture of discretized logistics, with dependent channels."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.densities.discretized_logistic import (
    LOWEST_LOG_SCALE,
    below_levels,
    clipped_mean,
    draw_level,
    log_mass,
    mean_and_log_scale,
    of_levels,
)
from flowvae.densities.likelihood import Likelihood, PartlyObserved
from flowvae.densities.tabulated import Choose, Tabulated
from flowvae.errors import UserError
from flowvae.flows import at_least_float32
from flowvae.noise import uniform


class Components(NamedTuple):
    """Parameters of the mixture at every pixel, on the scale [-1, 1]; M components."""

    logits: Tensor
    """logits of the components, [S, B, M, H, W]"""
    location: Tensor
    """[S, B, M, C, H, W]"""
    log_scale: Tensor
    """[S, B, M, C, H, W]"""
    coefficients: Tensor
    """coefficients of earlier channels in the location of later ones, [S, B, M, C (C - 1) / 2, H, W]: (1 from
    0), (2 from 0), (2 from 1), ..."""


class LogisticMixture(PartlyObserved, Tabulated):
    """Pixels of ``levels`` grey levels in [0, 1], event shape [C, H, W] (Salimans et al. 2017, section 2.2).

    All channels of a pixel share one component. Given the component, channel c is a discretized logistic
    whose location is linear in the values of the channels before it:
    ``location_c + sum_{d < c} coefficient_cd x_d``. Hence

    ``p(x) = prod over pixels of sum_m pi_m prod_c P(x_c | x_{<c}, m)``.

    Args:
        components: the parameters.
        levels: number of values, evenly spaced from 0 to 1, that a pixel takes.
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012  # as PyTorch's own have it

    def __init__(self, components: Components, levels: int) -> None:
        self.components, self.levels = components, levels
        shape = components.location.shape
        super().__init__(shape[:-4], shape[-3:], validate_args=False)

    def _location(self, channel: int, before: list[Tensor]) -> Tensor:
        """Return the location of a channel, [S, B, M, H, W], given the values of the channels before it."""
        first = channel * (channel - 1) // 2
        location = self.components.location.select(-3, channel)
        for index, value in enumerate(before):
            location = torch.addcmul(location, self.components.coefficients.select(-3, first + index), value)
        return location

    def log_prob(self, value: Tensor, observed: Tensor | None = None) -> Tensor:
        """Compute log p(x), or that of the observed positions.

        Raises:
            UserError: if some channels of a position are observed and others are not.
        """
        if observed is not None and (observed != observed[..., :1, :, :]).any():
            raise UserError(
                "the channels of a pixel depend on each other in this model; hide all of them or none"
            )
        scaled = (2 * value - 1).unsqueeze(-4)  # [..., 1, C, H, W], for all components
        channels = list(scaled.unbind(-3))
        locations = [self._location(channel, channels[:channel]) for channel in range(len(channels))]
        location = torch.stack(torch.broadcast_tensors(*locations), -3)
        mass = log_mass(scaled, location, self.components.log_scale, self.levels)
        of_components = F.log_softmax(self.components.logits, dim=-3) + mass.sum(-3)
        of_places = of_components.logsumexp(-3)
        if observed is not None:
            of_places = torch.where(observed[..., 0, :, :], of_places, of_places.new_zeros(()))
        return of_places.flatten(-2).sum(-1)

    @property
    def mean(self) -> Tensor:
        """Approximate mean, of variables clipped to [0, 1], each given the means of those before it."""
        means: list[Tensor] = []
        for channel in range(self.event_shape[0]):
            log_scale = self.components.log_scale.select(-3, channel)
            means.append(clipped_mean(self._location(channel, means), log_scale))
        weights = self.components.logits.softmax(-3)
        return 0.5 * (torch.stack([(weights * mean).sum(-3) for mean in means], -3) + 1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), noise: torch.Generator | None = None) -> Tensor:
        if sample_shape:
            draws = [self.sample(noise=noise) for _ in range(torch.Size(sample_shape).numel())]
            return torch.stack(draws).unflatten(0, tuple(sample_shape))
        # The Gumbel-max trick draws the component.
        quantile = uniform(noise, self.components.logits.shape, self.components.logits)
        gumbel = -(-quantile.clamp(min=torch.finfo(quantile.dtype).tiny).log()).log()
        chosen = (self.components.logits + gumbel).argmax(-3)

        def of_chosen(values: Tensor) -> Tensor:
            index = chosen.unsqueeze(-3).unsqueeze(-4)  # [S, B, 1, 1, H, W]
            return values.gather(-4, index.expand(*values.shape[:-4], 1, *values.shape[-3:]))

        logits, location, log_scale, coefficients = self.components
        drawn = LogisticMixture(
            Components(logits, of_chosen(location), of_chosen(log_scale), of_chosen(coefficients)),
            self.levels,
        )
        channels: list[Tensor] = []
        for channel in range(self.event_shape[0]):
            log_scale = drawn.components.log_scale.select(-3, channel)
            location = drawn._location(channel, channels)
            channels.append(draw_level(location, log_scale, self.levels, noise))
        return 0.5 * (torch.stack(channels, -3).squeeze(-4) + 1)

    def walk(self, choose: Choose) -> Tensor:
        """Ask for one channel after the other; the levels of each change the weights of the components."""
        weights = F.log_softmax(self.components.logits, dim=-3)
        chosen: list[Tensor] = []
        before: list[Tensor] = []
        for channel in range(self.event_shape[0]):
            location = self._location(channel, before)
            log_scale = self.components.log_scale.select(-3, channel)
            below = location.new_zeros(())
            parameters = weights.softmax(-3), location, log_scale
            for weight, *component in zip(*(each.unbind(-3) for each in parameters), strict=True):
                below = below + weight.unsqueeze(-1) * below_levels(*component, self.levels)
            levels = choose(of_levels(below).flatten(0, 1).flatten(1, 2)).unflatten(1, self.event_shape[1:])
            chosen.append(levels)
            value = (levels * (2 / (self.levels - 1)) - 1).to(weights.dtype).view_as(weights.select(-3, 0))
            before.append(value.unsqueeze(-3))
            weights = weights + log_mass(before[-1], location, log_scale, self.levels)
        return torch.stack(chosen, 1)

    def values(self, images: Tensor) -> Iterator[Tensor]:
        for channel in images.unbind(1):
            yield channel.flatten(1)


class LogisticMixtureLikelihood(Likelihood):
    """Pixels of ``levels`` grey levels as mixtures of discretized logistics; see `LogisticMixture`.

    Args:
        decoder: maps z [N, D] to [N, outputs_of(C, M), H, W].
        shape: (C, H, W).
        components: M, number of components.
        levels: number of values that a pixel takes.
    """

    initialized: Tensor

    def __init__(
        self, decoder: nn.Module, shape: tuple[int, int, int], components: int, levels: int = 256
    ) -> None:
        super().__init__()
        self.decoder, self.components = decoder, components
        self.levels: int = levels
        self.channels = shape[0]
        self.offset = nn.Parameter(torch.zeros(outputs_of(shape[0], components), *shape[1:]))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize from the mean and variance of each pixel, and set ``initialized``.

        The locations of the components are the quantiles (m + 1/2) / M of the logistic with these moments,
        and their scales half of its scale: equal components would stay equal.
        """
        mean, log_scale = mean_and_log_scale(images)
        quantiles = ((torch.arange(self.components, dtype=mean.dtype) + 0.5) / self.components).logit()
        location = mean + log_scale.exp() * quantiles.view(-1, 1, 1, 1)
        self.offset.copy_(parameters_of(location, (log_scale - math.log(2)).expand_as(location)))
        self.initialized.fill_(True)

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> LogisticMixture:
        parameters = (at_least_float32(self.decoder(z.flatten(0, 1))) + self.offset).unflatten(0, z.shape[:2])
        return LogisticMixture(components_of(parameters, self.components, self.channels), self.levels)


def outputs_of(channels: int, components: int) -> int:
    """Return the number of parameters per pixel."""
    return sum(_sizes(channels, components))


def _sizes(channels: int, components: int) -> list[int]:
    """Return the numbers of logits, locations, log scales and coefficients."""
    m, c = components, channels
    return [m, m * c, m * c, m * (c * (c - 1) // 2)]


def components_of(parameters: Tensor, components: int, channels: int) -> Components:
    """Convert any real numbers [S, B, outputs, H, W], M components, to parameters of the mixture."""
    logits, *others = parameters.split(_sizes(channels, components), dim=2)
    location, log_scale, coefficients = (
        other.unflatten(2, (components, other.shape[2] // components)) for other in others
    )
    return Components(logits, location, log_scale.clamp(min=LOWEST_LOG_SCALE), coefficients.tanh())


def parameters_of(location: Tensor, log_scale: Tensor, coefficients: Tensor | None = None) -> Tensor:
    """Return parameters [outputs, H, W] with which `components_of` starts: equally probable components.

    ``location`` and ``log_scale`` are [M, C, H, W], and ``coefficients`` [C (C - 1) / 2, H, W], those of all
    components, above -1 and below 1; None for 0.
    """
    components, channels, *sides = location.shape
    made = location.new_zeros(outputs_of(channels, components), *sides)
    _, of_location, of_scale, of_coefficients = made.split(_sizes(channels, components))
    of_location.copy_(location.flatten(0, 1))
    of_scale.copy_(log_scale.flatten(0, 1))
    if coefficients is not None:
        of_coefficients.copy_(coefficients.atanh().repeat(components, 1, 1))
    return made
