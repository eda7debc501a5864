"""Small models of every system and posterior that compresses."""

import torch
from system_table import TABLE

from flowvae.batch import DataSpec
from flowvae.models import Compressible, Model, Normalizing
from flowvae.models.registry import build_model

SHAPE = (1, 8, 8)
REFUSED = {"vae-vamp-of-maps": "VampPrior"}


def moved(name: str, shape: tuple[int, int, int] = SHAPE) -> Model:
    """A model of the table of systems, with weights away from where they start."""
    row = TABLE[name]
    torch.manual_seed(0)
    spec = DataSpec(shape, levels=2 if row.binary else 256, training_images=100, classes=3)
    model = build_model(row.options_of_system(), spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


NAMES = [
    name
    for name in TABLE
    if isinstance(model := moved(name), Compressible | Normalizing)
    and model.levels is not None
    and not model.conditional
    and name not in REFUSED
]
