"""A causal network over the patches of binary images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.networks.convolutional import cropped, depth_to_space, fewer, padded, space_to_depth
from flowvae.networks.orders import each_by_its_order, turn, turn_back
from flowvae.shares import dropout

PATCH = 2
"""side of a patch: compared with single pixels, a quarter of the steps, and maps of half the size"""


def to_symbols(images: Tensor, patch: int = PATCH) -> Tensor:
    """Convert binary images [N, 1, H, W] to maps of the patches' symbols, int64 [N, H/patch, W/patch].

    A patch of four pixels has 16 symbols.

    >>> to_symbols(torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]]))
    tensor([[[14]]])
    """
    bits = space_to_depth(images, patch).round().long()
    return (bits << _places(bits, patch)).sum(1)


def to_images(symbols: Tensor, patch: int = PATCH) -> Tensor:
    """Invert `to_symbols`, as float32.

    >>> to_images(torch.tensor([[[14]]]))
    tensor([[[[0., 1.], [1., 1.]]]])
    """
    return depth_to_space(_bits(symbols, patch), patch)


def _bits(symbols: Tensor, patch: int) -> Tensor:
    """Convert symbols [N, H, W] to their patches' pixels as channels, float32 [N, patch^2, H, W]."""
    return ((symbols.unsqueeze(1) >> _places(symbols, patch)) & 1).float()


def _places(like: Tensor, patch: int) -> Tensor:
    return torch.arange(patch * patch, device=like.device).view(-1, 1, 1)


