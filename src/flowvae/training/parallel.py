"""Synchronization of the processes of a training: gradients, buffers, scores, clock."""

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from flowvae.shares import Share, reduced


def average(tensors: Iterable[Tensor], share: Share) -> None:
    """Replace tensors, such as gradients of means over shares of a batch, by their means over the batch.

    The tensors are sent as one vector of the first one's type.
    """
    tensors = list(tensors)
    if share.step > 1:
        kind = tensors[0].dtype
        flat = torch.cat([tensor.flatten().to(kind) for tensor in tensors])
        _replace(tensors, reduced(flat.mul_(share.weight)))


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
