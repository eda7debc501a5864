"""Pixels of many levels by a causal network: a mixture of discretized logistics for each pixel."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.densities.logistic_mixture import LogisticMixture, components_of, outputs_of, quantiles_of
from flowvae.flows import at_least_float32
from flowvae.networks import CausalNetwork
from flowvae.networks.causal import PATCH, CausalBlock, centered, halving
from flowvae.networks.convolutional import depth_to_space, fewer, padded, space_to_depth
from flowvae.networks.orders import turn


class CausalMixture(CausalNetwork):
    """A mixture of discretized logistics for each pixel, given the pixels before it, and a condition.

    ``p(x) = prod over patches, and over the pixels of each, of sum_m pi_m prod_c P(x_c | x_{<c}, m)``, with
    the parameters of `LogisticMixture`. Patches are in raster order, and so are the pixels of a patch. The
    convolutions see earlier patches; the layer after them sees the earlier pixels of the same patch as well:

    ``parameters of pixel k = W hardswish(U_k hardswish(map) + V_k (pixels before k)) + offset``.

    Each pixel is seen as its channels, from -1 to 1, and a one. Missing pixels and padding are zeros. So the
    probability of the known pixels is a product of those of pixels given the *known* pixels before them: it
    is exact and adds up to one, but if a missing pixel comes before a known one, it is not the sum over its
    values. The channels of a pixel are known together, or missing together.

    Where height or width is odd, images are padded with zeros, whose probability is one.

    Args:
        shape: (C, H, W) of the images.
        channels, blocks, condition, orders, patch: as in `CausalNetwork`.
        components: M, number of components of a mixture.
        levels: number of values, evenly spaced from 0 to 1, that a pixel takes.
    """

    inside: Tensor | None
    earlier: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: int,
        blocks: Iterable[CausalBlock],
        condition: int = 0,
        orders: int = 1,
        patch: int = PATCH,
        components: int = 5,
        levels: int = 256,
    ) -> None:
        colours, pixels = shape[0], patch * patch
        height, width = fewer(shape[1:], patch)
        places, inputs = (height * patch, width * patch), pixels * (colours + 1)
        outputs = outputs_of(colours, components)
        super().__init__(shape, inputs, channels, blocks, outputs, places, condition, orders, patch)
        self.levels: int = levels
        self.components, self.noise_shape = components, (height, width, pixels * colours)
        self.apart = nn.Conv2d(channels, pixels * channels, 1)
        self.within = nn.Parameter(torch.randn(pixels * channels, inputs, 1, 1) / inputs**0.5)
        halving(self.apart)
        pixel_of_output = torch.arange(pixels).repeat_interleave(channels)
        pixel_of_input = torch.arange(pixels).repeat_interleave(colours + 1)
        earlier = (pixel_of_input < pixel_of_output.unsqueeze(1)).float()
        self.register_buffer("earlier", earlier[:, :, None, None], persistent=False)
        self.register_buffer("inside", _inside(shape, orders, patch), persistent=False)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize the offsets from the mean and variance of each pixel."""
        for order, offset in enumerate(self.offset.chunk(self.orders)):
            offset.copy_(quantiles_of(turn(padded(images, self.patch), order), self.components))

    def forward(
        self,
        images: Tensor,
        condition: Tensor | None = None,
        orders: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> LogisticMixture:
        """Return the mixtures of the pixels of padded images [B, C, H, W], batch shape [S, B].

        ``condition`` is [S * B, condition, H/2, W/2]. Images and maps are turned to the orders [S * B]; None
        for the first. ``hidden`` is 1 for missing pixels and 0 for others, of the images' shape.
        """
        seen = space_to_depth(self._seen(images, self._known(images, orders, hidden)), self.patch)
        parameters = self._unshifted(self.maps(seen, condition, orders), seen)
        parameters = parameters + self._offsets(orders)
        return self._mixture(parameters.unflatten(0, (-1, len(images))))

    def _known(self, images: Tensor, orders: Tensor | None, hidden: Tensor | None) -> Tensor:
        """Return 1 for known pixels, and 0 for missing ones and padding, [B, 1, H, W]."""
        known = torch.ones_like(images[:, :1]) if hidden is None else 1 - hidden[:, :1]
        if self.inside is None:
            return known
        return known * (self.inside[:1] if orders is None else self.inside[orders])

    def _seen(self, images: Tensor, known: Tensor) -> Tensor:
        """Return pixels as the network sees them, [B, C + 1, H, W]."""
        return torch.cat([centered(images) * known, known], 1)

    def _unshifted(self, maps: Tensor, seen: Tensor) -> Tensor:
        """Compute parameters without their offsets, [S * B, outputs, H, W], from maps and patches."""
        of_pixels = F.conv2d(seen, self.within * self.earlier).repeat(len(maps) // len(seen), 1, 1, 1)
        x = self.apart(F.hardswish(maps)) + of_pixels
        return at_least_float32(self.last(F.hardswish(depth_to_space(x, self.patch))))

    def _offsets(self, orders: Tensor | None) -> Tensor:
        offsets = self.offset.unflatten(0, (self.orders, -1))
        return offsets[0 if orders is None else orders]

    def _mixture(self, parameters: Tensor) -> LogisticMixture:
        return LogisticMixture(components_of(parameters, self.components, self.shape[0]), self.levels)

    def in_raster_order(
        self, images: Tensor, condition: Tensor | None, orders: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
        mixture = self(images, condition, orders, hidden)
        return mixture.log_prob(images, self._observed(images, orders, hidden)).flatten()

    def _observed(self, images: Tensor, orders: Tensor | None, hidden: Tensor | None) -> Tensor | None:
        """Return which pixels are known and within the image, bool [B, C, H, W]; None for all."""
        if hidden is None and self.inside is None:
            return None
        known = self._known(images, orders, None) > 0
        return known.expand_as(images) if hidden is None else known & (hidden == 0)

    def sample(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        orders, noise = self.order_in(noise)
        return self._pixels(self.walk(condition, orders, _inverting(noise)))

    def complete(
        self, noise: Tensor, condition: Tensor | None, images: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw one missing value after the other."""
        orders, noise = self.order_in(noise)
        levels = (images * (self.levels - 1)).round().long()
        known = zip(self.values(levels, orders), self.values(observed.long(), orders), strict=True)
        draw = _inverting(noise)

        def choose(table: Tensor) -> Tensor:
            value, is_known = next(known)
            return torch.where(is_known > 0, value, draw(table))

        completed = self._pixels(self.walk(condition, orders, choose))
        # Given all pixels before it, known or drawn.
        hidden = (~observed).to(completed.dtype)
        turned, hidden = (self.turned(each, orders) for each in (completed, hidden))
        if condition is not None:
            condition = self.turned_maps(condition, orders)
        with torch.no_grad():
            mixture = self(turned, condition, orders)
            return completed, mixture.log_prob(turned, self._observed(turned, orders, hidden)).flatten()

    def _pixels(self, levels: Tensor) -> Tensor:
        return levels.to(self.offset.dtype) / (self.levels - 1)

    def walk(self, condition: Tensor | None, orders: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Ask for one channel of one pixel after the other."""
        side, colours = self.patch, self.shape[0]
        offset = self._offsets(orders)
        known = self._known(offset, orders, None).expand(len(orders), -1, -1, -1)

        def patch(x: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
            here = ..., slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            pixels, inside = x.new_zeros(len(x), colours, side, side), known[here]
            for down in range(side):
                for right in range(side):
                    seen = space_to_depth(self._seen(pixels, inside), side)
                    parameters = self._unshifted(x, seen) + offset[here]
                    mixture = self._mixture(parameters[None, :, :, down, right, None, None])
                    outside = inside[:, :, down, right] == 0

                    def chosen(table: Tensor, outside: Tensor = outside) -> Tensor:
                        zero = F.one_hot(torch.zeros_like(outside, dtype=torch.int64), table.shape[2])
                        return choose(torch.where(outside.unsqueeze(2), zero.to(table.dtype), table))

                    pixels[:, :, down, right] = self._pixels(mixture.walk(chosen)[:, :, 0, 0])
            seen = space_to_depth(self._seen(pixels, inside), side)
            return space_to_depth(pixels, side)[:, :, 0, 0], seen[:, :, 0, 0]

        images = self.patch_by_patch(condition, orders, patch)
        return (images * (self.levels - 1)).round().long()

    def values(self, images: Tensor, orders: Tensor) -> Iterator[Tensor]:
        patches = space_to_depth(self.turned(images, orders), self.patch)
        yield from patches.permute(0, 2, 3, 1).flatten(1).split(1, 1)


def _inverting(noise: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that draws values by tables [N, 1, levels], by the next number of noise [N, ...]."""
    quantiles = iter(noise.flatten(1).split(1, 1))

    def draw(table: Tensor) -> Tensor:
        below = table.cumsum(2)[..., :-1] <= next(quantiles).unsqueeze(2)
        return below.sum(2)

    return draw


def _inside(shape: tuple[int, int, int], orders: int, patch: int) -> Tensor | None:
    """Return 1 for pixels of the image and 0 for padding, [orders, 1, H, W]; None without padding."""
    inside = padded(torch.ones(1, *shape[1:]), patch)
    return None if inside.all() else torch.stack([turn(inside, order) for order in range(orders)])
