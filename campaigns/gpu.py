"""What is promised of an accelerator, tried on the one that PyTorch finds; without one, nothing is tried.

Laws of the flows in float32 and float64, training of every preset in float32 and bfloat16 with its speed and
memory, exact resumption, eager code against compiled code and a recorded graph, and a likelihood estimate
against that of the CPU.
"""

import contextlib
import copy
import io
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from campaigns.record import REPOSITORY
from flowvae import devices, runs
from flowvae.config import Config
from flowvae.data import Dataset, load_dataset
from flowvae.evaluation import score
from flowvae.flows import RealNVP
from flowvae.models.registry import PRESETS, preset
from flowvae.training import Callback, TrainingProgress, train
from flowvae.training.checkpoint import FILE as STATE

sys.path.insert(0, str(REPOSITORY / "tests"))  # which has one of every flow

from flow_constructors import FLOWS, context_for, event_of, log_determinant_by_autograd, make

STEPS, WARM_UP = 20, 5  # of training, and before its speed is measured
DTYPES = (torch.float32, torch.float64)
SHAPES: Mapping[str, tuple[int, ...]] = {"mnist": (28, 28), "celeba": (64, 64, 3)}
"""of images by the name of the data; all others are 32 x 32 in colour"""
COMPILED = ("vae", "realnvp-5", "realnvp-density-mnist")
RESUMED = ("vae", "realnvp-5", "density-small", "pixelrnn-diagonal", "realnvp-density-mnist", "gan-mnist")
TRANSFORMATIONS = (5, 20)
SCORED, SAMPLES = 32, 50


def run(tries: int | None = None) -> dict[str, Any] | None:
    """Try everything on the accelerator, with as many training steps as tries [20]; None without one."""
    device = devices.device()
    if device.type == "cpu":
        print("PyTorch finds no accelerator here, so nothing was tried")
        return None
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **tried(device, tries or STEPS),
    }


def tried(
    device: torch.device,
    steps: int,
    presets: Sequence[str] = tuple(PRESETS),
    resumed: Sequence[str] = RESUMED,
    compiled: Sequence[str] = COMPILED,
    flows: Sequence[str] = tuple(FLOWS),
    images: int = SCORED,
) -> dict[str, Any]:
    """Everything, on any device."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        return {
            "laws": [law(name, device, dtype) for name in flows for dtype in DTYPES],
            "training": [
                *(
                    training(name, data, device, steps, precision=precision)
                    for name in presets
                    for precision in ("float32", "bfloat16")
                ),
                *(training(name, data, device, steps, compile=True) for name in compiled),
            ],
            "resuming": [resuming(name, data, device, steps) for name in resumed],
            "chains": [chain(number, device) for number in TRANSFORMATIONS],
            "likelihood": likelihood(load_dataset("mnist", "static"), device, images),
        }


def law(name: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Largest errors of a flow on the device.

    Returns:
        ``value`` against the CPU in float64, of z and log|det|, relative to their largest; ``determinant``
        against autograd's Jacobian; ``inverse``, where there is one.
    """
    exact = make(name).eval()
    torch.manual_seed(1)
    z = torch.randn(2, 2, *event_of(name), dtype=torch.float64)
    context = context_for(name, exact, 2)
    flow = copy.deepcopy(exact).to(device, dtype)
    given = None if context is None else context.to(device, dtype)
    moving = z.to(device, dtype).requires_grad_()
    expected = exact(z, context)
    moved, log_determinant = flow(moving, given)
    found = {
        "value": max(map(_error, (moved, log_determinant), expected)),
        "determinant": _error(log_determinant, log_determinant_by_autograd(moved, moving)),
    }
    if "planar" not in name:  # which has no inverse
        found["inverse"] = _error(flow.inverse(moved.detach(), given)[0], z)
    return {"flow": name, "dtype": str(dtype).removeprefix("torch."), **found}


def _error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value if that is above 1."""
    expected = expected.detach().cpu().double()
    difference = (found.detach().cpu().double() - expected).abs().max()
    return (difference / expected.abs().max().clamp(min=1)).item()


class _Stop(Callback):
    """Stops after some steps, and knows how long the last ones took."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps, self.device, self.began, self.seconds = steps, device, 0.0, float("nan")

    def on_step(self, progress: TrainingProgress) -> bool:
        if progress.step in (WARM_UP, self.steps):
            _wait(self.device)
            self.seconds, self.began = time.perf_counter() - self.began, time.perf_counter()
        return progress.step >= self.steps


def _train(run: Path, config: Config, device: torch.device, stop: _Stop, resume: bool = False) -> None:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        train(run, config, resume, device=str(device), callbacks=[stop])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _config(name: str, data: Path, **options: Any) -> Config:
    """A preset, whose budget does not end before it is stopped, on random images of its data's shape."""
    config = preset(name)
    path = data / f"{config.data.data}.npz"
    if not path.exists():
        shape = SHAPES.get(config.data.data, (32, 32, 3))
        random = np.random.default_rng(0)
        np.savez(path, **dict(_splits(random, shape)))
    return config.revised(data=str(path), minutes=1e4, epochs=None, steps=None, track="none", **options)


