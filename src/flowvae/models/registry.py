"""The systems that there are, and their named experiments."""

import torch
from torch import nn

from flowvae.batch import DataSpec
from flowvae.config import Config, System
from flowvae.errors import UserError, did_you_mean
from flowvae.models import pixel_cnn, real_nvp, vae
from flowvae.models.base import Model

_ALL = (  # one line a system: its options, and its presets
    (vae.VAEOptions, vae.PRESETS),
    (pixel_cnn.PixelCNNOptions, pixel_cnn.PRESETS),
    (real_nvp.RealNVPDensityOptions, real_nvp.PRESETS),
)
SYSTEMS: dict[str, type[System]] = {options.name: options for options, _ in _ALL}
PRESETS: dict[str, Config] = {name: config for _, presets in _ALL for name, config in presets.items()}


def preset(name: str) -> Config:
    """The experiment ``name``.

    >>> preset("realnvp-5").model.posterior.transformations
    5
    """
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def build_model(options: System, data: DataSpec) -> Model:
    """The model that ``options`` describe for such data, initialized from torch's generator.

    >>> model = build_model(preset("realnvp-2").model, DataSpec((1, 28, 28)))
    """
    model = options.build(data)
    # What convolutions on a CPU like best.
    return nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
