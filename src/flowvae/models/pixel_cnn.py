"""The causal network alone, as an exact density of binary images."""

import math

import torch
from torch import Tensor, nn

from flowvae.models.exact import ExactDensity
from flowvae.networks import CausalNetwork


class PixelCNN(ExactDensity):
    """``p(x) = prod_i p(x_i | x_1, ..., x_{i-1})`` over the 2x2 patches x_i of binary images.

    (van den Oord, Kalchbrenner & Kavukcuoglu 2016.) In place of a code's map the network's condition is a
    learned map, the same for all images: it tells the layers where on the image they are.

    Where the network knows several orders o of the patches, ``p(x) = mean_o p_o(x)``, exactly. Training draws
    an order for each image, and so maximizes a lower bound, the mean over orders of log p_o(x).

    Args:
        network: takes a condition of ``channels`` channels.
        shape: (1, H, W).
    """

    levels = 2
    initialized: Tensor

    def __init__(self, network: CausalNetwork, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network, self.shape = network, shape
        _, height, width = network.offset.shape
        self.place = nn.Parameter(0.1 * torch.randn(1, network.condition_channels, height, width))
        self.register_buffer("initialized", torch.tensor(False))

    def initialize(self, images: Tensor) -> None:
        """Start the network from the frequencies of patches; ``initialized`` says so."""
        self.network.initialize(images)
        self.initialized.fill_(True)

    def bound(self, images: Tensor) -> Tensor:
        orders = torch.randint(self.network.orders, (len(images),)).to(images.device)
        return self.network.log_prob(images, self.place, orders)

    def log_prob(self, images: Tensor) -> Tensor:
        number = self.network.orders
        orders = torch.arange(number, device=images.device).repeat_interleave(len(images))
        each = self.network.log_prob(images, self.place, orders).view(number, -1)
        return each.logsumexp(0) - math.log(number)

    @torch.no_grad()
    def sample(self, num_images: int) -> Tensor:
        noise = torch.rand(
            num_images, *self.place.shape[2:], dtype=self.place.dtype, device=self.place.device
        )
        return self.network.sample(noise, self.place)
