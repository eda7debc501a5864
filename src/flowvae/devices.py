"""The device that computes."""

import torch

from flowvae.errors import UserError, quoted


def device(name: str = "auto") -> torch.device:
    """Return the device called ``name``.

    Args:
        name: "auto" for the accelerator that PyTorch finds, or else the CPU; "cpu"; or the name of an
            accelerator, optionally with its number, such as "cuda:1" or "mps".

    Raises:
        UserError: if this machine has no such device.

    >>> device("cpu")
    device(type='cpu')
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    here = ["cpu", *([found.type] if found else [])]
    try:
        chosen = torch.device(name)
        count = torch.accelerator.device_count() if found else 0
        if chosen.type in here and (chosen.index or 0) < max(1, count):
            return chosen
    except RuntimeError:  # no name of a device at all
        pass
    raise UserError(f"device {quoted(name)} is not available; choose auto or {' or '.join(here)}")
