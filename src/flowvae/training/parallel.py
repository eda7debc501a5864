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


def agreed(accelerator: Accelerator, seconds: float, stop: bool) -> tuple[float, bool]:
    """Return the main process's clock and request to stop: all processes must leave the loop together."""
    if accelerator.num_processes == 1:
        return seconds, stop
    both = broadcast(torch.tensor([seconds, stop], dtype=torch.float64, device=accelerator.device))
    seconds, stops = cast(Tensor, both).tolist()
    return seconds, bool(stops)
