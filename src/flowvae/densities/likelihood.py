"""Likelihoods p(x|z)."""

from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent


class BernoulliLikelihood(nn.Module):
    """Independent binary pixels whose logits the decoder gives.

    Args:
        decoder: maps z [N, D] to logits [N, C, H, W].
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Distribution:
        """``p(x|z)`` for z [S, B, D]: batch shape [S, B], event shape [C, H, W]."""
        logits = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return Independent(Bernoulli(logits=logits, validate_args=False), 3)
