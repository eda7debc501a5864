"""The device that computes."""

import time

import torch

from flowvae.errors import UserError, quoted

MOST_SLOWDOWN = 3.0
"""factor of time in bfloat16 above which there is a warning"""


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


def bfloat16_caveat(on: torch.device) -> str | None:
    """Return a one-line warning if the device is slower in bfloat16 than in float32; else None."""
    slowdown = bfloat16_slowdown(on)
    if slowdown <= MOST_SLOWDOWN:
        return None
    return (
        f"{on.type} emulates bfloat16, in which a product of matrices takes {slowdown:.0f} times as long; "
        "train with --precision float32"
    )


def bfloat16_slowdown(on: torch.device, size: int = 256) -> float:
    """Measure how many times as long a product of two matrices takes in bfloat16 as in float32.

    It is 1 or less where the processor computes in bfloat16, and was about 30 on a CPU with AVX2, which
    emulates it. The measurement takes a fraction of a second.
    """

    def seconds(kind: torch.dtype) -> float:
        matrix = torch.ones(size, size, dtype=kind, device=on)
        taken: list[float] = []
        for _ in range(3):  # the first of a kind is slow
            began = time.perf_counter()
            (matrix @ matrix)[0, 0].item()
            taken.append(time.perf_counter() - began)
        return min(taken)

    return seconds(torch.bfloat16) / seconds(torch.float32)
