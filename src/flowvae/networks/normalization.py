"""Normalization inside networks."""

from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import weight_norm

from flowvae.errors import UserError
from flowvae.shares import current, var_mean, whole_of

Normalization = Literal["none", "weight", "batch", "act"]
"""Weight norm (Salimans & Kingma 2016), batch norm (Ioffe & Szegedy 2015), or `ActivationNorm`."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def normalized(layer: Layer, normalization: Normalization) -> Layer:
    """Add weight norm to the layer if that is the ``normalization``."""
    if normalization == "weight":
        weight_norm(layer)
    return layer


def zeroed(layer: Layer, normalization: Normalization) -> Layer:
    """Apply `normalized`, and initialize the layer such that its outputs are zero."""
    layer = normalized(layer, normalization)
    if normalization == "weight":
        # The norm of every row; its direction is left random.
        nn.init.zeros_(layer.get_parameter("parametrizations.weight.original0"))
    else:
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def normalization_layer(normalization: Normalization, features: int, maps: bool = False) -> nn.Module | None:
    """Make the module to put after a layer of ``features``, which are channels if ``maps``; None for none."""
    if normalization == "batch":
        return BatchNorm(features)
    return ActivationNorm(features) if normalization == "act" else None


class BatchNorm(_BatchNorm):
    """`torch.nn.BatchNorm1d`, and that of maps, with the statistics of the whole batch in every process."""

    def _check_input_dim(self, input: Tensor) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [N, features, ...].

        Raises:
            UserError: in training mode, if each feature has a single value, which does not vary.
        """
        number = whole_of(input[:, 0].numel())
        if self.training and number == 1:
            raise UserError(
                "batch norm cannot be trained with one image per step; choose a larger --batch-size, give "
                "more images, or choose another --normalization"
            )
        if current() is None or not self.training:
            return super().forward(input)
        variance, mean = var_mean(input, (0, *range(2, input.ndim)))
        with torch.no_grad():
            for running, value in (
                (self.running_mean, mean),
                (self.running_var, variance * (number / (number - 1))),
            ):
                cast(Tensor, running).lerp_(value, cast(float, self.momentum))
            cast(Tensor, self.num_batches_tracked).add_(1)
        places = (-1, *[1] * (input.ndim - 2))
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul((self.bias - mean * scale).view(places), input, scale.view(places))


class ActivationNorm(nn.Module):
    """``x * gain + bias`` per feature, [N, features, ...] (Kingma & Dhariwal 2018, section 3.1).

    Each use while ``starting`` is true first sets gain and bias such that the output has mean 0 and variance
    1 in each feature, and sets the saved buffer ``initialized``. After that they are ordinary parameters. A
    feature whose standard deviation is below 0.001, as with a single image, is only shifted.
    """

    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialized", torch.tensor(False))
        self.starting = False

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        variance, mean = torch.var_mean(x, dim=(0, *range(2, x.ndim)), correction=0)
        self.gain.copy_((torch.where(variance > 1e-6, variance, 1.0) + 1e-6).rsqrt())
        self.bias.copy_(-mean * self.gain)
        self.initialized.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        if self.starting:
            self._start(x)
        places = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.bias.view(places), x, self.gain.view(places))
