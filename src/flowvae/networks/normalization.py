"""Normalization inside networks."""

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Normalization = Literal["none", "weight", "batch", "act"]
"""Weight norm (Salimans & Kingma 2016), batch norm (Ioffe & Szegedy 2015), or `ActivationNorm`."""

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def normalized(layer: Layer, normalization: Normalization) -> Layer:
    """The layer with weight norm where that is the ``normalization``; otherwise as it is."""
    if normalization == "weight":
        weight_norm(layer)
    return layer


def zeroed(layer: Layer, normalization: Normalization) -> Layer:
    """The layer, normalized as `normalized` does, that gives zeros at the start."""
    layer = normalized(layer, normalization)
    if normalization == "weight":
        # The norm of every row; its direction stays what it is.
        nn.init.zeros_(layer.get_parameter("parametrizations.weight.original0"))
    else:
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def normalization_layer(normalization: Normalization, features: int, maps: bool = False) -> nn.Module | None:
    """What goes behind a layer of ``features``, or of as many maps, if anything."""
    if normalization == "batch":
        return nn.BatchNorm2d(features) if maps else nn.BatchNorm1d(features)
    return ActivationNorm(features) if normalization == "act" else None


class ActivationNorm(nn.Module):
    """``x * gain + bias`` of every feature, [N, features, ...] (Kingma & Dhariwal 2018, section 3.1).

    Used while ``starting`` is true, it first takes the gain and bias that give what comes out mean 0 and
    variance 1 in each feature; after that they are parameters like any other. The saved buffer
    ``initialized`` says that this has happened.
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
        self.gain.copy_((variance + 1e-6).rsqrt())
        self.bias.copy_(-mean * self.gain)
        self.initialized.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        if self.starting:
            self._start(x)
        places = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(self.bias.view(places), x, self.gain.view(places))
