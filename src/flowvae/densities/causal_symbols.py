"""Binary pixels by a causal network: a distribution over the symbols of each patch."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from flowvae.networks import CausalNetwork
from flowvae.networks.causal import PATCH, CausalBlock, centered
from flowvae.networks.convolutional import fewer, padded, space_to_depth
from flowvae.networks.orders import each_by_its_order, turn


def to_symbols(images: Tensor, patch: int = PATCH) -> Tensor:
    """Convert binary images [N, 1, H, W] to maps of the patches' symbols, int64 [N, H/patch, W/patch].

    A patch of four pixels has 16 symbols.

    >>> to_symbols(torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]]))
    tensor([[[14]]])
    """
    bits = space_to_depth(images, patch).round().long()
    return (bits << _places(bits, patch)).sum(1)


def _bits(symbols: Tensor, patch: int) -> Tensor:
    """Convert symbols [N, H, W] to their patches' pixels as channels [N, patch^2, H, W], as numbers."""
    return ((symbols.unsqueeze(1) >> _places(symbols, patch)) & 1).to(torch.get_default_dtype())


def _places(like: Tensor, patch: int) -> Tensor:
    return torch.arange(patch * patch, device=like.device).view(-1, 1, 1)


def _bits_of_all(patch: int, device: torch.device) -> Tensor:
    """Return the pixels of each symbol in turn, [symbols, patch^2, 1, 1]."""
    return _bits(torch.arange(2 ** (patch * patch), device=device).view(-1, 1, 1), patch)


class CausalSymbols(CausalNetwork):
    """Logits of each patch's symbols, given the patches before it in raster order, and a condition.

    A learned offset per position and symbol is added. A patch of ``patch`` x ``patch`` binary pixels has
    ``2^(patch^2)`` symbols; shapes are given for 2x2 patches, with 16 symbols.

    Missing pixels are zeros where known ones are -1 and 1. The probability of a patch of which only a part is
    known is the sum of those of the symbols that agree with it. So the probability of the known pixels is a
    product over patches, each given the *known* pixels before it: it is exact and adds up to one, but if a
    missing pixel comes before a known one, it is not the sum over its values.

    Where height or width is odd, images are padded with zeros. A patch at the edge then has fewer than 16
    symbols, those whose padding is zero, and they share its probability.

    Args:
        sides: (H, W) of the images.
        channels, blocks, condition, orders, patch: as in `CausalNetwork`.

    >>> from flowvae.networks import GatedBlock
    >>> network = CausalSymbols((8, 8), channels=6, blocks=[GatedBlock(6), GatedBlock(6)])
    >>> network(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 16, 4, 4])
    """

    levels = 2
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
        inputs, symbols, places = patch * patch, 2 ** (patch * patch), fewer(sides, patch)
        super().__init__((1, *sides), inputs, channels, blocks, symbols, places, condition, orders, patch)
        self.symbols, self.noise_shape = symbols, places
        self.register_buffer("impossible", _impossible(sides, orders, patch), persistent=False)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Initialize the offsets as log frequencies of the symbols at each position of images [N, 1, H, W].

        Pixels between 0 and 1 count as probabilities.
        """
        for order, offset in enumerate(self.offset.unflatten(0, (self.orders, self.symbols))):
            ones = space_to_depth(turn(padded(images, self.patch), order), self.patch)
            ones = ones.permute(2, 3, 1, 0).contiguous()
            half = ones.shape[2] // 2
            # A matrix product for each place sums over images, many times faster than each symbol by itself.
            together = _chances(ones[:, :, half:]) @ _chances(ones[:, :, :half]).mT
            offset.copy_((together.flatten(2).permute(2, 0, 1) / len(images) + 1e-3).log())

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

        Images are padded, and images and maps turned, to the orders [S * B]; None for the first. ``hidden``
        is 1 for missing pixels and 0 for others, of the images' shape.
        """
        seen = centered(space_to_depth(images, self.patch))
        if hidden is not None:
            seen = seen * (1 - space_to_depth(hidden, self.patch))
        logits = self._logits(self.maps(seen, condition, orders))
        return logits + self._offsets()[0 if orders is None else orders]

    def _logits(self, maps: Tensor) -> Tensor:
        return self.last(F.hardswish(maps))

    def in_raster_order(
        self, images: Tensor, condition: Tensor | None, orders: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
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
        return self._draw(noise, condition, None)[0]

    def complete(
        self, noise: Tensor, condition: Tensor | None, images: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw each patch among the symbols that agree with its ``observed`` pixels."""
        hidden = padded((~observed).to(images.dtype), self.patch)
        return self._draw(noise, condition, torch.cat([padded(images, self.patch), hidden], 1))

    @torch.no_grad()
    def _draw(self, noise: Tensor, condition: Tensor | None, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Draw images, given ``known`` images and hidden pixels, [N, 2, H, W], if any."""
        orders, noise = self.order_in(noise)
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

        return self._by_logits(condition, orders, choose), log_weight

    def _by_logits(
        self, condition: Tensor | None, orders: Tensor, choose: Callable[[Tensor, int, int], Tensor]
    ) -> Tensor:
        """Make images as `walk`, by logits [N, 16] of symbols, row and column in place of probabilities."""
        offset = self._offsets()[orders]

        def patch(x: Tensor, window: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
            symbols = choose(self._logits(x)[:, :, 0, 0] + offset[:, :, row, column], row, column)
            bits = _bits(symbols.view(-1, 1, 1), self.patch)[:, :, 0, 0]
            return bits, centered(bits)

        return self.patch_by_patch(condition, orders, patch)

    def walk(self, condition: Tensor | None, orders: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Ask for the symbol of one patch after the other."""

        def symbols(logits: Tensor, row: int, column: int) -> Tensor:
            return choose(logits.softmax(1).unsqueeze(1)).squeeze(1)

        return self._by_logits(condition, orders, symbols).long()

    def values(self, images: Tensor, orders: Tensor) -> Iterator[Tensor]:
        yield from to_symbols(self.turned(images, orders), self.patch).flatten(1).split(1, 1)


def _chances(ones: Tensor) -> Tensor:
    """Convert chances of a one, of k pixels [H, W, k, N], to those of their symbols, [H, W, 2^k, N]."""
    chances = ones.new_ones(*ones.shape[:2], 1, ones.shape[3])
    for one in ones.unsqueeze(3).unbind(2):
        chances = torch.cat([chances * (1 - one), chances * one], 2)
    return chances


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
