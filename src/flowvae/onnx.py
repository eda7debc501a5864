"""Trained models as ONNX graphs, which run where there is no PyTorch."""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from flowvae.errors import UserError
from flowvae.models import Graphed, Model
from flowvae.models.base import Graph, evaluating
from flowvae.runs import replacing

PACKAGES = ("onnx", "onnxscript")


def export_onnx(model: Model, shape: tuple[int, int, int], folder: Path) -> list[Path]:
    """Write the graphs of a model into ``folder``, such as ``encoder.onnx`` and ``decoder.onnx``.

    A graph draws nothing: ``noise`` is standard normal and comes from who runs it. Noise of zeros gives the
    center of a posterior. Numbers of samples and images are free, the other sizes are the model's. What the
    graphs of a model take and give: its ``graphs``, such as `flowvae.models.VAE.graphs`.

    Args:
        model: exported in ``eval()`` mode, and left as it was.
        shape: (C, H, W) of its images.
        folder: made where it is not there.

    Returns:
        The files.

    Raises:
        UserError: a package is missing, or the model cannot be written as graphs.
    """
    absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if absent:
        raise UserError(f"ONNX needs {' and '.join(absent)}; install: pip install 'flowvae[onnx]'")
    if not isinstance(model, Graphed):
        raise UserError(
            f"a {type(model).__name__} has no graphs for ONNX; export --format hub keeps the model"
        )
    with evaluating(model), torch.no_grad():
        graphs = model.graphs(shape)  # refuses before anything is written
        for graph in graphs.values():
            graph.module(*graph.inputs.values())
        folder.mkdir(parents=True, exist_ok=True)
        for name, graph in graphs.items():
            _write(folder / f"{name}.onnx", graph)
    return [folder / f"{name}.onnx" for name in graphs]


def _write(path: Path, graph: Graph) -> None:
    sizes: dict[str, Any] = {}

    def dimension(name: str) -> Any:
        return sizes.setdefault(name, torch.export.Dim(name))

    free = tuple({axis: dimension(name) for axis, name in axes.items()} for axes in graph.free)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of packages that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module,
                tuple(graph.inputs.values()),
                input_names=list(graph.inputs),
                output_names=graph.outputs,
                dynamic_shapes=free,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    with replacing(path) as partial:
        partial.write_bytes(program.model_proto.SerializeToString())
