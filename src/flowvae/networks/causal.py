"""Causal networks: what they have in common, whatever distributions of pixels they end in."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.networks.activations import gate, padded_hardswish
from flowvae.networks.convolutional import cropped, depth_to_space, fewer, padded
from flowvae.networks.dropout import Dropout
from flowvae.networks.orders import TURNS, each_by_its_order, turn, turn_back

PATCH = 2
"""side of a patch: compared with single pixels, a quarter of the steps, and maps of half the size"""


class CausalConv2d(nn.Module):
    """A convolution whose output depends on earlier positions in raster order, within a rectangle.

    It extends ``reach`` rows up, ``reach`` positions to the left and right, and includes the output's own
    position if ``center`` is true (van den Oord, Kalchbrenner & Kavukcuoglu 2016, masks A and B). Instead of
    a square with a masked lower half, the kernel ends with its own row: with a reach of 1 it is 2 x 3, of
    which five taps are used.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, reach: int, center: bool = True) -> None:
        super().__init__()
        self.reach = reach
        kernel = (reach + 1, 2 * reach + 1)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        mask = torch.ones(1, 1, *kernel)
        mask[..., -1, reach + int(center) :] = 0
        self.register_buffer("mask", mask, persistent=False)
        # Keeps the variance of the input, over the taps that are used (He et al. 2015).
        nn.init.normal_(self.weight, std=(2 / (inputs * float(mask.sum()))) ** 0.5)

    def pad(self, x: Tensor) -> Tensor:
        return F.pad(x, (self.reach, self.reach, self.reach, 0))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [N, inputs, H, W] to [N, outputs, H, W]."""
        return self.of_padded(self.pad(x))

    def of_padded(self, padded: Tensor) -> Tensor:
        """Compute the output of a padded input (see `pad`)."""
        return F.conv2d(padded, self.weight * self.mask, self.bias)

    def at(self, padded: Tensor, row: int, column: int) -> Tensor:
        """Compute the output [N, outputs] at one position of a padded input (see `pad`)."""
        height, width = self.weight.shape[2:]
        window = padded[:, :, row : row + height, column : column + width]
        return torch.einsum("nchw,ochw->no", window, self.weight * self.mask) + self.bias


class CausalBlock(nn.Module, ABC):
    """A block of maps whose output at a position depends on the position itself and earlier ones."""

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map ``x`` [N, C, H, W], with a condition [N or 1, condition, H, W] if any, to [N, C, H, W]."""

    @abstractmethod
    def drawing(self, like: Tensor) -> "Drawing":
        """Return a function that computes the output at one position after the other, in raster order.

        It keeps what later positions need, so that each costs one position of the block. ``like``: maps of
        the size, type and device of the block's input.
        """


Drawing = Callable[[Tensor, Tensor | None, int, int], Tensor]
"""from x [N, C, 1, 1], a condition [N or 1, condition, 1, 1] or None, row and column to [N, C, 1, 1]"""


