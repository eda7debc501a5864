"""Dropout whose probability rises in training if models of few images need it."""

from torch import Tensor, nn

from flowvae import shares


class Dropout(nn.Module):
    """Dropout with the same masks for any number of processes.

    Args:
        probability: that of an entry to become 0.
        axis: axis of the images.
    """

    def __init__(self, probability: float = 0.0, axis: int = 0) -> None:
        super().__init__()
        self.least, self.axis = probability, axis
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return values
        return shares.dropout(values, self.probability, self.axis)


def raise_dropout(model: nn.Module, probability: float) -> None:
    """Set the probability of all dropout in a model, except where its own is higher."""
    for part in model.modules():
        if isinstance(part, Dropout):
            part.probability = max(part.least, probability)
