"""Initialization of layers from data."""

import torch
from torch import Tensor, nn

from flowvae.batch import labelled

IMAGES = 256


@torch.no_grad()
def start_from_data(model: nn.Module, images: Tensor) -> None:
    """Initialize all modules in ``model`` that have a ``starting`` from a few images [N, C, H, W].

    The images pass through the model once, so that each module sees the outputs of those before it. Labels
    have no effect on a new model, so any label will do.
    """
    images = images[:IMAGES]
    labels = None
    if getattr(model, "conditional", False):
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    parts = [module for module in model.modules() if hasattr(module, "starting")]
    if not parts:
        return
    for part in parts:
        part.starting = True  # type: ignore[assignment]  # a bool, and no module
    try:
        model(images, **labelled(labels))
    finally:
        for part in parts:
            part.starting = False  # type: ignore[assignment]  # a bool, and no module
