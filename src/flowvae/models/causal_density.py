"""A causal network on its own, as an exact density of images: the model of several systems."""

from collections.abc import Iterator
from typing import Unpack

import torch
from torch import Tensor, nn

from flowvae.batch import Batch, Given, labelled
from flowvae.densities import Tabulated
from flowvae.densities.causal import CausalImages
from flowvae.errors import UserError
from flowvae.models.base import Model, Sampler, Scored, Update
from flowvae.models.compressible import Compressible
from flowvae.models.imputation import CANDIDATES_AT_ONCE, Completing
from flowvae.networks import CausalNetwork
from flowvae.networks.labels import on_maps, table
from flowvae.noise import Noise, integers, uniform
from flowvae.objectives import log_mean_exp


class CausalDensity(Model, Sampler, Scored, Completing, Compressible):
    """``p(x) = prod_i p(x_i | x_1, ..., x_{i-1})`` over the patches x_i of images.

    (van den Oord, Kalchbrenner & Kavukcuoglu 2016.) The network is conditioned on a learned map, the same for
    all images, which encodes the position in the image.

    If the network has several orders o of the patches, ``p(x) = mean_o p_o(x)``, exactly. Training draws one
    order per image, and so maximizes a lower bound, the mean over orders of log p_o(x).

    Args:
        network: a network with a condition.
        classes: K, for ``p(x|y)``: a vector per class is added to the map.
    """

    best = "nll"
    accepts_missing = True
    initialized: Tensor

    def __init__(self, network: CausalNetwork, classes: int = 0) -> None:
        super().__init__()
        self.conditional, self.classes = classes > 0, classes
        self.network, self.levels = network, network.levels
        self.place = nn.Parameter(0.1 * torch.randn(1, network.condition_channels, *network.sides))
        self.of_label = table(classes, network.condition_channels) if classes else None
        self.register_buffer("initialized", torch.tensor(False))

    def initialize(self, images: Tensor) -> None:
        """Initialize the network from images, and set ``initialized``."""
        self.network.initialize(images)
        self.initialized.fill_(True)

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        loss = -self(batch.images, **self.given(batch)).mean()
        yield Update("model", loss, {"nll": loss.detach()})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": -self.log_prob(batch.images, **self.given(batch))}

    def forward(self, images: Tensor, noise: torch.Generator | None = None, **given: Unpack[Given]) -> Tensor:
        """Compute what training maximizes, [B]: log p_o(x) for a random order o per image."""
        orders = integers(noise, self.network.orders, (len(images),), images, images=0)
        return self.network.log_prob(images, self._condition(**given), orders, given.get("observed"))

    def _condition(self, repeats: int = 1, **given: Unpack[Given]) -> Tensor:
        """Return the map of each image, ``repeats`` times one after the other; one map without labels."""
        if self.of_label is None:
            return self.place
        return (self.place + on_maps(self.of_label(given.get("labels")), self.place)).repeat(repeats, 1, 1, 1)

    def log_prob(self, images: Tensor, **given: Unpack[Given]) -> Tensor:
        self.check(images, **given)
        return log_mean_exp(self._log_prob_in_orders(images, **given))

    def _log_prob_in_orders(self, images: Tensor, **given: Unpack[Given]) -> Tensor:
        """Compute log p_o(x) for each order o, [orders, B]."""
        number = self.network.orders
        orders = torch.arange(number, device=images.device).repeat_interleave(len(images))
        condition = self._condition(number, **given)
        of_orders = self.network.log_prob(images, condition, orders, given.get("observed"))
        return of_orders.view(number, -1)

    @property
    def pixel_orders(self) -> int:
        return self.network.orders

    def order_probabilities(self, images: Tensor) -> Tensor:
        """Return p(o|x): with it, an image takes -log p(x), not more."""
        return self._log_prob_in_orders(images).softmax(0).mT

    def pixels(self, codes: Tensor, orders: Tensor) -> Tabulated:
        condition = self._condition().expand(len(orders), -1, -1, -1).unsqueeze(0)
        return CausalImages(self.network, condition, orders.unsqueeze(0))

    def candidates(
        self,
        image: Tensor,
        observed: Tensor,
        number: int,
        noise: torch.Generator | None = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw completions of one image, with the weights of sequential imputation."""
        self.check(image, observed=observed, **labelled(labels))
        condition = self._condition(**labelled(labels))
        quantiles = uniform(noise, (number, *self.network.noise_shape), self.place)
        parts = [
            self.network.complete(
                few, condition, *(each.expand(len(few), -1, -1, -1) for each in (image, observed))
            )
            for few in quantiles.split(CANDIDATES_AT_ONCE)
        ]
        completed, log_weights = (torch.cat(each) for each in zip(*parts, strict=True))
        return completed, log_weights

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        noise: Noise = None,
        temperature: float = 1.0,
        labels: Tensor | None = None,
    ) -> Tensor:
        if temperature != 1:
            raise UserError("this model has no code to apply a temperature to; choose temperature 1")
        labels = self.labels_to_sample(num_images, labels, noise, self.place)
        noise = uniform(noise, (num_images, *self.network.noise_shape), self.place)
        return self.network.sample(noise, self._condition(**labelled(labels)))
