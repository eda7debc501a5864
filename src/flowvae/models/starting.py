"""The start that layers take from data."""

import torch
from torch import Tensor, nn

IMAGES = 256


@torch.no_grad()
def start_from_data(model: nn.Module, images: Tensor) -> None:
    """Let all parts of ``model`` that have a ``starting`` take their start from a few images [N, C, H, W].

    The images go through the model once, so that each part sees what the parts before it make of them.
    """
    parts = [module for module in model.modules() if hasattr(module, "starting")]
    if not parts:
        return
    for part in parts:
        part.starting = True  # type: ignore[assignment]  # a bool, and no module
    try:
        model(images[:IMAGES])
    finally:
        for part in parts:
            part.starting = False  # type: ignore[assignment]  # a bool, and no module
