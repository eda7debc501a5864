"""Small causal networks for tests."""

from flowvae.densities import CausalSymbols
from flowvae.networks import GatedBlock


def gated_network(
    sides: tuple[int, int],
    channels: int,
    blocks: int,
    condition: int = 0,
    dropout: float = 0.0,
    orders: int = 1,
) -> CausalSymbols:
    """The network of PixelCNN."""
    made = (GatedBlock(channels, condition, dropout) for _ in range(blocks))
    return CausalSymbols(sides, channels, made, condition, orders)
