"""Synchronization of the processes of a training: gradients, buffers, clock."""

from collections.abc import Iterable
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, reduce
from torch import Tensor


def average(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Replace tensors, such as gradients of batches of the same size, by their means over processes.

    Losses bypass the ``forward`` of the whole model, and so the DistributedDataParallel wrapper. The tensors
    are sent as one vector.
    """
    tensors = list(tensors)
    if accelerator.num_processes > 1:
        _replace(tensors, cast(Tensor, reduce(_flat(tensors), reduction="mean")))


@torch.no_grad()
def share(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors, such as statistics of each process's batches, by the main process's."""
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    if accelerator.num_processes > 1 and tensors:
        _replace(tensors, cast(Tensor, broadcast(_flat(tensors))))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _replace(tensors: list[Tensor], flat: Tensor) -> None:
    for tensor, values in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


def agreed(accelerator: Accelerator, seconds: float, ending: float, stop: bool) -> tuple[float, float, bool]:
    """The main process's clock, time for the last validation and wish to stop.

    Processes that leave the loop at different steps wait forever.
    """
    if accelerator.num_processes == 1:
        return seconds, ending, stop
    said = torch.tensor([seconds, ending, stop], dtype=torch.float64, device=accelerator.device)
    seconds, ending, wish = cast(Tensor, broadcast(said)).tolist()
    return seconds, ending, bool(wish)
