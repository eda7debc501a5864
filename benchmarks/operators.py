"""Where the time goes: PyTorch's operators in a posterior, a training step and the likelihood estimate."""

import time
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.likelihood import model_and_images
from benchmarks.posteriors import our_step
from benchmarks.timing import Call
from benchmarks.training import step_of
from flowvae.evaluation import bounds
from flowvae.models.posteriors import FlowOptions, PlanarOptions, RealNVPOptions
from flowvae.models.registry import preset

PRECISIONS = {"vae": "float32", "density-small": "bfloat16"}
# What the profiler calls autograd's own bookkeeping, one name for each kind of node.
ENGINE = "autograd::engine"
BOOKKEEPING = "autograd's bookkeeping"
OUTSIDE = "outside operators"


def measure(
    images: int = 256,
    features: int = 64,
    planar: int = 40,
    real_nvp: int = 10,
    presets: Mapping[str, str] = PRECISIONS,
    num_samples: int = 1000,
    calls: int = 20,
    largest: int = 8,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Share of the time of each operator itself, without what it calls, where the other parts have a goal.

    The profiler makes calls of a few microseconds dearer than they are; the shares show what there is, and
    the other parts measure how long it takes.

    Args:
        planar: transformations of the planar posterior.
        real_nvp: transformations of the Real NVP posterior, of two couplings each.
        presets: of training steps, with the precision of each.
        num_samples: of the likelihood estimate.
        largest: how many operators are named; the rest is a sum.
    """
    torch.manual_seed(0)

    def posterior(options: FlowOptions) -> Call:
        return our_step(options, images, features)

    model, few = model_and_images(8)
    profiled: dict[str, Call] = {
        f"planar posterior, K = {planar}": posterior(PlanarOptions(planar)),
        f"Real NVP posterior, K = {real_nvp}, no context": posterior(RealNVPOptions(real_nvp, context=False)),
        **{
            f"training step, {name} in {precision}": step_of(preset(name).revised(precision=precision))
            for name, precision in presets.items()
        },
        f"likelihood estimate, S = {num_samples}": lambda: bounds(model, few, num_samples),
    }
    return {}, {"shares": {name: _shares(call, calls, largest) for name, call in profiled.items()}}


def _shares(call: Call, calls: int, largest: int) -> dict[str, float]:
    """The largest first, then all others together, and what is no operator, Python above all."""
    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        total = 1e6 * (time.perf_counter() - began)
    microseconds: dict[str, float] = {}
    for event in profiler.key_averages():
        name = BOOKKEEPING if event.key.startswith(ENGINE) else event.key.removeprefix("aten::")
        microseconds[name] = microseconds.get(name, 0.0) + cast(float, event.self_cpu_time_total)
    ordered = sorted(microseconds.items(), key=lambda item: -item[1])
    shares = {name: value / total for name, value in ordered[:largest]}
    shares["all others"] = sum(value for _, value in ordered[largest:]) / total
    shares[OUTSIDE] = 1 - sum(microseconds.values()) / total
    return shares