def _splits(random: np.random.Generator, shape: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    for split, count in (("train", 1000), ("valid", 64), ("test", 64)):
        yield split, random.integers(0, 256, (count, *shape), dtype=np.uint8)
        yield f"{split}_labels", random.integers(0, 10, count)


def training(name: str, data: Path, device: torch.device, steps: int, **options: Any) -> dict[str, Any]:
    """Train a preset for some steps: images a second after the first few, and an accelerator's memory."""
    config = _config(name, data, **options)
    stop = _Stop(steps, device)
    found: dict[str, Any] = {"preset": name, **options}
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _train(Path(folder) / "run", config, device, stop)
        found["seconds"] = time.perf_counter() - began
    size = min(config.training.batch_size, 1000)
    found["images_per_second"] = (steps - WARM_UP) * size / stop.seconds
    if device.type != "cpu":
        found["peak_megabytes"] = torch.accelerator.max_memory_allocated() / 2**20
    return found


def resuming(name: str, data: Path, device: torch.device, steps: int) -> dict[str, Any]:
    """Train a preset, once unbroken, once stopped half-way and resumed; ``difference`` 0 is bit for bit."""
    config = _config(name, data)
    states = []
    with tempfile.TemporaryDirectory() as folder:
        for stops in ([steps], [steps // 2, steps]):
            path = Path(folder) / f"run-{len(stops)}"
            for number, stop in enumerate(stops):
                _train(path, config, device, _Stop(stop, device), resume=number > 0)
            states.append(torch.load(path / STATE, weights_only=True, map_location="cpu"))
    tensors = [dict(_tensors(state)) for state in states]
    assert tensors[0].keys() == tensors[1].keys(), f"{name}: states of other parts"
    differences = (
        (tensors[0][where].double() - tensors[1][where].double()).abs().max().item()
        for where in tensors[0]
        if tensors[0][where].numel()
    )
    return {"preset": name, "tensors": len(tensors[0]), "difference": max(differences)}


def _tensors(value: Any, where: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, dict | list | tuple):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(each, f"{where}.{name}")


def chain(transformations: int, device: torch.device, repeats: int = 20) -> dict[str, Any]:
    """Milliseconds of a Real NVP chain of D = 40, hidden 128, B = 256, S = 1, forward and backward.

    Eager; on an accelerator also compiled, and on CUDA recorded as a graph.
    """
    eager = RealNVP(40, transformations, 128).to(device)
    z = torch.randn(1, 256, 40, device=device, requires_grad=True)
    candidates: dict[str, Callable[..., Any]] = {"eager": eager}
    if device.type != "cpu":
        candidates["compiled"] = torch.compile(eager)
    if device.type == "cuda":
        candidates["graph"] = torch.cuda.make_graphed_callables(copy.deepcopy(eager), (z,))
    found: dict[str, Any] = {"transformations": transformations}
    for name, flow in candidates.items():
        for turn in range(2 * repeats):
            if turn == repeats:
                _wait(device)
                began = time.perf_counter()
            moved, log_determinant = flow(z)
            (moved.square().sum() - log_determinant.sum()).backward()
        _wait(device)
        found[name] = 1e3 * (time.perf_counter() - began) / repeats
    return found


def likelihood(dataset: Dataset, device: torch.device, images: int = SCORED) -> dict[str, Any]:
    """-log p(x) of static MNIST under the bundled model on the device and on the CPU, with the same noise."""
    model = runs.load("density-mnist")
    chosen = dataset.batch("test", torch.arange(images)).images
    found: dict[str, Any] = {"images": images, "samples": SAMPLES}
    scores = {}
    for name, on in (("cpu", torch.device("cpu")), ("device", device)):
        model.to(on)
        began = time.perf_counter()
        scores[name] = score(model, chosen, SAMPLES, torch.Generator().manual_seed(0))["nll"]
        found[f"{name}_seconds"] = time.perf_counter() - began
        found[f"{name}_nll"] = scores[name].mean().item()
    found["largest_difference"] = (scores["cpu"] - scores["device"]).abs().max().item()
    return found


def table(found: Mapping[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [f"On {found['device']}, PyTorch {found['torch']}.", ""]
    lines += ["| laws of the flows | largest error |", "|---|---:|"]
    for dtype in dict.fromkeys(row["dtype"] for row in found["laws"]):
        rows = [row for row in found["laws"] if row["dtype"] == dtype]
        for what in ("value", "determinant", "inverse"):
            worst = max((row for row in rows if what in row), key=lambda row: row[what], default=None)
            if worst:
                lines.append(f"| {what}, {dtype} | {worst[what]:.1e} (`{worst['flow']}`) |")
    lines += ["", "| preset | precision | images a second | peak memory, MB |", "|---|---|---:|---:|"]
    for row in found["training"]:
        how = "float32, compiled" if row.get("compile") else row["precision"]
        memory = f"{row['peak_megabytes']:,.0f}" if "peak_megabytes" in row else ""
        lines.append(f"| `{row['preset']}` | {how} | {row['images_per_second']:,.0f} | {memory} |")
    lines += ["", "| stopped and resumed | largest difference |", "|---|---:|"]
    lines += [f"| `{row['preset']}` | {row['difference']:.1e} |" for row in found["resuming"]]
    kinds = [kind for kind in ("eager", "compiled", "graph") if kind in found["chains"][0]]
    lines += ["", f"| Real NVP, K | {', ms | '.join(kinds)}, ms |", f"|---:{'|---:' * len(kinds)}|"]
    for row in found["chains"]:
        lines.append(f"| {row['transformations']} | {' | '.join(f'{row[kind]:.2f}' for kind in kinds)} |")
    of = found["likelihood"]
    lines += [
        "",
        f"-log p(x) of {of['images']} images, S = {of['samples']}: {of['device_nll']:.4f} nats in "
        f"{of['device_seconds']:.1f} s, on its CPU {of['cpu_nll']:.4f} in {of['cpu_seconds']:.1f} s; "
        f"the largest difference of an image is {of['largest_difference']:.1e} nats.",
        "",
    ]
    return "\n".join(lines)
