"""Trained models as ONNX graphs, which run where there is no PyTorch."""

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowvae.errors import UserError
from flowvae.models import VAE
from flowvae.runs import replacing

PACKAGES = ("onnx", "onnxscript")
# What else draws: other noise, or normal noise that could be more than what is given.
OTHER_DRAWS = {
    torch.bernoulli,
    torch.binomial,
    torch.multinomial,
    torch.poisson,
    torch.rand,
    torch.rand_like,
    torch.randint,
    torch.randint_like,
    torch.randn_like,
    torch.randperm,
    Tensor.bernoulli,
    Tensor.bernoulli_,
    Tensor.cauchy_,
    Tensor.exponential_,
    Tensor.geometric_,
    Tensor.log_normal_,
    Tensor.multinomial,
    Tensor.normal_,
    Tensor.random_,
    Tensor.uniform_,
}


class GivenNoise(TorchFunctionMode):
    """Inside, a draw of standard normal noise is ``noise``: what was random becomes an input.

    A draw from a normal distribution is its mean plus its scale times the noise. Any other draw is refused.

    >>> with GivenNoise(torch.tensor([2.0])):
    ...     torch.normal(torch.tensor([10.0]), torch.tensor([0.5]))
    tensor([11.])
    """

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def __torch_function__(self, function, types, arguments=(), options=None) -> Any:
        if function is torch.randn:
            return self.noise
        if function is torch.normal:
            mean, scale = arguments
            return mean + scale * self.noise
        if function in OTHER_DRAWS:
            raise UserError(
                f"the model draws with {function.__name__}, and a graph takes standard normal noise alone; "
                "use the model from Python"
            )
        return function(*arguments, **(options or {}))


class _Encoder(nn.Module):
    """Images [B, C, H, W] and noise [S, B, D] to z [S, B, D] and log q(z|x) [S, B]."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with GivenNoise(noise):
            return self.vae.posterior(self.vae.encoder(images), noise.shape[0])


class _Decoder(nn.Module):
    """Codes [S, B, D] to mean images [S, B, C, H, W]."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        with GivenNoise(torch.zeros_like(z)):  # a mean needs none
            return self.vae.decode(z).mean


class _Sampler(nn.Module):
    """Noise [N, D] to mean images [N, C, H, W] for the codes that the prior makes of it."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, noise: Tensor) -> Tensor:
        with GivenNoise(noise.unsqueeze(0)):
            return self.vae.sample(noise.shape[0])


def export_onnx(model: VAE, shape: tuple[int, int, int], folder: Path) -> list[Path]:
    """Write ``encoder.onnx``, ``decoder.onnx`` and ``sampler.onnx`` into ``folder``.

    - encoder: ``images`` [B, C, H, W] and ``noise`` [S, B, D] to ``z`` [S, B, D], a draw from q(z|x), and
      ``log_posterior`` [S, B], log q(z|x) in nats;
    - decoder: ``z`` [S, B, D] to ``images`` [S, B, C, H, W], the means of p(x|z);
    - sampler: ``noise`` [N, D] to ``images`` [N, C, H, W], the means of p(x|z) for z from the prior.

    A graph draws nothing: ``noise`` is standard normal and comes from who runs it. Noise of zeros gives the
    encoder's center. S, B and N are free, the other sizes are the model's.

    Args:
        model: in ``eval()`` mode afterwards.
        shape: (C, H, W) of its images.
        folder: made where it is not there.

    Returns:
        The three files.

    Raises:
        UserError: a package is missing, or the model draws with other noise.
    """
    absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if absent:
        raise UserError(f"ONNX needs {' and '.join(absent)}; install: pip install 'flowvae[onnx]'")
    model.eval()
    # Sizes of 2 and more: torch.export takes a size of 1 for one that never changes.
    images = torch.zeros(3, *shape, device=next(model.parameters()).device)
    with torch.no_grad():
        z = model.encode(images, num_samples=2)
    samples, batch = torch.export.Dim("S"), torch.export.Dim("B")
    codes = {0: samples, 1: batch}
    graphs: list[tuple[nn.Module, dict[str, Tensor], Sequence[Any], list[str]]] = [
        (_Encoder(model), {"images": images, "noise": z}, ({0: batch}, codes), ["z", "log_posterior"]),
        (_Decoder(model), {"z": z}, (codes,), ["images"]),
        (_Sampler(model), {"noise": z[0]}, ({0: batch},), ["images"]),
    ]
    with torch.no_grad():
        for graph, inputs, _, _ in graphs:
            graph(*inputs.values())  # refuses before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.onnx" for name in ("encoder", "decoder", "sampler")]
    for file, graph in zip(files, graphs, strict=True):
        _write(file, *graph)
    return files


def _write(
    path: Path, graph: nn.Module, inputs: dict[str, Tensor], sizes: Sequence[Any], outputs: list[str]
) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of packages that nobody asked for
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=tuple(sizes),
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    with replacing(path) as partial:
        partial.write_bytes(program.model_proto.SerializeToString())
