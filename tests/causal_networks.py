"""Small causal networks for tests."""

from flowvae.networks import CausalNetwork, GatedBlock


def gated_network(
    sides: tuple[int, int],
    channels: int,
    blocks: int,
    condition: int = 0,
    dropout: float = 0.0,
    orders: int = 1,
) -> CausalNetwork:
    """The network of PixelCNN."""
    made = (GatedBlock(channels, condition, dropout) for _ in range(blocks))
    return CausalNetwork(sides, channels, made, condition, orders)
