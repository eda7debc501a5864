"""Priors p(z)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from flowvae.densities.posterior import GaussianPosterior
from flowvae.flows import Flow


class Prior(nn.Module, ABC):
    """p(z): the distribution of codes."""

    @abstractmethod
    def forward(self) -> Distribution:
        """``p(z)``: batch shape [], event shape [D]."""

    def initialize(self, images: Tensor) -> None:
        """Start from training images [N, C, H, W]; nothing unless a prior says what."""


class StandardNormal(Prior):
    """``p(z) = N(0, I)`` over D dimensions; ``forward()`` gives the distribution.

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


class FlowDistribution(Distribution):
    """The distribution of vectors that a flow with an inverse takes to a base distribution.

    ``log p(z) = log p_0(f(z)) + log|det df/dz|``; a draw is ``f^-1`` of one of the base.
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012  # as PyTorch's own have it

    def __init__(self, base: Distribution, flow: Flow) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.flow = base, flow

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats: values [..., D] to [...]."""
        plain, log_determinant = self.flow(value.reshape(1, -1, value.shape[-1]))
        return (self.base.log_prob(plain) + log_determinant).view(value.shape[:-1])

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        plain = self.base.sample(torch.Size(sample_shape))
        return self.flow.inverse(plain.reshape(1, -1, plain.shape[-1]))[0].view_as(plain)


class FlowPrior(Prior):
    """What a flow takes to a standard normal; with Real NVP's couplings, the prior of Xu et al. 2019.

    Training and scoring run the flow forward, which is the faster direction, and sampling runs its inverse.
    At first the standard normal.

    Args:
        dimension: D.
        flow: takes no context, and has an inverse.

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


class VampPrior(Prior):
    """The mixture of posteriors of learned pseudo-inputs, ``p(z) = 1/K sum_k q_0(z|u_k)``.

    (Tomczak & Welling 2018, equation 11.) q_0 is the Gaussian that the model's posterior begins with: the
    posterior itself, or the base of its flow, whose own density at any z would need the flow's inverse.

    Args:
        encoder: the model's own, images to features; it and the posterior are used here, not owned.
        posterior: the Gaussian posterior, with a diagonal covariance.
        shape: (C, H, W) of the pseudo-inputs, whose pixels lie between 0 and 1.
        components: K.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: GaussianPosterior,
        shape: tuple[int, int, int],
        components: int,
    ) -> None:
        super().__init__()
        # In a tuple they are no submodules, whose weights would be saved twice.
        self.borrowed = (encoder, posterior)
        self.shape = shape
        # Rows, and no maps: to the optimizer they are no kernels.
        self.pseudo_logits = nn.Parameter(torch.randn(components, math.prod(shape)))

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Start the pseudo-inputs near training images [N, C, H, W], one each while there are enough."""
        chosen = torch.arange(len(self.pseudo_logits)) % len(images)
        self.pseudo_logits.copy_(images[chosen].clamp(0.05, 0.95).logit().flatten(1))

    def pseudo_inputs(self) -> Tensor:
        """[K, C, H, W]."""
        return self.pseudo_logits.sigmoid().unflatten(1, self.shape)

    def forward(self) -> Distribution:
        encoder, posterior = self.borrowed
        features = encoder(self.pseudo_inputs())
        mean, log_scale, _ = posterior.reparametrization(features)
        components = Independent(Normal(mean, log_scale.exp(), validate_args=False), 1)
        uniform = Categorical(logits=torch.zeros_like(mean[:, 0]), validate_args=False)
        return MixtureSameFamily(uniform, components, validate_args=False)
