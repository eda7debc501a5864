"""The options of the causal network, shared by models that use it."""

from collections.abc import Iterable
from dataclasses import dataclass

from flowvae.batch import DataSpec
from flowvae.densities import CausalMixture, CausalSymbols
from flowvae.errors import UserError
from flowvae.networks import CausalNetwork, GatedBlock
from flowvae.networks.causal import PATCH, CausalBlock
from flowvae.networks.orders import ORDERS
from flowvae.parts import DEEPEST, WIDEST, Options, ranged, training_only


@dataclass(frozen=True)
class CausalOptions(Options):
    """Options of a causal network over 2x2 patches of binary or 8-bit pixels."""

    causal_channels: int = ranged(64, 1, WIDEST)
    """number of channels of the causal network"""
    causal_blocks: int = ranged(4, 0, DEEPEST)
    """number of gated blocks of the causal network"""
    causal_dropout: float = training_only(0.0)
    """dropout probability of the causal network's gated activations"""
    causal_orders: int = ranged(1, 1, ORDERS)
    """number of pixel orders, 1 to 32, that the causal network learns and the likelihood averages over"""
    causal_components: int = ranged(5, 1, WIDEST)
    """number of discretized logistics in the mixture of each pixel; no effect on binary pixels"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dropout("causal_dropout", self.causal_dropout)

    def network(self, data: DataSpec, condition: int) -> CausalNetwork:
        """Build the network for images of ``data``, conditioned on maps of ``condition`` channels.

        Raises:
            UserError: if binary images have several channels, or an unsupported height or width.
        """
        channels = self.causal_channels
        # A generator: a seed determines the weights layer by layer, from the first.
        blocks = (GatedBlock(channels, condition, self.causal_dropout) for _ in range(self.causal_blocks))
        return causal_network(data, channels, blocks, condition, self.causal_orders, self.causal_components)


def causal_network(
    data: DataSpec,
    channels: int,
    blocks: Iterable[CausalBlock],
    condition: int,
    orders: int,
    components: int,
    patch: int = PATCH,
) -> CausalNetwork:
    """Build a causal network of symbols for binary pixels, or else of a mixture for each pixel.

    Args:
        data: images; their pixels are binary unless ``levels`` says otherwise.
        channels, blocks, condition, orders, patch: as in `CausalNetwork`.
        components: number of components of a mixture of 8-bit pixels.

    Raises:
        UserError: if binary images have several channels, or an unsupported height or width.
    """
    check_orders(orders, data.shape)
    if data.levels in (None, 2):
        if data.shape[0] != 1:
            raise UserError(
                f"images have {data.shape[0]} channels; of binary pixels, the causal network needs 1; "
                "omit binarization with --binarization none, or in Python choose levels=256"
            )
        return CausalSymbols(data.shape[1:], channels, blocks, condition, orders, patch)
    return CausalMixture(
        data.shape, channels, blocks, condition, orders, patch, components, data.levels or 256
    )


def check_dropout(name: str, probability: float) -> None:
    """Check that a dropout probability is in [0, 1).

    Raises:
        UserError: if it is not.
    """
    if not 0 <= probability < 1:
        raise UserError(f"{name} is {probability}; it must be in [0, 1)")


def check_orders(orders: int, shape: tuple[int, int, int]) -> None:
    """Check that a causal network can have as many orders for images of ``shape`` (C, H, W).

    Raises:
        UserError: if not.
    """
    if orders > 4 and shape[1] != shape[2]:
        raise UserError(f"images are {shape[1]} x {shape[2]}; more than 4 orders need square images")
