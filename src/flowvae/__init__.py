"""Deep generative models whose likelihood can be trusted.

>>> import flowvae
>>> data = flowvae.DataSpec(shape=(1, 28, 28), levels=2)
>>> model = flowvae.build_model(flowvae.preset("realnvp-2").model, data)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowvae.batch import Batch, DataSpec
    from flowvae.config import Config, DataConfig, TrainingConfig
    from flowvae.data import load_dataset
    from flowvae.estimator import FlowVAE
    from flowvae.evaluation import (
        Annealing,
        annealed_importance_sampling,
        classify,
        evaluate,
        log_marginal,
        score,
    )
    from flowvae.hub import from_pretrained, push_to_hub, save_pretrained
    from flowvae.models.base import Model, Update
    from flowvae.models.registry import build_model, preset
    from flowvae.models.vae import vae
    from flowvae.objectives import elbo, importance_weighted_bound
    from flowvae.onnx import export_onnx
    from flowvae.runs import Run, load
    from flowvae.training import Callback, train

    __version__: str

# Imported when first used, so that `flowvae --help` need not wait for torch.
_HOMES = {
    "Annealing": "evaluation",
    "Batch": "batch",
    "Callback": "training",
    "Config": "config",
    "DataConfig": "config",
    "DataSpec": "batch",
    "FlowVAE": "estimator",
    "Model": "models.base",
    "Run": "runs",
    "TrainingConfig": "config",
    "Update": "models.base",
    "annealed_importance_sampling": "evaluation",
    "build_model": "models.registry",
    "classify": "evaluation",
    "elbo": "objectives",
    "evaluate": "evaluation",
    "export_onnx": "onnx",
    "from_pretrained": "hub",
    "importance_weighted_bound": "objectives",
    "load": "runs",
    "load_dataset": "data",
    "log_marginal": "evaluation",
    "preset": "models.registry",
    "push_to_hub": "hub",
    "save_pretrained": "hub",
    "score": "evaluation",
    "train": "training",
    "vae": "models.vae",
}

__all__ = [
    "Annealing",
    "Batch",
    "Callback",
    "Config",
    "DataConfig",
    "DataSpec",
    "FlowVAE",
    "Model",
    "Run",
    "TrainingConfig",
    "Update",
    "annealed_importance_sampling",
    "build_model",
    "classify",
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
    "score",
    "train",
    "vae",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # here, since it takes 10 ms

        return version("flowvae")
    if name not in _HOMES:
        raise AttributeError(f"module 'flowvae' has no attribute {name!r}")
    return getattr(importlib.import_module(f"flowvae.{_HOMES[name]}"), name)
