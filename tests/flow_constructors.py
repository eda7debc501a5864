"""Every flow, small, with parameters away from the identity: the table that the laws run over."""

import itertools
import math
from collections.abc import Callable

import torch

from flowvae.flows import (
    ActNorm,
    AffineCoupling,
    BatchNormFlow,
    Chain,
    Checkerboard,
    Flattened,
    Flow,
    InverseAutoregressive,
    Planar,
    RealNVP,
)
from flowvae.models.couplings import CodeShape
from flowvae.models.posteriors import (
    FlowOptions,
    InverseAutoregressiveOptions,
    PlanarOptions,
    RealNVPOptions,
)
from flowvae.networks import ConvolutionalConditioner, Dense, MaskedDense

DIMENSION = 5
MAPS = (4, 2, 4)  # channels, height, width: what flows whose names begin with "maps" transform
FLAT = "flat-maps"  # these, as vectors
HIDDEN = 7
MAPS_HIDDEN = 4


def coupling(swap: bool = False, bounded: bool = True, **dense) -> Flow:
    moved = AffineCoupling.transformed_features(DIMENSION, swap)
    return AffineCoupling(Dense(DIMENSION - moved, HIDDEN, 2 * moved, **dense), DIMENSION, swap, bounded)


def coupling_of_maps(
    channels: int = MAPS[0], swap: bool = False, alternate: bool = False, **convolutional
) -> Flow:
    half = channels // 2
    conditioner = ConvolutionalConditioner(half, MAPS_HIDDEN, 2 * half, **convolutional)
    return AffineCoupling(conditioner, channels, swap, alternate=alternate)


def autoregressive(**masked) -> Flow:
    return InverseAutoregressive(MaskedDense(DIMENSION, HIDDEN, **masked), DIMENSION)


def built(options: FlowOptions) -> Flow:
    """The flow that a posterior's options describe."""
    return options.flow(CodeShape(DIMENSION), blocks=1)


def built_of_maps(options: FlowOptions) -> Flow:
    """The same for codes that are maps."""
    return options.flow(CodeShape(MAPS[0], MAPS[1:]), blocks=1)


FLOWS: dict[str, Callable[[], Flow]] = {
    "planar": lambda: Planar(DIMENSION, 1),
    "planar-11": lambda: Planar(DIMENSION, 11),
    "planar-11-amortized": lambda: Planar(DIMENSION, 11, amortized=True),
    "coupling": coupling,
    "coupling-swapped": lambda: coupling(swap=True),
    "coupling-unbounded": lambda: coupling(bounded=False),
    "coupling-context": lambda: coupling(context=True),
    "coupling-weight-norm": lambda: coupling(context=True, normalization="weight"),
    "coupling-batch-norm": lambda: coupling(context=True, normalization="batch"),
    "autoregressive": autoregressive,
    "autoregressive-reversed": lambda: autoregressive(reverse=True),
    "autoregressive-context": lambda: autoregressive(context=True),
    "batch-norm": lambda: BatchNormFlow(DIMENSION),
    "chain": lambda: Chain([coupling(context=True), coupling(swap=True), BatchNormFlow(DIMENSION)]),
    "real-nvp": lambda: RealNVP(DIMENSION, 3, HIDDEN),
    "real-nvp-unbounded": lambda: RealNVP(DIMENSION, 1, HIDDEN, context=True, bounded=False),
    "real-nvp-weight-norm": lambda: RealNVP(DIMENSION, 2, HIDDEN, context=True, weight_norm=True),
    "realnvp-3": lambda: built(RealNVPOptions(3, hidden=HIDDEN)),
    "realnvp-3-batch-norm": lambda: built(RealNVPOptions(3, hidden=HIDDEN, flow_batch_norm=True)),
    "iaf-3": lambda: built(InverseAutoregressiveOptions(3, hidden=HIDDEN)),
    "planar-4": lambda: built(PlanarOptions(4)),
    "act-norm": lambda: ActNorm(DIMENSION),
    "coupling-act-norm": lambda: coupling(context=True, normalization="act"),
    "maps-coupling": coupling_of_maps,
    "maps-coupling-alternate": lambda: coupling_of_maps(alternate=True),
    "maps-coupling-alternate-swapped": lambda: coupling_of_maps(alternate=True, swap=True),
    "maps-coupling-context": lambda: coupling_of_maps(context=True, blocks=0),
    "maps-coupling-weight-norm": lambda: coupling_of_maps(normalization="weight"),
    "maps-coupling-batch-norm": lambda: coupling_of_maps(context=True, normalization="batch"),
    "maps-coupling-act-norm": lambda: coupling_of_maps(context=True, normalization="act"),
    "maps-checkerboard": lambda: Checkerboard(coupling_of_maps(4 * MAPS[0])),
    "maps-checkerboard-context": lambda: Checkerboard(
        coupling_of_maps(4 * MAPS[0], swap=True, context=True, normalization="weight")
    ),
    "maps-act-norm": lambda: ActNorm(MAPS[0]),
    "maps-batch-norm": lambda: BatchNormFlow(MAPS[0]),
    "flat-maps-act-norm": lambda: Flattened(ActNorm(MAPS[0]), MAPS),
    "flat-maps-realnvp-3": lambda: built_of_maps(RealNVPOptions(3, hidden=MAPS_HIDDEN)),
    "flat-maps-realnvp-2-weight-norm": lambda: built_of_maps(
        RealNVPOptions(2, hidden=MAPS_HIDDEN, normalization="weight")
    ),
    "flat-maps-realnvp-1-batch-norm": lambda: built_of_maps(
        RealNVPOptions(1, hidden=MAPS_HIDDEN, flow_batch_norm=True, context=False)
    ),
    "maps-chain": lambda: Chain(
        [
            Checkerboard(coupling_of_maps(4 * MAPS[0], context=True)),
            ActNorm(MAPS[0]),
            coupling_of_maps(context=True),
        ]
    ),
}


def event_of(name: str) -> tuple[int, ...]:
    """The shape of what the flow transforms."""
    if name.startswith(FLAT):
        return (math.prod(MAPS),)
    return MAPS if name.startswith("maps") else (DIMENSION,)


def make(name: str) -> Flow:
    """The flow in float64, every parameter and buffer moved at random, and used once in training mode."""
    torch.manual_seed(0)
    flow = FLOWS[name]().double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        flow.train()
        event = event_of(name)
        flow(torch.randn(3, 50, *event, dtype=torch.float64) * 2 + 1, context_for(name, flow, 50))
    return flow


def context_for(name: str, flow: Flow, images: int) -> torch.Tensor | None:
    if not flow.context_features:
        return None
    places = MAPS[1:] if "maps" in name else ()
    return torch.randn(images, flow.context_features, *places, dtype=torch.float64)


def log_determinant_by_autograd(moved: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """log|det d moved/d z| [S, B], from the Jacobian of each sample of each image."""
    moved = moved.flatten(2)
    jacobian = torch.zeros(*moved.shape, moved.shape[2], dtype=z.dtype, device=z.device)
    for s, b, i in itertools.product(*map(range, moved.shape)):
        gradient = torch.autograd.grad(moved[s, b, i], z, retain_graph=True)[0]
        jacobian[s, b, i] = gradient[s, b].flatten()
    return torch.linalg.slogdet(jacobian)[1]
