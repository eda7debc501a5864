"""Pixels of many levels by a causal network: a mixture of discretized logistics for each pixel."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.densities.discretized_logistic import mean_and_log_scale
from flowvae.densities.logistic_mixture import LogisticMixture, components_of, outputs_of, parameters_of
from flowvae.flows import at_least_float32, full_precision
from flowvae.networks import CausalNetwork
from flowvae.networks.causal import PATCH, CausalBlock, CausalConv2d, centered, halving
from flowvae.networks.convolutional import depth_to_space, fewer, padded, space_to_depth
from flowvae.networks.orders import turn

FITTED = 1000
"""number of images to which the linear prediction is fitted"""
RIDGE = 1e-5
"""added to mean squares, as constant inputs are not independent"""
STEEPEST = 0.95
"""largest coefficient to start with; tanh keeps them below 1"""
SCALES = (0.15, 2.0)
"""ends of the range of the components' scales to start with, by that of the errors at a pixel"""


class CausalMixture(CausalNetwork):
    """A mixture of discretized logistics for each pixel, given the pixels before it, and a condition.

    ``p(x) = prod over patches, and over the pixels of each, of sum_m pi_m prod_c P(x_c | x_{<c}, m)``, with
    the parameters of `LogisticMixture`. Patches are in raster order, and so are the pixels of a patch. The
    convolutions see earlier patches; the layer after them sees the earlier pixels of the same patch as well:

    ``parameters of pixel k = W hardswish(U_k hardswish(map) + V_k (pixels before k)) + offset``.

    To the locations of all components, a linear prediction from the patches around the pixel is added, so
    that a new network predicts as well as least squares does, and in half precision too.

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
        self.linear = CausalConv2d(inputs, pixels * colours, reach=1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.last.weight)
        pixel_of_input = torch.arange(pixels).repeat_interleave(colours + 1)
        earlier = (pixel_of_input < torch.arange(pixels).unsqueeze(1)).float()[:, :, None, None]
        self.register_buffer("earlier", earlier.repeat_interleave(channels, 0), persistent=False)
        near = self.linear.mask.repeat(pixels * colours, inputs, 1, 1)
        near[:, :, -1:, 1:2] = earlier.repeat_interleave(colours, 0)
        self.linear.register_buffer("mask", near, persistent=False)
        self.register_buffer("inside", _inside(shape, orders, patch), persistent=False)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize the linear prediction by least squares, and the offsets from its errors at pixels."""
        images = padded(images[:FITTED], self.patch)
        turned, seen = list[Tensor](), list[Tensor]()
        for order in range(self.orders):
            turned.append(turn(images, order))
            known = self._known(turned[-1], torch.full((len(images),), order, device=images.device), None)
            seen.append(space_to_depth(self._seen(turned[-1], known), self.patch))
        products = self._products(torch.cat(seen), torch.cat(turned))
        weight, coefficients = least_squares(products, self.linear.mask.flatten(1) > 0, self.shape[0])
        self.linear.weight.copy_(weight.view_as(self.linear.weight))
        for offset, *each in zip(self.offset.chunk(self.orders), turned, seen, strict=True):
            self._fit_offset(offset, coefficients.to(offset.dtype), *each)

    def _products(self, seen: Tensor, images: Tensor) -> Tensor:
        """Return the mean products of every two values: those around a patch, and those of its pixels."""
        total, number = 0.0, len(images) * self.sides[0] * self.sides[1]
        for inputs, few in zip(seen.split(100), images.split(100), strict=True):
            around = F.unfold(self.linear.pad(inputs), self.linear.weight.shape[2:])
            values = space_to_depth(centered(few), self.patch).flatten(2)
            both = torch.cat([around, values], 1).double().transpose(0, 1).flatten(1)
            total = total + both @ both.mT / number
        return torch.as_tensor(total)

    def _fit_offset(self, offset: Tensor, coefficients: Tensor, images: Tensor, seen: Tensor) -> None:
        """Set the offset of an order from the errors of the linear prediction of images, and coefficients.

        The components have the same location, and scales around that of the errors at a pixel: errors are
        small where images are smooth, and equal components would stay equal.
        """
        errors, of_pixels = centered(images) - self._prediction(seen), None
        if len(coefficients):
            of_pixels = coefficients.view(1, -1, 1, 1).expand(-1, -1, *self.sides)
            of_pixels = depth_to_space(of_pixels, self.patch)[0]
            earlier = [(colour, other) for colour in range(self.shape[0]) for other in range(colour)]
            for (colour, other), coefficient in zip(earlier, of_pixels, strict=True):
                errors[:, colour] -= coefficient * centered(images[:, other])
        mean, log_scale = mean_and_log_scale(0.5 * (errors + 1))
        share = (torch.arange(self.components, dtype=mean.dtype, device=mean.device) + 0.5) / self.components
        lowest, highest = mean.new_tensor(SCALES).log()
        scales = log_scale + torch.lerp(lowest, highest, share).view(-1, 1, 1, 1)
        offset.copy_(parameters_of(mean.expand_as(scales), scales, of_pixels))

    def _prediction(self, seen: Tensor) -> Tensor:
        """Predict the values of pixels [B, C, H, W] from the patches around them, on the scale [-1, 1]."""
        with full_precision(seen):
            return depth_to_space(self.linear(seen), self.patch)

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
        return self._mixture(parameters.unflatten(0, (-1, len(images))), self._prediction(seen))

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
        of_pixels = F.conv2d(seen, self.within * self.earlier).repeat(len(maps) // max(1, len(seen)), 1, 1, 1)
        x = self.apart(F.hardswish(maps)) + of_pixels
        return at_least_float32(self.last(F.hardswish(depth_to_space(x, self.patch))))

    def _offsets(self, orders: Tensor | None) -> Tensor:
        offsets = self.offset.unflatten(0, (self.orders, -1))
        return offsets[0 if orders is None else orders]

    def _mixture(self, parameters: Tensor, prediction: Tensor) -> LogisticMixture:
        """Return mixtures with parameters [S, B, outputs, H, W] and predictions [B, C, H, W]."""
        components = components_of(parameters, self.components, self.shape[0])
        location = components.location + prediction.unsqueeze(1)
        return LogisticMixture(components._replace(location=location), self.levels)

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

        def patch(x: Tensor, window: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
            here = ..., slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            pixels, inside = x.new_zeros(len(x), colours, side, side), known[here]
            near = window[:, :, -2:, 2:-2].clone()
            for down in range(side):
                for right in range(side):
                    seen = space_to_depth(self._seen(pixels, inside), side)
                    near[:, :, -1:, 1:2] = seen
                    predicted = depth_to_space(self.linear.at(near, 0, 0)[:, :, None, None], side)
                    parameters = self._unshifted(x, seen) + offset[here]
                    mixture = self._mixture(
                        parameters[None, :, :, down, right, None, None],
                        predicted[:, :, down, right, None, None],
                    )
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


def least_squares(products: Tensor, seen: Tensor, colours: int) -> tuple[Tensor, Tensor]:
    """Predict each value of a patch from what it sees and the earlier channels of its pixel.

    Args:
        products: mean products of every two of I inputs and O values, float64 [I + O, I + O]; the values are
            the channels of one pixel after the other.
        seen: which inputs a value sees, bool [O, I].
        colours: C, number of channels.

    Returns:
        Weights of the inputs, [O, I], and coefficients of the earlier channels, C (C - 1) / 2 per pixel.
    """
    products = products + RIDGE * torch.eye(len(products), dtype=products.dtype)
    weights, coefficients = torch.zeros(seen.shape, dtype=products.dtype), list[Tensor]()
    for value, inputs in enumerate(seen):
        known = inputs.nonzero()[:, 0]
        place = seen.shape[1] + value
        others = torch.arange(place - value % colours, place)
        both = torch.cat([known, others])
        solved = torch.linalg.solve(products[both][:, both], products[both, place])
        coefficients.append(solved[len(known) :].clamp(-STEEPEST, STEEPEST))
        # As coefficients have bounds, weights are fitted to what these leave.
        left = products[known, place] - products[known][:, others] @ coefficients[-1]
        weights[value, known] = torch.linalg.solve(products[known][:, known], left)
    return weights, torch.cat(coefficients)


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
