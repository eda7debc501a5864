"""Full precision for densities, while networks compute in bfloat16."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32; leave wider types unchanged.

    Log-determinants and log densities are sums of many numbers that nearly cancel, for which eight bits of
    mantissa are too few.

    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(values: Tensor) -> AbstractContextManager[object]:
    """Disable autocast on the device of ``values`` inside the context."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
