"""Planar posteriors: ours against the loop over transformations that other libraries have."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import normflows
import torch
import torch.nn.functional as F
from pyro.distributions.transforms.planar import ConditionalPlanar, ConditionedPlanar
from pyro.distributions.transforms.planar import Planar as PyroPlanar
from pythae.models.normalizing_flows import PlanarFlow, PlanarFlowConfig
from torch import Tensor, nn

from benchmarks.posteriors import PeerPosterior, gradient_step, moved, our_posterior
from benchmarks.timing import Call, by_turns, milliseconds
from flowvae.densities import FlowPosterior, GaussianPosterior
from flowvae.flows import Planar
from flowvae.models.posteriors import PlanarOptions

OURS = "flowvae"
TEXTBOOK = "textbook loop, plain PyTorch"  # nobody's library: a reference, no peer
SHIFT = math.log(math.e - 1)


def measure(
    dimension: int = 40,
    transformations: int = 40,
    images: int = 256,
    features: tuple[int, ...] = (64, 256),
    samples: int = 50,
    repeats: int = 30,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Forward and backward with one sample, amortized; the first of the ``features`` is the headline.

    One linear layer turns the features into the parameters of all transformations, in every candidate. With
    many features that product, the same for all, is most of the time, so the headline has few.
    """
    torch.manual_seed(0)
    amortized = {
        count: _compare(_amortized(count, dimension, transformations), count, images, repeats)
        for count in features
    }
    shared = _compare(_shared(features[0], dimension, transformations), features[0], images, repeats)
    details = {
        "dimension": dimension,
        "transformations": transformations,
        "images": images,
        "samples": 1,
        "amortized": {f"{count} features": result for count, result in amortized.items()},
        "shared": shared,
        "relative_error": relative_errors(features[0], dimension, transformations, min(images, 64)),
        "many_samples": {
            f"{count} images": _many_samples(features[0], dimension, transformations, count, samples, repeats)
            for count in (1, images)
        },
    }
    return {"planar_speedup": amortized[features[0]]["speedup"]}, details


def _compare(candidates: dict[str, nn.Module], features: int, images: int, repeats: int) -> dict[str, Any]:
    given = torch.randn(images, features)
    seconds = by_turns({name: gradient_step(c, given) for name, c in candidates.items()}, repeats)
    peers = {name: value for name, value in seconds.items() if name not in (OURS, TEXTBOOK)}
    fastest = min(peers, key=lambda name: peers[name])
    return {
        "speedup": peers[fastest] / seconds[OURS],
        "fastest_peer": fastest,
        "milliseconds": milliseconds(seconds),
    }


def _amortized(features: int, dimension: int, transformations: int) -> dict[str, nn.Module]:
    made = {
        OURS: ours(features, dimension, transformations),
        "Pyro ConditionalPlanar": PeerPosterior(
            features, dimension, PyroConditional(features, dimension, transformations)
        ),
        "Pyro ConditionedPlanar, one product for all parameters": PeerPosterior(
            features, dimension, PyroConditioned(features, dimension, transformations)
        ),
        TEXTBOOK: Textbook(ours(features, dimension, transformations)),
    }
    return {name: moved(candidate) for name, candidate in made.items()}


def _shared(features: int, dimension: int, transformations: int) -> dict[str, nn.Module]:
    """Parameters that all images share: what normflows and pythae have."""
    made = {
        OURS: FlowPosterior(
            GaussianPosterior(features, dimension), Planar(dimension, transformations), features
        ),
        "Pyro Planar": PeerPosterior(features, dimension, PyroShared(dimension, transformations)),
        "normflows Planar": PeerPosterior(features, dimension, Normflows(dimension, transformations)),
        "pythae PlanarFlow": PeerPosterior(features, dimension, Pythae(dimension, transformations)),
    }
    return {name: moved(candidate) for name, candidate in made.items()}


def ours(features: int, dimension: int, transformations: int) -> FlowPosterior:
    return cast(FlowPosterior, our_posterior(PlanarOptions(transformations), features, dimension))


class LinearParameters(nn.Linear):
    """The conditioning network of one of Pyro's transformations: bias, u and w, linear in the features."""

    def __init__(self, features: int, dimension: int) -> None:
        super().__init__(features, 1 + 2 * dimension)
        self.sizes = [1, dimension, dimension]

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        return super().forward(input).split(self.sizes, dim=-1)


class PyroConditional(nn.Module):
    """As Pyro's documentation composes conditional transforms, each with its own network."""

    def __init__(self, features: int, dimension: int, transformations: int) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(
            ConditionalPlanar(LinearParameters(features, dimension)) for _ in range(transformations)
        )

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return in_order([cast(ConditionalPlanar, t).condition(features) for t in self.transforms], z)


class PyroConditioned(nn.Module):
    """Pyro's transform with parameters that are there already, all of them from one product."""

    def __init__(self, features: int, dimension: int, transformations: int) -> None:
        super().__init__()
        self.parameters_of_all = nn.Linear(features, transformations * (1 + 2 * dimension))
        self.sizes = [1, dimension, dimension] * transformations

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.parameters_of_all(features).split(self.sizes, dim=-1)
        return in_order([ConditionedPlanar(parts[i : i + 3]) for i in range(0, len(parts), 3)], z)


