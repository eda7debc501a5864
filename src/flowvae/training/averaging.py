"""The running average of weights that evaluation uses."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of ``model`` whose ``update_parameters(model)`` moves it towards the model's weights.

    ``average <- d average + (1 - d) weights`` with ``d = min(decay, (1 + n) / (10 + n))`` at the n-th update,
    so that the average of a short run forgets the initial weights. Buffers are averaged as well, since the
    statistics of a batch norm belong to the weights they were measured with; integer buffers are copied.
    """

    @torch.no_grad()
    def blend(average: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        n = float(updates)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for mean, value in zip(average, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
