"""Real NVP as a density of images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.batch import DataSpec, Given
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.flows import ActNorm, BatchNormFlow, Chain, Flow, MonotoneStep, Step, squeeze, unsqueeze
from flowvae.models.base import Coded, Sampler
from flowvae.models.compressible import Normalizing
from flowvae.models.couplings import Couplings
from flowvae.models.dequantized import DequantizedDensity
from flowvae.models.labels import classes_of
from flowvae.networks.labels import table
from flowvae.networks.normalization import Normalization
from flowvae.noise import Noise, normal
from flowvae.parts import DEEPEST, MOST, WIDEST, ranged, training_only

KNOT_BITS = 9
"""knots of the logit are multiples of 2^-9, when images are compressed"""
MARGIN = 0.05
"""Distance from 0 and 1 that values keep before their logit is taken (Dinh et al. 2017, section 4.1)."""


class RealNVPDensity(DequantizedDensity, Sampler, Coded, Normalizing):
    """A multi-scale flow between images and normal noise (Dinh, Sohl-Dickstein & Bengio 2017).

    ``y = logit(margin + (1 - 2 margin) x)``, then scale by scale (section 3.6): blocks of 2 x 2 pixels become
    channels, a flow follows, half of the channels are factored out, and the other half goes to the next
    scale. The factored-out channels of all scales are standard normal, hence

    ``log p(x) = log N(z; 0, I) + sum of all log|det|``.

    Args:
        shape: (C, H, W) of the images; where height or width is odd, they are padded.
        scales: one flow per scale, whose ``forward`` is the sampling direction. The first flow's maps have
            4 C channels; from each scale to the next, height and width halve and the channels double.
        levels: number of values that a pixel takes.
        samples, importance_weighted: as in `DequantizedDensity`.
        classes: K, for ``p(x|y)``: the context of the flows is a vector per class.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        scales: Sequence[Flow],
        levels: int = 256,
        samples: int = 1,
        importance_weighted: bool = False,
        classes: int = 0,
    ) -> None:
        channels, height, width = shape
        super().__init__(levels, samples, importance_weighted, padding=(height % 2, width % 2))
        self.shape = self.value_shape = channels, height + height % 2, width + width % 2
        self.image_sides = height, width
        self.conditional, self.classes = classes > 0, classes
        self.scales = nn.ModuleList(scales)
        self.of_label = table(classes, sum(flow.context_features for flow in scales)) if classes else None
        # Device and type of what is drawn.
        self.register_buffer("_place", torch.zeros(()), persistent=False)

    @staticmethod
    def maps(shape: tuple[int, int, int], scales: int) -> list[tuple[int, int, int]]:
        """Return the shape of the maps that the flow of each scale transforms.

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

    def _contexts(self, labels: Tensor | None) -> list[Tensor | None]:
        """Return the context of the flow of each scale, maps of one position; None without labels."""
        flows = self._flows()
        if self.of_label is None:
            return [None] * len(flows)
        context = self.of_label(labels)[:, :, None, None]
        return list(context.split([flow.context_features for flow in flows], dim=1))

    def to_real(self) -> MonotoneStep:
        def function(values: Tensor) -> Tensor:
            return (MARGIN + (1 - 2 * MARGIN) * values).logit()

        return MonotoneStep(function, KNOT_BITS, (0, 1 << KNOT_BITS))

    def from_noise(self) -> list[Step]:
        """As `generate`, with each noise at the place of the values that it was factored out of."""

        def there(z: Tensor, scale: int) -> Tensor:
            for _ in range(scale):
                z = squeeze(z).chunk(2, dim=2)[0]
            return squeeze(z)

        def back(z: Tensor, scale: int) -> Tensor:
            z = unsqueeze(z)
            for _ in range(scale):
                z = unsqueeze(torch.cat([z, torch.zeros_like(z)], dim=2))
            return z

        return [
            step.reshaped(partial(there, scale=scale), partial(back, scale=scale))
            for scale, flow in reversed(list(enumerate(self._flows())))
            for step in flow.steps()
        ]

    def normalize(self, values: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map values [S, B, C, H, W] in (0, 1) to normal noise [S, B, D], with ``log|det dz/dx|`` [S, B]."""
        inner = torch.addcmul(values.new_full((), MARGIN), values, values.new_full((), 1 - 2 * MARGIN))
        z = inner.logit()
        # d logit(y) / dy = 1 / (y (1 - y)), and log y = -softplus(-logit y).
        log_derivative = F.softplus(z) + F.softplus(-z) + math.log(1 - 2 * MARGIN)
        total = log_derivative.flatten(2).sum(2)
        parts: list[Tensor] = []
        flows = self._flows()
        for flow, context in zip(flows, self._contexts(labels), strict=True):
            z, log_determinant = flow.inverse(squeeze(z), context)
            total = total + log_determinant
            if flow is not flows[-1]:
                z, left = z.chunk(2, dim=2)
                parts.append(left.flatten(2))
        return torch.cat([*parts, z.flatten(2)], dim=2), total

    def generate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Invert `normalize`: values [S, B, C, H, W], which for samples can lie slightly outside (0, 1)."""
        maps = self.maps(self.shape, len(self.scales))
        sizes = [math.prod(map_shape) // 2 for map_shape in maps]
        sizes[-1] *= 2  # at the last scale, all channels are factored out
        parts = list(z.split(sizes, dim=2))
        channels, height, width = maps[-1]
        values = parts.pop().unflatten(2, (channels, height, width))
        flows = zip(self._flows(), self._contexts(labels), strict=True)
        for index, (flow, context) in reversed(list(enumerate(flows))):
            if index < len(maps) - 1:
                channels, height, width = maps[index]
                left = parts.pop().unflatten(2, (channels // 2, height, width))
                values = torch.cat([values, left], dim=2)
            values = unsqueeze(flow(values, context)[0])
        return (values.sigmoid() - MARGIN) / (1 - 2 * MARGIN)

    def log_density(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        z, log_determinant = self.normalize(values, labels)
        return log_determinant - 0.5 * (z.square() + math.log(2 * math.pi)).sum(2)

    def center(self, images: Tensor, **given: Unpack[Given]) -> Tensor:
        """Compute the normal noise z [B, D] of the centers of the cells of images [B, C, H, W]."""
        self.check(images, **given)
        return self.normalize(self.cell(images, 0.5).unsqueeze(0), given.get("labels"))[0][0]

    def decode(self, codes: Tensor, noise: Noise = None, labels: Tensor | None = None) -> Tensor:
        self.check_codes(codes, math.prod(self.shape))
        self.check_labels(labels, len(codes))
        return self.image(self.generate(codes.unsqueeze(0), labels)[0])

    def path(
        self, first: Tensor, second: Tensor, steps: int, given: tuple[Given, Given] | None = None
    ) -> Tensor:
        """Interpolate on the arc ``cos(a) z_1 + sin(a) z_2``, where z keeps the norm of normal noise.

        (Dinh et al. 2017, section 4.2.) A straight line would pass too close to zero in the middle.
        """
        angles = torch.linspace(0, 0.5 * math.pi, steps, device=first.device).view(-1, 1)
        of_first, of_second = given or (Given(), Given())
        start = self.center(first, **of_first).unsqueeze(1)
        end = self.center(second, **of_second).unsqueeze(1)
        return angles.cos() * start + angles.sin() * end

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        noise: Noise = None,
        temperature: float = 1.0,
        labels: Tensor | None = None,
    ) -> Tensor:
        labels = self.labels_to_sample(num_images, labels, noise, cast(Tensor, self._place))
        z = normal(noise, (num_images, math.prod(self.shape)), cast(Tensor, self._place))
        return self.decode(temperature * z, labels=labels)


@dataclass(frozen=True)
class RealNVPDensityOptions(System):
    """Real NVP as a density of images."""

    name = "realnvp"

    transformations: int = ranged(4, 1, DEEPEST)
    """K, number of transformations per scale"""
    hidden: int = ranged(64, 1, WIDEST)
    """number of channels of the conditioners at the first scale; each further scale adds half as many"""
    blocks: int = ranged(1, 0, DEEPEST)
    """number of residual blocks per conditioner"""
    normalization: Normalization = "weight"
    """normalization inside the conditioners: none, weight, batch or activation normalization"""
    flow_batch_norm: bool = False
    """use batch instead of activation normalization as a flow after each transformation"""
    bounded: bool = True
    """bound the log scale of the affine transformations by tanh"""
    objective: Literal["elbo", "importance-weighted"] = training_only("elbo")
    """bound that training maximizes: mean of the log weights of noise samples, or log of the mean weight"""
    samples: int = ranged(1, 1, MOST, training_only=True)
    """S, number of samples of the dequantization noise per image in training"""
    labels: bool = False
    """make the density that of images given their labels, p(x|y), for data with labels"""

    def build(self, data: DataSpec) -> RealNVPDensity:
        """Build the flow.

        A scale is added as long as height and width stay even and the smaller has 8 pixels or more. Each
        scale has K transformations: they alternate between coupling the fields of a checkerboard and coupling
        even with odd channels, which makes the colours of a pixel depend on each other.
        """
        channels, height, width = data.shape
        height, width = height + height % 2, width + width % 2
        scales = 1
        while min(height, width) >= 8 * 2**scales and not (
            height % 2 ** (scales + 1) or width % 2 ** (scales + 1)
        ):
            scales += 1
        widths = [self.hidden * (2 + index) // 2 for index in range(scales)]
        maps = RealNVPDensity.maps((channels, height, width), scales)
        return RealNVPDensity(
            data.shape,
            [self._scale(channels, wide) for (channels, _, _), wide in zip(maps, widths, strict=True)],
            samples=self.samples,
            importance_weighted=self.objective == "importance-weighted",
            classes=classes_of(data) if self.labels else 0,
        )

    def _scale(self, channels: int, hidden: int) -> Flow:
        couplings = Couplings(
            self.transformations,
            hidden,
            self.normalization,
            bounded=self.bounded,
            context=self.labels,
            blocks=self.blocks,
        )
        flows: list[Flow] = []
        # An image passes through it backwards, so the checkerboard comes first.
        for alternate in reversed([k % 2 == 1 for k in range(self.transformations)]):
            flows += [couplings.convolutional(channels, hidden, swap, alternate) for swap in (False, True)]
            flows.append(BatchNormFlow(channels) if self.flow_batch_norm else ActNorm(channels))
        return Chain(flows)

    def describe(self) -> str:
        given = "; given labels" if self.labels else ""
        return f"Real NVP as a density, K = {self.transformations} at each scale{given}"


PRESETS: dict[str, Config] = {
    f"realnvp-density-{data}": Config(
        DataConfig(data, "none"),
        RealNVPDensityOptions(hidden=hidden),
        TrainingConfig(batch_size=64, learning_rate=1e-3, weight_decay=0.01, validation_images=1000),
    )
    for data, hidden in (("mnist", 64), ("cifar10", 64), ("svhn", 64), ("celeba", 32))
}
