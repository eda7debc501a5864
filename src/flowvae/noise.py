"""Noise as an argument: given, drawn from a given generator, or drawn from torch's own generator."""

from collections.abc import Sequence

import torch
from torch import Tensor

Noise = Tensor | torch.Generator | None
"""argument of random functions: the noise itself, a generator to draw it from, or None for torch's own"""


def normal(noise: Noise, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal noise of ``shape``, in the type and on the device of ``like``.

    >>> given = torch.zeros(2, 3)
    >>> normal(given, (2, 3), like=given) is given
    True
    >>> drawn = [normal(torch.Generator().manual_seed(1), (2, 3), like=given) for _ in range(2)]
    >>> torch.equal(*drawn)
    True
    """
    return _drawn(torch.randn, noise, shape, like)


def uniform(noise: Noise, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return uniform noise in [0, 1) of ``shape``, in the type and on the device of ``like``."""
    return _drawn(torch.rand, noise, shape, like)


def integers(noise: Noise, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
    """Return uniform integers below ``high``, int64 of ``shape``, on the device of ``like``."""

    def draw(*shape: int, **options) -> Tensor:
        return torch.randint(high, shape, **{**options, "dtype": torch.int64})

    return _drawn(draw, noise, shape, like)


def _drawn(draw, noise: Noise, shape: Sequence[int], like: Tensor) -> Tensor:
    if isinstance(noise, Tensor):
        if noise.shape != torch.Size(shape):
            raise ValueError(f"noise has the shape {tuple(noise.shape)}; expected {tuple(shape)}")
        return noise
    # A generator draws on its own device, so that the numbers do not depend on the model's.
    device = like.device if noise is None else noise.device
    return draw(*shape, generator=noise, dtype=like.dtype, device=device).to(like.device)
