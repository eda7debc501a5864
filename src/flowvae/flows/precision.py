"""Full precision where it matters, while the networks around it compute in bfloat16."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; anything wider as it is.

    Log-determinants and log densities are sums of many numbers that nearly cancel: eight bits of mantissa
    would leave nothing of them.

    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(values: Tensor) -> AbstractContextManager[object]:
    """Inside, nothing on the device of ``values`` is cast to half precision."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