class PyroShared(nn.Module):
    def __init__(self, dimension: int, transformations: int) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(PyroPlanar(dimension) for _ in range(transformations))

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return in_order(list(self.transforms), z)


def in_order(transforms: list[Any], z: Tensor) -> tuple[Tensor, Tensor]:
    """A composition of torch's transforms, with the log-determinants that they cache in the call."""
    total = z.new_zeros(z.shape[:-1])
    for transform in transforms:
        after = transform(z)
        total = total + transform.log_abs_det_jacobian(z, after)
        z = after
    return z, total


class Normflows(nn.Module):
    def __init__(self, dimension: int, transformations: int) -> None:
        super().__init__()
        flows = [normflows.flows.Planar((dimension,)) for _ in range(transformations)]
        self.flows = normflows.NormalizingFlow(None, flows)

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        moved, log_determinant = self.flows.forward_and_log_det(z.flatten(0, 1))
        return moved.view_as(z), log_determinant.view(z.shape[:2])


class Pythae(nn.Module):
    """The loop of pythae's VAE_LinNF."""

    def __init__(self, dimension: int, transformations: int) -> None:
        super().__init__()
        config = PlanarFlowConfig(input_dim=(dimension,), activation="tanh")
        self.net = nn.ModuleList(PlanarFlow(config) for _ in range(transformations))

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        shape, z = z.shape, z.flatten(0, 1)
        total = z.new_zeros(len(z))
        for layer in self.net:
            output = layer(z)
            z, total = output.out, total + output.log_abs_det_jac
        return z.view(shape), total.view(shape[:2])


class Textbook(nn.Module):
    """Rezende & Mohamed 2015, equations 10 to 12 and appendix A.1, one transformation after the other."""

    def __init__(self, same: FlowPosterior) -> None:
        super().__init__()
        self.same = same

    def forward(self, features: Tensor, num_samples: int = 1) -> tuple[Tensor, Tensor]:
        z, log_density = self.same.base(features, num_samples)
        z, log_determinant = textbook(self.same, features, z)
        return z, log_density - log_determinant


def textbook(same: FlowPosterior, features: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The flow of ``same``, from its parameters alone: ``z_K`` and ``log|det|`` for z [S, B, D]."""
    flow, context = cast(Planar, same.flow), cast(nn.Linear, same.context)
    all_w, all_u, all_b = flow.separate(flow.parameters_of_all + context(features))
    total = z.new_zeros(z.shape[:2])
    for w, u, b in zip(all_w.unbind(1), all_u.unbind(1), all_b.split(1, dim=1), strict=True):
        product = (w * u).sum(1, keepdim=True)
        u = u + (F.softplus(product + SHIFT) - 1 - product) * w / w.square().sum(1, keepdim=True)
        h = torch.tanh((w * z).sum(2, keepdim=True) + b)
        total = total + (1 + (u * (1 - h.square()) * w).sum(2)).abs().log()
        z = z + u * h
    return z, total


def relative_errors(
    features: int, dimension: int, transformations: int, images: int
) -> dict[str, dict[str, float]]:
    """Float32 against the textbook in float64: the largest error of a tensor over its largest number.

    The loop in float32 stands beside it: what it loses is lost by the map and not by the way of computing it.
    Steeper maps than these, of 40 transformations, magnify rounding until both lose their digits.
    """
    model = cast(FlowPosterior, moved(ours(features, dimension, transformations), by=0.03))
    z, given = torch.randn(1, images, dimension), torch.randn(images, features)
    weights = torch.randn_like(z), torch.randn(1, images)

    def values_and_gradients(model: FlowPosterior, flow: Callable, dtype: torch.dtype) -> list[list[Tensor]]:
        inputs = [z.to(dtype).requires_grad_(), given.to(dtype).requires_grad_()]
        values = flow(model, inputs[1], inputs[0])
        loss = sum((w.to(dtype) * value).sum() for w, value in zip(weights, values, strict=True))
        parameters = [*model.flow.parameters(), *cast(nn.Linear, model.context).parameters()]
        return [list(values), list(torch.autograd.grad(cast(Tensor, loss), [*inputs, *parameters]))]

    exact = values_and_gradients(deepcopy(model).double(), textbook, torch.float64)
    errors = {}
    for name, flow in ((OURS, _flow_of), (TEXTBOOK, textbook)):
        single = values_and_gradients(model, flow, torch.float32)
        errors[name] = {
            "values": _largest_error(single[0], exact[0]),
            "gradients": _largest_error(single[1], exact[1]),
        }
    return errors


def _flow_of(posterior: FlowPosterior, features: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    return posterior.flow(z, cast(nn.Linear, posterior.context)(features))


def _largest_error(single: list[Tensor], exact: list[Tensor]) -> float:
    return max(
        ((mine - right).abs().max() / right.abs().max()).item()
        for mine, right in zip(single, exact, strict=True)
    )


def _many_samples(
    features: int, dimension: int, transformations: int, images: int, samples: int, repeats: int
) -> dict[str, float]:
    model, given = moved(ours(features, dimension, transformations)), torch.randn(images, features)
    calls: dict[str, Call] = {f"S = {s}": gradient_step(model, given, s) for s in (1, samples)}
    seconds = by_turns(calls, max(1, repeats // 3))
    one, many = seconds.values()
    return {**milliseconds(seconds), "ratio": many / one, "samples": samples}