def _bits_of_all(patch: int, device: torch.device) -> Tensor:
    """Return the pixels of each symbol in turn, [symbols, patch^2, 1, 1]."""
    return _bits(torch.arange(2 ** (patch * patch), device=device).view(-1, 1, 1), patch)


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
        return F.conv2d(self.pad(x), self.weight * self.mask, self.bias)

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
        self.dropout = dropout
        halving(self.mix)

    def conditioned(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Compute the input of the causal convolution."""
        if self.condition is not None and condition is not None:
            x = x + self.condition(condition)
        return F.hardswish(x)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        gated = _gate(self.causal(self.conditioned(x, condition)))
        if self.dropout:
            gated = dropout(gated, self.dropout, self.training)
        return x + self.mix(gated)

    def drawing(self, like: Tensor) -> Drawing:
        seen = self.causal.pad(torch.zeros_like(like))

        def at(x: Tensor, condition: Tensor | None, row: int, column: int) -> Tensor:
            own = self.conditioned(x, condition)
            seen[:, :, row + 1, column + 1] = own[:, :, 0, 0]
            return x + self.mix(_gate(self.causal.at(seen, row, column)[:, :, None, None]))

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


def _gate(both: Tensor) -> Tensor:
    a, b = both.chunk(2, dim=1)
    return a * F.hardsigmoid(b)


class CausalNetwork(nn.Module):
    """Logits of each patch's symbols, given the patches before it in raster order, and a condition.

    A causal convolution without its own position, blocks with it, and a last 1x1 convolution. A learned
    offset per position and symbol is added. A patch of ``patch`` x ``patch`` binary pixels has
    ``2^(patch^2)`` symbols; shapes are given for 2x2 patches, with 16 symbols.

    Missing pixels are zeros where known ones are -1 and 1. The probability of a patch of which only a part is
    known is the sum of those of the symbols that agree with it. So the probability of the known pixels is a
    product over patches, each given the *known* pixels before it: it is exact and adds up to one, but if a
    missing pixel comes before a known one, it is not the sum over its values.

    Where height or width is odd, images are padded with zeros. A patch at the edge then has fewer than 16
    symbols, those whose padding is zero, and they share its probability.

    Args:
        sides: (H, W) of the images.
        channels: number of channels.
        blocks: blocks of maps with these channels, conditioned on the same condition; requested after the
            first layer is initialized.
        condition: number of channels of the condition [N, condition, H/2, W/2]; 0 for none.
        orders: number of orders of the patches; the order is an input of the network.
        patch: side of a patch in pixels.

    >>> network = CausalNetwork((8, 8), channels=6, blocks=[GatedBlock(6), GatedBlock(6)])
    >>> network(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16, 4, 4])
    """

    impossible: Tensor | None

    def __init__(
        self,
        sides: tuple[int, int],
        channels: int,
        blocks: Iterable[CausalBlock],
        condition: int = 0,
        orders: int = 1,
        patch: int = PATCH,
    ) -> None:
        super().__init__()
        self.condition_channels, self.orders, self.patch = condition, orders, patch
        self.symbols = 2 ** (patch * patch)
        self.first = CausalConv2d(patch * patch, channels, reach=3, center=False)
        self.condition = nn.Conv2d(condition, channels, 1, bias=False) if condition else None
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(channels, self.symbols, 1)
        self.sides = sides
        self.offset = nn.Parameter(torch.zeros(orders * self.symbols, *fewer(sides, patch)))
        self.register_buffer("impossible", _impossible(sides, orders, patch), persistent=False)
        self.order = nn.Parameter(0.1 * torch.randn(orders, channels, 1, 1)) if orders > 1 else None
        halving(self.last)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize the offsets as log frequencies of the symbols at each position of images [N, 1, H, W].

        Pixels between 0 and 1 count as probabilities.
        """
        bits = _bits_of_all(self.patch, images.device)
        for order, offset in enumerate(self.offset.unflatten(0, (self.orders, self.symbols))):
            ones = space_to_depth(turn(padded(images, self.patch), order), self.patch)
            frequencies = [(ones * bit + (1 - ones) * (1 - bit)).prod(1).mean(0) for bit in bits]
            offset.copy_((torch.stack(frequencies) + 1e-3).log())

    def _offsets(self) -> Tensor:
        """Return the offsets of each order, [orders, 16, H/2, W/2]; -inf for impossible symbols."""
        offsets = self.offset.unflatten(0, (self.orders, self.symbols))
        return offsets if self.impossible is None else offsets.masked_fill(self.impossible, -torch.inf)

    def forward(
        self,
        images: Tensor,
        condition: Tensor | None = None,
        orders: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Compute logits [S * B, 16, H/2, W/2] for images [B, 1, H, W] and a condition [S * B, C, H/2, W/2].

        The S samples of an image are B apart from each other. A condition with one map is shared by all
        images. Images are padded, and images and maps turned, to the orders [S * B]; None for the first.
        ``hidden`` is 1 for missing pixels and 0 for others, of the images' shape.
        """
        centered = _centered(space_to_depth(images, self.patch))
        if hidden is not None:
            centered = centered * (1 - space_to_depth(hidden, self.patch))
        x = self.first(centered)
        if condition is not None:
            x = x.repeat(max(1, len(condition) // len(images)), 1, 1, 1)
            # Repeated and turned maps have lost the memory format in which convolutions are fastest.
            x, condition = (maps.contiguous(memory_format=torch.channels_last) for maps in (x, condition))
            if self.condition is not None:
                x = x + self.condition(condition)
        if orders is not None and self.order is not None:
            x = x + self.order[orders]
        for block in self.blocks:
            x = block(x, condition)
        return self.last(F.hardswish(x)) + self._offsets()[0 if orders is None else orders]

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
            images, hidden = both[:, :1], None if hidden is None else both[:, 1:]
            if condition is not None:
                condition = each_by_its_order(turn, condition.expand(len(orders), -1, -1, -1), orders)
        logits = self(images, condition, orders, hidden)
        number = len(logits)
        logits = logits.permute(0, 2, 3, 1).flatten(0, 2)  # no copy: channels are last in memory
        # Logarithms in half precision are too inexact to be summed.
        table = logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if hidden is None:
            symbols = to_symbols(images, self.patch).repeat(number // len(images), 1, 1)
            return table.gather(1, symbols.view(-1, 1)).view(len(symbols), -1).sum(1)
        agreeing = _agreeing(images, hidden, self.patch).repeat(number // len(images), 1, 1, 1)
        agreeing = agreeing.permute(0, 2, 3, 1).reshape(table.shape)
        of_patches = table.masked_fill(~agreeing, -torch.inf).logsumexp(1)
        # Nothing is known of some, whose symbols add up to one only within rounding.
        return of_patches.masked_fill(agreeing.all(1), 0.0).view(number, -1).sum(1)

    def sample(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Draw binary images [N, 1, H, W] patch by patch (see `walk`).

        Args:
            noise: uniform in [0, 1), [N, H/2, W/2], one number per patch, at which the distribution function
                of its symbols is inverted. The first one determines the order as well.
            condition: [N, condition, H/2, W/2], or [1, ...] for all.
        """
        return self._draw(noise, condition, None)[0]

    def complete(
        self, noise: Tensor, condition: Tensor | None, images: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw the missing pixels of binary images [N, 1, H, W], and compute the images' log weights [N].

        Each patch is drawn among the symbols that agree with its ``observed`` pixels, given the patches
        before it, known or drawn. The weight is the product of the probabilities of all observed pixels,
        each given the patches before it, and its mean over draws is the probability of the observed pixels:
        it is the weight by which draws are resampled (sequential imputation, Kong, Liu & Wong 1994). Where
        all missing pixels come last in the order, it is the same for all draws.

        ``noise`` and ``condition`` are those of `sample`.
        """
        hidden = padded((~observed).to(images.dtype), self.patch)
        return self._draw(noise, condition, torch.cat([padded(images, self.patch), hidden], 1))

    @torch.no_grad()
    def _draw(self, noise: Tensor, condition: Tensor | None, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Draw images, given ``known`` images and hidden pixels, [N, 2, H, W], if any."""
        # The integer part is the order, and the fractional part is uniform again.
        noise = noise.clone()
        first = noise[:, 0, 0] * self.orders
        orders = first.long()
        noise[:, 0, 0] = first - orders
        agreeing = None
        if known is not None:
            known = each_by_its_order(turn, known, orders)
            agreeing = _agreeing(known[:, :1], known[:, 1:], self.patch)
        log_weight = torch.zeros(len(noise), dtype=self.offset.dtype, device=noise.device)
        places = torch.arange(self.symbols, device=noise.device)

        def choose(logits: Tensor, row: int, column: int) -> Tensor:
            if agreeing is not None:
                here_agree = agreeing[:, :, row, column]
                logits = logits.log_softmax(1).masked_fill(~here_agree, -torch.inf)
                log_weight.add_(logits.logsumexp(1).masked_fill(here_agree.all(1), 0.0))
            below = logits.softmax(1).cumsum(1)[:, :-1] <= noise[:, row, column, None]
            # Rounding must not lead beyond the last possible symbol.
            last = (logits > -torch.inf).long().mul(places).amax(1)
            return below.sum(1).minimum(last)

        return self.walk(condition, orders, choose).to(noise.dtype), log_weight

    @torch.no_grad()
    def walk(
        self, condition: Tensor | None, orders: Tensor, choose: Callable[[Tensor, int, int], Tensor]
    ) -> Tensor:
        """Make images patch by patch, float32 [N, 1, H, W], in the orders [N].

        Each layer stores its inputs at earlier positions, so that a patch costs one position of each layer.

        Args:
            condition: [N, condition, H/2, W/2], or [1, ...] for all.
            orders: order of the patches of each image.
            choose: maps the logits [N, 16] of the symbols of the next patch, its row and its column to the
                symbols of the images there, [N].
        """
        number, (height, width) = len(orders), self.offset.shape[1:]
        offset = self._offsets()[orders]
        if condition is not None:
            condition = each_by_its_order(turn, condition.expand(number, -1, -1, -1), orders)
        pixels = self.first.pad(self.offset.new_zeros(number, self.patch**2, height, width))
        maps = self.offset.new_zeros(number, self.first.weight.shape[0], height, width)
        blocks = [cast(CausalBlock, block).drawing(maps) for block in self.blocks]
        symbols = torch.zeros(number, height, width, dtype=torch.int64, device=orders.device)
        for row in range(height):
            for column in range(width):
                here = condition[:, :, row : row + 1, column : column + 1] if condition is not None else None
                x = self.first.at(pixels, row, column)[:, :, None, None]
                if self.condition is not None and here is not None:
                    x = x + self.condition(here)
                if self.order is not None:
                    x = x + self.order[orders]
                for block in blocks:
                    x = block(x, here, row, column)
                logits = self.last(F.hardswish(x))[:, :, 0, 0] + offset[:, :, row, column]
                symbols[:, row, column] = choose(logits, row, column)
                bits = _bits(symbols[:, row : row + 1, column : column + 1], self.patch)
                reach = self.first.reach
                pixels[:, :, row + reach, column + reach] = _centered(bits)[:, :, 0, 0].to(pixels.dtype)
        images = each_by_its_order(turn_back, to_images(symbols, self.patch), orders)
        return cropped(images, self.sides)

    def symbols_of(self, images: Tensor, orders: Tensor) -> Tensor:
        """Return the symbols that `walk` chooses to make images [N, 1, H, W]: int64 [N, H/2, W/2]."""
        return to_symbols(each_by_its_order(turn, padded(images, self.patch), orders), self.patch)


def _agreeing(images: Tensor, hidden: Tensor, patch: int) -> Tensor:
    """Return which symbols agree with the pixels that are not hidden, bool [N, 16, H/2, W/2]."""
    known, unknown = (space_to_depth(maps, patch) for maps in (images, hidden))
    return torch.stack(
        [((known == bit) | (unknown > 0)).all(1) for bit in _bits_of_all(patch, images.device)], 1
    )


def _impossible(sides: tuple[int, int], orders: int, patch: int) -> Tensor | None:
    """Return which symbols have a one in the padding, bool [orders, 16, H/2, W/2]; None without padding."""
    padding = padded(torch.zeros(1, 1, *sides) - 1, patch) + 1
    if not padding.any():
        return None
    bits = _bits_of_all(patch, padding.device)
    places = [space_to_depth(turn(padding, order), patch) for order in range(orders)]
    return torch.stack([(bits * place).any(1) for place in places])


def _centered(bits: Tensor) -> Tensor:
    """Convert to -1 and 1, which differ from the zeros of the padding."""
    return 2 * bits - 1
