"""Priors p(z)."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from flowvae.densities.posterior import GaussianPosterior
from flowvae.flows import Flow
from flowvae.noise import Noise, integers, normal


class Prior(nn.Module, ABC):
    """p(z): the distribution of codes."""

    @abstractmethod
    def forward(self) -> Distribution:
        """``p(z)``: batch shape [], event shape [D]."""

    @abstractmethod
    def sample(self, num_codes: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Draw codes [N, D] from p(z).

        Args:
            num_codes: N.
            noise: standard normal, [N, D], or a generator to draw it from.
            temperature: factor on the distance from the mean, with a flow that of the flow's input; 1 samples
                p(z).
        """

    def initialize(self, images: Tensor) -> None:
        """Initialize from training images [N, C, H, W]; by default, do nothing."""


class StandardNormal(Prior):
    """``p(z) = N(0, I)`` over D dimensions.

    >>> prior = StandardNormal(3)
    >>> prior().log_prob(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7])
    """

    mean: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension), persistent=False)

    def forward(self) -> Distribution:
        return Independent(Normal(self.mean, torch.ones_like(self.mean), validate_args=False), 1)

    def sample(self, num_codes: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        return temperature * normal(noise, (num_codes, *self.mean.shape), self.mean)


class FlowDistribution(Distribution):
    """The distribution of vectors that a flow transforms to a base distribution.

    ``log p(z) = log p_0(f(z)) + log|det df/dz|``.
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012  # as PyTorch's own have it

    def __init__(self, base: Distribution, flow: Flow) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.flow = base, flow

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p(z) in nats, [...], for values [..., D]."""
        plain, log_determinant = self.flow(value.reshape(1, -1, value.shape[-1]))
        return (self.base.log_prob(plain) + log_determinant).view(value.shape[:-1])


class FlowPrior(Prior):
    """A prior whose flow transforms codes to a standard normal; with couplings, the prior of Xu et al. 2019.

    Training and scoring run the flow forward, its faster direction; sampling runs its inverse. Starts as the
    standard normal.

    Args:
        dimension: D.
        flow: flow without context, with an inverse.

    >>> from flowvae.flows import AffineCoupling
    >>> from flowvae.networks import Dense
    >>> prior = FlowPrior(3, AffineCoupling(Dense(2, 16, 2), dimension=3))
    >>> prior().log_prob(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7])
    """

    def __init__(self, dimension: int, flow: Flow) -> None:
        super().__init__()
        self.base, self.flow = StandardNormal(dimension), flow

    def forward(self) -> Distribution:
        return FlowDistribution(self.base(), self.flow)

    def sample(self, num_codes: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        plain = self.base.sample(num_codes, noise, temperature)
        return self.flow.inverse(plain.unsqueeze(0))[0][0]


class VampPrior(Prior):
    """The mixture of posteriors of learned pseudo-inputs, ``p(z) = 1/K sum_k q_0(z|u_k)``.

    (Tomczak & Welling 2018, equation 11.) q_0 is the model's Gaussian posterior, or the base of its flow
    posterior, as the density of a flow posterior at a given z would need the flow's inverse.

    Args:
        encoder: the model's encoder, shared like the posterior.
        posterior: Gaussian posterior with diagonal covariance.
        shape: (C, H, W) of the pseudo-inputs, whose pixels are in (0, 1).
        components: K, number of pseudo-inputs.
    """

    def __init__(
        self, encoder: nn.Module, posterior: GaussianPosterior, shape: tuple[int, int, int], components: int
    ) -> None:
        super().__init__()
        # Not submodules, thanks to the tuple: their weights would be saved twice.
        self.borrowed = (encoder, posterior)
        self.shape = shape
        # Rows instead of maps, so that the optimizer does not take them for kernels.
        self.pseudo_logits = nn.Parameter(torch.randn(components, math.prod(shape)))

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize the pseudo-inputs near training images [N, C, H, W], different ones if possible."""
        chosen = torch.arange(len(self.pseudo_logits)) % len(images)
        self.pseudo_logits.copy_(images[chosen].clamp(0.05, 0.95).logit().flatten(1))

    def pseudo_inputs(self) -> Tensor:
        """[K, C, H, W]."""
        return self.pseudo_logits.sigmoid().unflatten(1, self.shape)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return means and log scales of the components, [K, D] each."""
        encoder, posterior = self.borrowed
        mean, log_scale, _ = posterior.reparametrization(encoder(self.pseudo_inputs()))
        return mean, log_scale

    def sample(self, num_codes: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        if isinstance(noise, Tensor):
            raise ValueError("a mixture draws components as well as noise; give a generator")
        mean, log_scale = self._moments()
        chosen = integers(noise, len(mean), (num_codes,), mean)
        codes = mean[chosen] + log_scale[chosen].exp() * normal(noise, (num_codes, mean.shape[1]), mean)
        return mean.mean(0) + temperature * (codes - mean.mean(0))

    def forward(self) -> Distribution:
        mean, log_scale = self._moments()
        components = Independent(Normal(mean, log_scale.exp(), validate_args=False), 1)
        uniform = Categorical(logits=torch.zeros_like(mean[:, 0]), validate_args=False)
        return MixtureSameFamily(uniform, components, validate_args=False)
