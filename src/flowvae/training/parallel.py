"""Synchronization of the processes of a training: gradients, buffers, scores, clock."""

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from flowvae.shares import processes, reduced


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, such as gradients, by their sums over processes; they are sent as one vector."""
    if processes()[1] > 1:
        _replace(tensors, reduced(torch.cat([tensor.flatten() for tensor in tensors])))


@torch.no_grad()
def from_main(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors by the main process's."""
    tensors = [tensor for tensor in tensors if tensor.is_floating_point()]
    if accelerator.num_processes > 1 and tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        _replace(tensors, reduced(flat if accelerator.is_main_process else flat.zero_()))


def _replace(tensors: Sequence[Tensor], flat: Tensor) -> None:
    for tensor, values in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


def agreed(accelerator: Accelerator, seconds: float, ending: float, stop: bool) -> tuple[float, float, bool]:
    """Return the main process's clock and time for the last validation, and whether any wishes to stop.

    Processes that leave the loop at different steps wait forever.
    """
    if accelerator.num_processes == 1:
        return seconds, ending, stop
    main = accelerator.is_main_process
    said = torch.tensor([seconds * main, ending * main, stop], dtype=torch.float64)
    seconds, ending, wish = reduced(said.to(accelerator.device), largest=True).tolist()
    return seconds, ending, bool(wish)