class GatedBlock(CausalBlock):
    """``x + W (a * hardsigmoid(b))`` with ``a, b = causal(hardswish(x + V c))``, c the condition's map.

    The gates of van den Oord et al. 2016b, equation 2, without tanh and with a piecewise linear sigmoid: on a
    CPU, the smooth functions took half as long as the convolution. Starts close to the identity.
    """

    def __init__(self, channels: int, condition: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.causal = CausalConv2d(channels, 2 * channels, reach=1)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.condition = nn.Conv2d(condition, channels, 1, bias=False) if condition else None
        self.dropout = Dropout(dropout)
        halving(self.mix)

    def conditioned(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Compute ``x + V c``."""
        return x if self.condition is None or condition is None else x + self.condition(condition)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        padded = padded_hardswish(self.conditioned(x, condition), self.causal.reach)
        return x + self.mix(self.dropout(gate(self.causal.of_padded(padded))))

    def drawing(self, like: Tensor) -> Drawing:
        seen = self.causal.pad(torch.zeros_like(like))

        def at(x: Tensor, condition: Tensor | None, row: int, column: int) -> Tensor:
            own = F.hardswish(self.conditioned(x, condition))
            seen[:, :, row + 1, column + 1] = own[:, :, 0, 0]
            return x + self.mix(gate(self.causal.at(seen, row, column)[:, :, None, None]))

        return at


class PointwiseBlock(CausalBlock):
    """``x + W hardswish(x)`` at each position; starts close to the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        halving(self.mix)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return x + self.mix(F.hardswish(x))

    def drawing(self, like: Tensor) -> Drawing:
        return lambda x, condition, row, column: self(x, condition)


def halving(layer: nn.Conv2d) -> None:
    """Initialize a layer to halve its input's scale, with biases of 0."""
    nn.init.normal_(layer.weight, std=0.5 / layer.in_channels**0.5)
    nn.init.zeros_(layer.get_parameter("bias"))


class CausalNetwork(nn.Module, ABC):
    """Distributions of the patches of images, each given those before it in raster order, and a condition.

    A causal convolution without its own position, and blocks with it, make maps of what comes before each
    patch. A subclass makes distributions of them, by a last 1x1 convolution and a learned offset per place.
    Shapes are given for 2x2 patches.

    Args:
        shape: (C, H, W) of the images.
        inputs: number of values by which the network sees a patch.
        channels: number of channels.
        blocks: blocks of maps with these channels, conditioned on the same condition; requested after the
            first layer is initialized.
        outputs: number of outputs of the last convolution.
        places: height and width of the maps of outputs.
        condition: number of channels of the condition [N, condition, H/2, W/2]; 0 for none.
        orders: number of orders of the patches; the order is an input of the network.
        patch: side of a patch in pixels.
    """

    levels: int
    """number of values, evenly spaced from 0 to 1, that a pixel takes"""
    noise_shape: tuple[int, ...]
    """shape of the uniform noise from which an image is drawn; the first number determines the order too"""

    def __init__(
        self,
        shape: tuple[int, int, int],
        inputs: int,
        channels: int,
        blocks: Iterable[CausalBlock],
        outputs: int,
        places: tuple[int, int],
        condition: int = 0,
        orders: int = 1,
        patch: int = PATCH,
    ) -> None:
        super().__init__()
        self.shape, self.condition_channels, self.orders, self.patch = shape, condition, orders, patch
        self.sides = fewer(shape[1:], patch)
        self.first = CausalConv2d(inputs, channels, reach=3, center=False)
        self.condition = nn.Conv2d(condition, channels, 1, bias=False) if condition else None
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(channels, outputs, 1)
        self.offset = nn.Parameter(torch.zeros(orders * outputs, *places))
        self.order = nn.Parameter(0.1 * torch.randn(orders, channels, 1, 1)) if orders > 1 else None
        halving(self.last)

    @abstractmethod
    def initialize(self, images: Tensor) -> None:
        """Initialize the offsets from images [N, C, H, W]."""

    @abstractmethod
    def in_raster_order(
        self, images: Tensor, condition: Tensor | None, orders: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
        """Compute log p(x|condition), as `log_prob`, for padded images [B, C, H, W].

        Images and maps are already turned to the orders [S * B]; None for the first order. ``hidden`` is 1
        for missing pixels and 0 for others, of the images' shape.
        """

    @abstractmethod
    def sample(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Draw images [N, C, H, W] patch by patch.

        Args:
            noise: uniform in [0, 1), [N, *noise_shape], at which distribution functions are inverted.
            condition: [N, condition, H/2, W/2], or [1, ...] for all.
        """

    @abstractmethod
    def complete(
        self, noise: Tensor, condition: Tensor | None, images: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw the missing pixels of images [N, C, H, W], and compute the images' log weights [N].

        Pixels are drawn given those before them, known or drawn. The weight is the product of the
        probabilities of all observed pixels, each given those before it, and its mean over draws is the
        probability of the observed pixels: it is the weight by which draws are resampled (sequential
        imputation, Kong, Liu & Wong 1994). Where all missing pixels come last in the order, it is the same
        for all draws.

        ``noise`` and ``condition`` are those of `sample`.
        """

    @abstractmethod
    def walk(self, condition: Tensor | None, orders: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Make images of levels, int64 [N, C, H, W], in the orders [N].

        Args:
            condition: [N, condition, H/2, W/2], or [1, ...] for all.
            orders: order of the patches of each image.
            choose: maps the probabilities [N, 1, values] of the next value of each image to these values,
                [N, 1].
        """

    @abstractmethod
    def values(self, images: Tensor, orders: Tensor) -> Iterator[Tensor]:
        """Yield the values [N, 1] that `walk` chooses to make images of levels, int64 [N, C, H, W]."""

    def log_prob(
        self,
        images: Tensor,
        condition: Tensor | None = None,
        orders: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """Compute log p(x), or log p(x|condition), in nats, [S * B], for images, maps and orders [S * B].

        Images and maps are in the original orientation. ``observed``: which pixels are known, bool, of the
        images' shape; None for all.
        """
        images = padded(images, self.patch)
        hidden = None if observed is None else padded((~observed).to(images.dtype), self.patch)
        if orders is not None:
            both = images if hidden is None else torch.cat([images, hidden], 1)
            both = each_by_its_order(turn, both.repeat(len(orders) // len(both), 1, 1, 1), orders)
            images, *rest = both.split(self.shape[0], 1)
            hidden = rest[0] if rest else None
            if condition is not None:
                condition = self.turned_maps(condition, orders)
        return self.in_raster_order(images, condition, orders, hidden)

    def maps(self, seen: Tensor, condition: Tensor | None, orders: Tensor | None) -> Tensor:
        """Compute maps [S * B, channels, H/2, W/2] of what comes before each patch.

        Args:
            seen: the patches as the network sees them, [B, inputs, H/2, W/2].
            condition: [S * B, condition, H/2, W/2]. The S samples of an image are B apart from each other. A
                condition with one map is shared by all images.
            orders: [S * B], to which patches and maps are turned; None for the first.
        """
        x = self.first(seen)
        if condition is not None:
            x = x.repeat(max(1, len(condition) // len(seen)), 1, 1, 1)
            # Repeated and turned maps have lost the memory format in which convolutions are fastest.
            x, condition = (maps.contiguous(memory_format=torch.channels_last) for maps in (x, condition))
            if self.condition is not None:
                x = x + self.condition(condition)
        if orders is not None and self.order is not None:
            x = x + self.order.to(x.dtype)[orders]  # so that maps in half precision stay so
        for block in self.blocks:
            x = block(x, condition)
        return x

    @torch.no_grad()
    def patch_by_patch(
        self,
        condition: Tensor | None,
        orders: Tensor,
        patch: Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Make images [N, C, H, W] in the orders [N], patch by patch.

        Each layer stores its inputs at earlier positions, so that a patch costs one position of each layer.

        Args:
            condition: [N, condition, H/2, W/2], or [1, ...] for all.
            orders: order of the patches of each image.
            patch: from `maps` at the next patch [N, channels, 1, 1], the patches that the first layer sees,
                up to this one, [N, inputs, 4, 7], its row and its column to its pixels [N, 4 C] and these as
                the network sees them [N, inputs].
        """
        number, (height, width) = len(orders), self.sides
        if condition is not None:
            condition = self.turned_maps(condition, orders)
        seen = self.first.pad(self.offset.new_zeros(number, self.first.weight.shape[1], height, width))
        maps = self.offset.new_zeros(number, self.first.weight.shape[0], height, width)
        blocks = [cast(CausalBlock, block).drawing(maps) for block in self.blocks]
        pixels = self.offset.new_zeros(number, self.patch**2 * self.shape[0], height, width)
        reach = self.first.reach
        for row in range(height):
            for column in range(width):
                here = condition[:, :, row : row + 1, column : column + 1] if condition is not None else None
                x = self.first.at(seen, row, column)[:, :, None, None]
                if self.condition is not None and here is not None:
                    x = x + self.condition(here)
                if self.order is not None:
                    x = x + self.order[orders]
                for block in blocks:
                    x = block(x, here, row, column)
                window = seen[:, :, row : row + reach + 1, column : column + 2 * reach + 1]
                pixels[:, :, row, column], own = patch(x, window, row, column)
                seen[:, :, row + reach, column + reach] = own.to(seen.dtype)
        images = each_by_its_order(turn_back, depth_to_space(pixels, self.patch), orders)
        return cropped(images, self.shape[1:])

    def order_in(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Split the first number of noise [N, ...] into an order and a number that is uniform again.

        Returns:
            The orders, int64 [N], and the noise.
        """
        noise = noise.clone(memory_format=torch.contiguous_format)
        first = noise.flatten(1)[:, 0]
        scaled = first * self.orders
        orders = scaled.long()
        first.copy_(scaled - orders)
        return orders, noise

    def from_fewer_orders(self, weights: Mapping[str, Tensor], orders: int) -> dict[str, Tensor]:
        """Return weights of this network from those of one that differs in having fewer ``orders``.

        Its orders come first, and the others begin as copies of them in turn, but with their own offsets.

        Raises:
            ValueError: if they are not the weights of such a network.
        """
        assert self.order is not None
        own = self.offset.detach().unflatten(0, (self.orders, -1))
        found = dict(weights)
        few = weights.get("order", torch.zeros_like(self.order[:1]))
        first = weights.get("offset", own[:0])
        for name, value, shape in (
            ("order", few, (orders, *self.order.shape[1:])),
            ("offset", first, own[:orders].flatten(0, 1).shape),
        ):
            if tuple(value.shape) != tuple(shape):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(shape)}")
        found["order"] = few[torch.arange(self.orders) % orders]
        found["offset"] = torch.cat([first, own[orders:].flatten(0, 1).to(first)])
        return found

    def turned_maps(self, condition: Tensor, orders: Tensor) -> Tensor:
        """Turn a condition [N, condition, H/2, W/2], or [1, ...] for all, to orders [N].

        Shifts leave it as it is: of 2x2 patches, they move the image by half a place.
        """
        return each_by_its_order(turn, condition.expand(len(orders), -1, -1, -1), orders % TURNS)

    def turned(self, images: Tensor, orders: Tensor) -> Tensor:
        """Pad images [N, C, H, W] and turn each to its order [N]."""
        return each_by_its_order(turn, padded(images, self.patch), orders)


def centered(values: Tensor) -> Tensor:
    """Scale values from [0, 1] to [-1, 1]; binary ones then differ from the zeros of the padding."""
    return 2 * values - 1
