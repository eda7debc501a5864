"""Priors p(z)."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from flowvae import shares
from flowvae.densities.posterior import GaussianPosterior
from flowvae.errors import UserError
from flowvae.flows import Flow, Step
from flowvae.networks.labels import table
from flowvae.noise import Noise, normal, uniform


class Prior(nn.Module, ABC):
    """p(z): the distribution of codes; or p(z|y), of codes given their labels."""

    @abstractmethod
    def forward(self, labels: Tensor | None = None) -> Distribution:
        """``p(z)``: batch shape [], event shape [D]; ``p(z|y)`` for labels [B]: batch shape [B].

        Only the prior of a conditional model is called with labels.
        """

    @abstractmethod
    def sample(
        self, num_codes: int, noise: Noise = None, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        """Draw codes [N, D] from p(z).

        Args:
            num_codes: N.
            noise: standard normal, [N, D], or a generator to draw it from.
            temperature: factor on the distance from the mean, with a flow that of the flow's input; 1 samples
                p(z).
            labels: [N], for p(z|y).
        """

    def initialize(self, images: Tensor) -> None:
        """Initialize from training images [N, C, H, W]; by default, do nothing."""

    def steps(self) -> list[Step]:
        """Return a map from codes to standard normal noise as affine maps, by which codes are compressed.

        Raises:
            UserError: if there is none.
        """
        raise UserError(f"a prior that is a {type(self).__name__} cannot be compressed with; train another")


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

    def forward(self, labels: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.mean, torch.ones_like(self.mean), validate_args=False), 1)

    def sample(
        self, num_codes: int, noise: Noise = None, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        return temperature * normal(noise, (num_codes, *self.mean.shape), self.mean)

    def steps(self) -> list[Step]:
        return []


class NormalPerClass(Prior):
    """``p(z|y) = N(mu_y, diag(sigma_y^2))`` over D dimensions; starts as the standard normal for every class.

    >>> prior = NormalPerClass(3, classes=10)
    >>> prior(torch.arange(7)).log_prob(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7])
    """

    def __init__(self, dimension: int, classes: int) -> None:
        super().__init__()
        self.mean_and_log_scale = table(classes, 2 * dimension)

    def forward(self, labels: Tensor | None = None) -> Distribution:
        mean, log_scale = self.mean_and_log_scale(labels).chunk(2, dim=1)
        return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1)

    def sample(
        self, num_codes: int, noise: Noise = None, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        mean, log_scale = self.mean_and_log_scale(labels).chunk(2, dim=1)
        return mean + temperature * log_scale.exp() * normal(noise, mean.shape, mean)


class FlowDistribution(Distribution):
    """The distribution of vectors that a flow transforms to a base distribution.

    ``log p(z) = log p_0(f(z)) + log|det df/dz|``.
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012  # as PyTorch's own have it

    def __init__(self, base: Distribution, flow: Flow, context: Tensor | None = None) -> None:
        batch = base.batch_shape if context is None else context.shape[:1]
        super().__init__(batch, base.event_shape, validate_args=False)
        self.base, self.flow, self.context = base, flow, context

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p(z) in nats, [...], for values [..., D]; with a context [B, ...], for [..., B, D]."""
        if self.context is None:
            together = value.reshape(1, -1, value.shape[-1])
        else:
            together = value.reshape(-1, *value.shape[-2:])
        plain, log_determinant = self.flow(together, self.context)
        return (self.base.log_prob(plain) + log_determinant).view(value.shape[:-1])


class FlowPrior(Prior):
    """A prior whose flow transforms codes to a standard normal; with couplings, the prior of Xu et al. 2019.

    Training and scoring run the flow forward, its faster direction; sampling runs its inverse. Starts as the
    standard normal. For p(z|y), the context of the flow is a vector per class.

    Args:
        dimension: D.
        flow: flow with an inverse; without context, except for p(z|y).
        classes: number of classes, for p(z|y).
        sides: (H, W) of the codes and of the flow's context, if they are maps.

    >>> from flowvae.flows import AffineCoupling
    >>> from flowvae.networks import Dense
    >>> prior = FlowPrior(3, AffineCoupling(Dense(2, 16, 2), dimension=3))
    >>> prior().log_prob(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7])
    """

    def __init__(
        self, dimension: int, flow: Flow, classes: int = 0, sides: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.base, self.flow, self.sides = StandardNormal(dimension), flow, sides
        self.context = table(classes, flow.context_features) if classes else None

    def _context(self, labels: Tensor | None) -> Tensor | None:
        if self.context is None:
            return None
        context = self.context(labels)
        return context if self.sides is None else context[:, :, None, None].expand(-1, -1, *self.sides)

    def forward(self, labels: Tensor | None = None) -> Distribution:
        return FlowDistribution(self.base(), self.flow, self._context(labels))

    def sample(
        self, num_codes: int, noise: Noise = None, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        plain = self.base.sample(num_codes, noise, temperature)
        return self.flow.inverse(plain.unsqueeze(0), self._context(labels))[0][0]

    def steps(self) -> list[Step]:
        return self.flow.steps()


class Mixture(Prior):
    """``p(z) = sum_k w_k N(mu_k, diag(sigma_k^2))``."""

    @abstractmethod
    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of the weights, [K], and means and log scales of the components, [K, D] each."""

    def sample(
        self, num_codes: int, noise: Noise = None, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        if isinstance(noise, Tensor):
            raise ValueError("a mixture draws components as well as noise; give a generator")
        logits, mean, log_scale = self.components()
        chosen = torch.searchsorted(logits.softmax(0).cumsum(0)[:-1], uniform(noise, (num_codes,), mean))
        codes = mean[chosen] + log_scale[chosen].exp() * normal(noise, (num_codes, mean.shape[1]), mean)
        return mean.mean(0) + temperature * (codes - mean.mean(0))

    def forward(self, labels: Tensor | None = None) -> Distribution:
        logits, mean, log_scale = self.components()
        normals = Independent(Normal(mean, log_scale.exp(), validate_args=False), 1)
        weights = Categorical(logits=logits, validate_args=False)
        return MixtureSameFamily(weights, normals, validate_args=False)


class NormalMixture(Mixture):
    """A mixture of normal distributions whose weights, means and scales are learned; means start at random.

    >>> NormalMixture(3, components=10)().log_prob(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7])
    """

    def __init__(self, dimension: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, dimension))
        self.log_scale = nn.Parameter(torch.zeros(components, dimension))

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.logits, self.mean, self.log_scale


class VampPrior(Mixture):
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

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        encoder, posterior = self.borrowed
        with shares.sharing(None):  # the pseudo-inputs, and dropout of them, are the same in all processes
            mean, log_scale, _ = posterior.reparametrization(encoder(self.pseudo_inputs()))
        return torch.zeros_like(mean[:, 0]), mean, log_scale
