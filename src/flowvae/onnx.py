"""Trained models as ONNX graphs, which run without PyTorch."""

import importlib.util
import logging
import warnings
from pathlib import Path

import torch

from flowvae.errors import UserError
from flowvae.models import Graphed, Model
from flowvae.models.base import Graph, evaluating
from flowvae.runs import replacing

PACKAGES = ("onnx", "onnxscript")


def export_onnx(model: Model, shape: tuple[int, int, int], folder: str | Path) -> list[Path]:
    """Write the graphs of a model into ``folder``, such as ``encoder.onnx`` and ``decoder.onnx``.

    Graphs are deterministic: standard normal ``noise`` is an input, and zeros give the center of a posterior.
    The numbers of samples and images are dynamic, all other sizes fixed. The model's ``graphs``, such as
    `flowvae.models.VAE.graphs`, documents inputs and outputs.

    Args:
        model: the model, exported in ``eval()`` mode and left in its own.
        shape: (C, H, W) of its images.
        folder: directory to write to, created if needed.

    Returns:
        The paths of the files.

    Raises:
        UserError: if a package is missing, or the model cannot be exported as graphs.
    """
    folder = Path(folder)
    absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if absent:
        raise UserError(f"ONNX needs {' and '.join(absent)}; install: pip install 'flowvae[onnx]'")
    if not isinstance(model, Graphed):
        raise UserError(f"a {type(model).__name__} has no graphs for ONNX; use flowvae export --format hub")
    with evaluating(model), torch.no_grad():
        graphs = model.graphs(shape)  # raises before anything is written
        for graph in graphs.values():
            graph.module(*graph.inputs.values())
        folder.mkdir(parents=True, exist_ok=True)
        for name, graph in graphs.items():
            _write(folder / f"{name}.onnx", graph)
    return [folder / f"{name}.onnx" for name in graphs]


def _write(path: Path, graph: Graph) -> None:
    sizes = {name: torch.export.Dim(name) for axes in graph.free for name in axes.values()}
    free = tuple({axis: sizes[name] for axis, name in axes.items()} for axes in graph.free)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about optional packages
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
