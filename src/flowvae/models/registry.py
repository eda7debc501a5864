"""The list of systems, and their named experiments."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from flowvae.batch import DataSpec
from flowvae.config import Config, System
from flowvae.errors import UserError, check_range, checked_shape, did_you_mean, quoted
from flowvae.memory import lacks_memory
from flowvae.models import (
    bayesian_gan,
    gan,
    glo,
    pixel_cnn,
    pixel_rnn,
    real_nvp,
    semi_supervised,
    vae,
)
from flowvae.models.base import Model
from flowvae.parts import MOST

MOST_PARAMETERS = 2**30  # 4 GiB of weights; training takes five times as much
_TOO_LARGE = (
    f"the model has more than {MOST_PARAMETERS:,} parameters, or does not fit into memory; make it smaller"
)

_ALL = (  # one line per system: its options and its presets
    (vae.VAEOptions, vae.PRESETS),
    (pixel_cnn.PixelCNNOptions, pixel_cnn.PRESETS),
    (pixel_rnn.PixelRNNOptions, pixel_rnn.PRESETS),
    (real_nvp.RealNVPDensityOptions, real_nvp.PRESETS),
    (gan.GANOptions, gan.PRESETS),
    (bayesian_gan.BayesianGANOptions, bayesian_gan.PRESETS),
    (glo.GLOOptions, glo.PRESETS),
    (semi_supervised.SemiSupervisedOptions, semi_supervised.PRESETS),
)
SYSTEMS: dict[str, type[System]] = {options.name: options for options, _ in _ALL}
PRESETS: dict[str, Config] = {name: config for _, presets in _ALL for name, config in presets.items()}


def preset(name: str) -> Config:
    """Return the experiment ``name``.

    >>> preset("realnvp-5").model.posterior.transformations
    5
    """
    if name not in PRESETS:
        raise UserError(f"no preset {quoted(name)}; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def is_registered(options: System) -> bool:
    """Whether ``options`` are of one of flowvae's systems, which runs find by name."""
    return SYSTEMS.get(options.name) is type(options)


def build_model(options: System, data: DataSpec) -> Model:
    """Build the model that ``options`` describe for this data, initialized from torch's generator.

    >>> model = build_model(preset("realnvp-2").model, DataSpec((1, 28, 28)))

    Raises:
        UserError: if the networks do not accept images of this shape, the model is too large, or the data's
            shape or number of levels is none.
    """
    data = data._replace(shape=checked_shape(data.shape))
    if data.levels is not None:
        check_range("levels", data.levels, 2, MOST)
    with _refusing_too_large():
        model = options.build(data)
    model.image_shape = data.shape
    # The fastest memory format for convolutions on a CPU.
    return nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)


@contextmanager
def _refusing_too_large() -> Iterator[None]:
    """Count the parameters of modules built inside, and stop before too many are allocated."""
    total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal total
        total += parameter.numel()
        if total > MOST_PARAMETERS:
            raise UserError(_TOO_LARGE)

    counting = register_module_parameter_registration_hook(count)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise UserError(_TOO_LARGE) from error
    finally:
        counting.remove()
