"""Real NVP as a density of images."""

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.flows import Flow, squeeze, unsqueeze
from flowvae.models.dequantized import DequantizedDensity

MARGIN = 0.05
"""How far from 0 and 1 values are moved before their logit is taken (Dinh et al. 2017, section 4.1)."""


class RealNVPDensity(DequantizedDensity):
    """A multi-scale flow from images to normal noise and back (Dinh, Sohl-Dickstein & Bengio 2017).

    ``y = logit(margin + (1 - 2 margin) x)``, then scale by scale (section 3.6): blocks of 2 x 2 pixels become
    channels, a flow, and half of the channels are left as they are from there on, while the other half goes
    on to the next scale. What was left at all scales is standard normal, hence

    ``log p(x) = log N(z; 0, I) + sum of all log|det|``.

    Args:
        shape: (C, H, W) of the images.
        scales: a flow for each scale. Its ``forward`` is the sampling direction; the first one's maps have
            4 C channels, the sides are halved and the channels doubled from each to the next.
        levels: of a pixel.
    """

    def __init__(self, shape: tuple[int, int, int], scales: Sequence[Flow], levels: int = 256) -> None:
        super().__init__(levels)
        self.shape = shape
        self.scales = nn.ModuleList(scales)
        # For the place of what is drawn.
        self.register_buffer("_place", torch.zeros(()), persistent=False)

    @staticmethod
    def maps(shape: tuple[int, int, int], scales: int) -> list[tuple[int, int, int]]:
        """The shape of the maps that each scale's flow works on.

        >>> RealNVPDensity.maps((3, 32, 32), scales=3)
        [(12, 16, 16), (24, 8, 8), (48, 4, 4)]
        """
        channels, height, width = shape
        return [
            (channels * 2 ** (2 + scale), height // 2 ** (scale + 1), width // 2 ** (scale + 1))
            for scale in range(scales)
        ]

    def _flows(self) -> list[Flow]:
        return list(cast(Iterable[Flow], self.scales))

    def normalize(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values [S, B, C, H, W] in (0, 1) to normal noise z [S, B, D], and ``log|det dz/dx|`` [S, B]."""
        inner = torch.addcmul(values.new_full((), MARGIN), values, values.new_full((), 1 - 2 * MARGIN))
        z = inner.logit()
        # d logit(y) / dy = 1 / (y (1 - y)), and log y = -softplus(-logit y).
        log_derivative = F.softplus(z) + F.softplus(-z) + math.log(1 - 2 * MARGIN)
        total = log_derivative.flatten(2).sum(2)
        parts: list[Tensor] = []
        flows = self._flows()
        for flow in flows:
            z, log_determinant = flow.inverse(squeeze(z))
            total = total + log_determinant
            if flow is not flows[-1]:
                z, left = z.chunk(2, dim=2)
                parts.append(left.flatten(2))
        return torch.cat([*parts, z.flatten(2)], dim=2), total

    def generate(self, z: Tensor) -> Tensor:
        """Undo `normalize`: values [S, B, C, H, W], in (0, 1) or, out of the model's own, a little beyond."""
        maps = self.maps(self.shape, len(self.scales))
        sizes = [math.prod(map_shape) // 2 for map_shape in maps]
        sizes[-1] *= 2  # from the last scale, everything is left
        parts = list(z.split(sizes, dim=2))
        channels, height, width = maps[-1]
        values = parts.pop().unflatten(2, (channels, height, width))
        for index, flow in reversed(list(enumerate(self._flows()))):
            if index < len(maps) - 1:
                channels, height, width = maps[index]
                left = parts.pop().unflatten(2, (channels // 2, height, width))
                values = torch.cat([values, left], dim=2)
            values = unsqueeze(flow(values)[0])
        return (values.sigmoid() - MARGIN) / (1 - 2 * MARGIN)

    def log_density(self, values: Tensor) -> Tensor:
        z, log_determinant = self.normalize(values)
        return log_determinant - 0.5 * (z.square() + math.log(2 * math.pi)).sum(2)

    def encode(self, images: Tensor) -> Tensor:
        """Normal noise z [B, D] of the centers of the cells of images [B, C, H, W]."""
        return self.normalize(self.cell(images, 0.5).unsqueeze(0))[0][0]

    def decode(self, z: Tensor) -> Tensor:
        """Images [B, C, H, W] that z [B, D] belongs to."""
        return self.image(self.generate(z.unsqueeze(0))[0])

    @torch.no_grad()
    def sample(self, num_images: int) -> Tensor:
        place = cast(Tensor, self._place)
        return self.decode(
            torch.randn(num_images, math.prod(self.shape), dtype=place.dtype, device=place.device)
        )
