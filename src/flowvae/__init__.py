"""Deep generative models whose likelihood can be trusted.

>>> import flowvae
>>> model = flowvae.build_model(flowvae.preset("realnvp-2").model, shape=(1, 28, 28))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowvae.build import build_model
    from flowvae.data import load_dataset
    from flowvae.evaluation import evaluate, log_marginal
    from flowvae.hub import from_pretrained, push_to_hub, save_pretrained
    from flowvae.objectives import elbo, importance_weighted_bound
    from flowvae.onnx import export_onnx
    from flowvae.presets import preset
    from flowvae.runs import load
    from flowvae.training import train

# Imported when first used, so that `flowvae --help` need not wait for torch.
_HOMES = {
    "build_model": "build",
    "elbo": "objectives",
    "evaluate": "evaluation",
    "export_onnx": "onnx",
    "from_pretrained": "hub",
    "importance_weighted_bound": "objectives",
    "load": "runs",
    "load_dataset": "data",
    "log_marginal": "evaluation",
    "preset": "presets",
    "push_to_hub": "hub",
    "save_pretrained": "hub",
    "train": "training",
}

__all__ = [
    "build_model",
    "elbo",
    "evaluate",
    "export_onnx",
    "from_pretrained",
    "importance_weighted_bound",
    "load",
    "load_dataset",
    "log_marginal",
    "preset",
    "push_to_hub",
    "save_pretrained",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowvae' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flowvae.{_HOMES[name]}"), name)
