"""Noise as an argument: given, drawn from a given generator, or drawn from torch's own generator.

``images`` is the axis of ``shape`` that has the images of a training batch, if any: where several processes
share the batch, an image has the noise that it has in a single one (see `flowvae.shares`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowvae import shares

Noise = Tensor | torch.Generator | None
"""argument of random functions: the noise itself, a generator to draw it from, or None for torch's own"""


def normal(noise: Noise, shape: Sequence[int], like: Tensor, images: int | None = None) -> Tensor:
    """Return standard normal noise of ``shape``, in the type and on the device of ``like``.

    >>> given = torch.zeros(2, 3)
    >>> normal(given, (2, 3), like=given) is given
    True
    >>> drawn = [normal(torch.Generator().manual_seed(1), (2, 3), like=given) for _ in range(2)]
    >>> torch.equal(*drawn)
    True
    """
    return _drawn(torch.randn, noise, shape, like, images)


def uniform(noise: Noise, shape: Sequence[int], like: Tensor, images: int | None = None) -> Tensor:
    """Return uniform noise in [0, 1) of ``shape``, in the type and on the device of ``like``."""
    return _drawn(torch.rand, noise, shape, like, images)


def integers(
    noise: Noise, high: int, shape: Sequence[int], like: Tensor, images: int | None = None
) -> Tensor:
    """Return uniform integers below ``high``, int64 of ``shape``, on the device of ``like``."""

    def draw(*shape: int, **options) -> Tensor:
        return torch.randint(high, shape, **{**options, "dtype": torch.int64})

    return _drawn(draw, noise, shape, like, images)


def _drawn(draw, noise: Noise, shape: Sequence[int], like: Tensor, images: int | None) -> Tensor:
    if isinstance(noise, Tensor):
        if noise.shape != torch.Size(shape):
            raise ValueError(f"noise has the shape {tuple(noise.shape)}; expected {tuple(shape)}")
        return noise
    # A generator draws on its own device, so that the numbers do not depend on the model's.
    device = like.device if noise is None else noise.device

    def of(shape: tuple[int, ...]) -> Tensor:
        return draw(*shape, generator=noise, dtype=like.dtype, device=device)

    return shares.drawn(of, tuple(shape), images).to(like.device)
