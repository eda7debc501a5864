"""The autoregressive likelihood p(x|z)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowvae.densities.likelihood import Likelihood, PartlyObserved
from flowvae.densities.tabulated import Choose, Tabulated
from flowvae.networks import CausalNetwork
from flowvae.noise import Noise, integers, uniform


class CausalImages(PartlyObserved, Tabulated):
    """``p(x|c) = prod_i p(x_i | x_1, ..., x_{i-1}, c)`` over the 2x2 patches x_i of images.

    Args:
        network: network of the conditional distributions.
        condition: maps c [S, B, channels, H/2, W/2]; the batch shape is [S, B].
        orders: order of the patches in which each is scored, [S, B]; None if the network has only one.
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012  # as PyTorch's own have it

    def __init__(
        self,
        network: CausalNetwork,
        condition: Tensor,
        orders: Tensor | None = None,
    ) -> None:
        super().__init__(condition.shape[:2], torch.Size(network.shape), validate_args=False)
        self.network, self.condition, self.orders = network, condition, orders

    def log_prob(self, value: Tensor, observed: Tensor | None = None) -> Tensor:
        """Compute log p(x|c) in nats, [S, B], for images [B, C, H, W] of all samples, or [S, B, C, H, W]."""
        if value.ndim == 5:
            value = value.flatten(0, 1)
            observed = None if observed is None else observed.flatten(0, 1)
        orders = None if self.orders is None else self.orders.flatten()
        log_density = self.network.log_prob(value, self.condition.flatten(0, 1), orders, observed)
        return log_density.view(self.batch_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), noise: Noise = None) -> Tensor:
        """Draw images [*sample_shape, S, B, C, H, W].

        Args:
            sample_shape: number of images per condition.
            noise: uniform, [*sample_shape, S, B, *noise_shape], as in `CausalNetwork`, or a generator to draw
                it from. The same noise with another condition shows the effect of the condition.
        """
        sample_shape = torch.Size(sample_shape)
        places = self.network.noise_shape
        noise = uniform(noise, (*sample_shape, *self.batch_shape, *places), self.condition)
        condition = self.condition.flatten(0, 1).repeat(sample_shape.numel(), 1, 1, 1)
        images = self.network.sample(noise.reshape(-1, *places), condition)
        return images.view(*sample_shape, *self.batch_shape, *self.event_shape)

    def _orders_of_images(self) -> Tensor:
        number, place = self.batch_shape.numel(), self.condition.device
        orders = self.orders
        return torch.zeros(number, dtype=torch.int64, device=place) if orders is None else orders.flatten()

    def walk(self, choose: Choose) -> Tensor:
        return self.network.walk(self.condition.flatten(0, 1), self._orders_of_images(), choose)

    def values(self, images: Tensor) -> Iterator[Tensor]:
        return self.network.values(images, self._orders_of_images())


class CausalLikelihood(Likelihood):
    """Images that are autoregressive over patches given the code (PixelVAE, Gulrajani et al. 2017).

    If the network has several orders of the patches, the order is a second code with uniform prior and
    posterior. Each sample draws its own, and the importance-weighted estimate is one of
    ``log p(x) = log mean_o p_o(x)``, the mixture of the densities of all orders.

    Args:
        upsampler: maps z [N, D] to maps [N, channels, H/2, W/2].
        network: network that is conditioned on these maps.
    """

    initialized: Tensor

    def __init__(self, upsampler: nn.Module, network: CausalNetwork) -> None:
        super().__init__()
        self.upsampler, self.network = upsampler, network
        self.levels, self.pixel_noise = network.levels, network.noise_shape
        self.differentiable = network.orders == 1
        self.orders = network.orders
        self.register_buffer("initialized", torch.tensor(False))

    def initialize(self, images: Tensor) -> None:
        """Initialize the network from images, and set ``initialized``."""
        self.network.initialize(images)
        self.initialized.fill_(True)

    def forward(self, z: Tensor, noise: torch.Generator | None = None) -> CausalImages:
        orders = self._orders(z.shape[0], z.shape[1], noise)
        return CausalImages(self.network, self._condition(z), orders)

    def in_orders(self, z: Tensor, orders: Tensor) -> CausalImages:
        return CausalImages(self.network, self._condition(z), orders)

    def images(self, z: Tensor, noise: Noise = None) -> Tensor:
        """Draw one image per code, from uniform ``noise`` [S, B, *pixel_noise] or a generator."""
        # The noise of the pixels determines their order as well.
        return CausalImages(self.network, self._condition(z)).sample(noise=noise)

    def complete(
        self, z: Tensor, images: Tensor, observed: Tensor, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw missing pixels patch by patch, with the log weights of `CausalNetwork.complete`."""
        samples, number = z.shape[:2]
        condition = self._condition(z).flatten(0, 1)
        drawn, log_weight = self.network.complete(
            uniform(noise, (samples * number, *self.network.noise_shape), condition),
            condition,
            images.repeat(samples, 1, 1, 1),
            observed.repeat(samples, 1, 1, 1),
        )
        return drawn.unflatten(0, (samples, number)), log_weight.view(samples, number)

    def _condition(self, z: Tensor) -> Tensor:
        return self.upsampler(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    def _orders(self, samples: int, images: int, noise: torch.Generator | None) -> Tensor | None:
        """Draw a uniform order for each sample of each image; those of an image cycle through the orders."""
        number = self.network.orders
        if number == 1:
            return None
        offset = self.network.offset
        first = integers(noise, number, (images,), offset, images=0)
        return (torch.arange(samples, device=offset.device).view(-1, 1) + first) % number
