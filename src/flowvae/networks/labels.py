"""Labels as an input of networks."""

import torch
from torch import Tensor, nn


def table(classes: int, size: int) -> nn.Embedding:
    """Build a table of ``size`` numbers per class; all start at 0, where the class has no effect.

    >>> table(classes=10, size=3)(torch.tensor([7, 1]))
    tensor([[0., 0., 0.],
            [0., 0., 0.]], grad_fn=<EmbeddingBackward0>)
    """
    return nn.Embedding.from_pretrained(torch.zeros(classes, size), freeze=False)


def on_maps(vectors: Tensor, like: Tensor) -> Tensor:
    """Append axes to vectors [N, C], so that they can be added to maps [N, C, H, W]; none for [N, C]."""
    return vectors.view(*vectors.shape, *[1] * (like.ndim - 2))
