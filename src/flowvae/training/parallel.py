"""What the processes of a training have in common: gradients, buffers, the clock."""

from collections.abc import Iterable
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, reduce
from torch import Tensor


def average(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Let tensors be their mean over processes, such as gradients of batches of the same size.

    Losses go past the ``forward`` of the whole model, and so past PyTorch's wrapper that would do it. All
    travel as one vector.
    """
    tensors = list(tensors)
    if accelerator.num_processes > 1:
        _replace(tensors, cast(Tensor, reduce(_flat(tensors), reduction="mean")))


@torch.no_grad()
def share(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Let real numbers be those of the main process, such as statistics that each has of its own batches."""
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    if accelerator.num_processes > 1 and tensors:
        _replace(tensors, cast(Tensor, broadcast(_flat(tensors))))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _replace(tensors: list[Tensor], flat: Tensor) -> None:
    for tensor, values in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


def agreed(accelerator: Accelerator, seconds: float, stop: bool) -> tuple[float, bool]:
    """The main process's clock and wish to stop: processes that leave the loop apart wait for ever."""
    if accelerator.num_processes == 1:
        return seconds, stop
    said = broadcast(torch.tensor([seconds, stop], dtype=torch.float64, device=accelerator.device))
    seconds, wish = cast(Tensor, said).tolist()
    return seconds, bool(wish)
