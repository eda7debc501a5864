"""Real NVP posteriors: ours against other libraries' coupling layers, and against the products alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import normflows
import torch
from nflows.nn import nets
from nflows.transforms import AffineCouplingTransform, CompositeTransform
from pyro.distributions.transforms import AffineCoupling, ConditionalAffineCoupling, Permute
from pyro.nn import ConditionalDenseNN, DenseNN
from torch import Tensor, nn
from zuko.flows import GeneralCouplingTransform
from zuko.lazy import LazyComposedTransform

from benchmarks.posteriors import PeerPosterior, gradient_step, moved, our_posterior
from benchmarks.timing import Call, by_turns, milliseconds
from flowvae.models.posteriors import RealNVPOptions

OURS = "flowvae"
PRODUCTS = "matrix products alone"


def measure(
    dimension: int = 40,
    transformations: tuple[int, ...] = (10, 20),
    images: int = 256,
    features: tuple[int, ...] = (64, 256),
    hidden: int = 128,
    repeats: int = 25,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Forward and backward with one sample, with and without context.

    K transformations are 2 K couplings, each with a network of one hidden layer. The context is the features
    themselves, which every coupling's hidden layer sees. With many features that product, the same for all,
    is most of the time, so the headlines are the worst of the cases without context and with the first, few
    ``features``.
    """
    torch.manual_seed(0)
    cases, headline = {}, []
    for count in transformations:
        for context in (0, *features):
            name = f"K = {count}, " + (f"{context} features" if context else "no context")
            sizes = Sizes(dimension, 2 * count, context or features[0], hidden, bool(context))
            cases[name] = _compare(sizes, images, repeats)
            if context in (0, features[0]):
                headline.append(cases[name])
    headlines = {
        "coupling_speedup": min(case["speedup"] for case in headline),
        "coupling_over_matmul": max(case["over_matmul"] for case in headline),
    }
    return headlines, {
        "dimension": dimension,
        "images": images,
        "hidden": hidden,
        "samples": 1,
        "cases": cases,
    }


@dataclass(frozen=True)
class Sizes:
    """Of a chain of couplings whose halves of the dimensions take turns."""

    dimension: int
    couplings: int
    features: int
    hidden: int
    context: bool

    @property
    def half(self) -> int:
        return self.dimension // 2

    @property
    def context_features(self) -> int:
        return self.features if self.context else 0

    def halves(self) -> list[Tensor]:
        """For each coupling, which dimensions it transforms."""
        second = torch.arange(self.dimension) >= self.half
        return [second if index % 2 == 0 else ~second for index in range(self.couplings)]


def _compare(sizes: Sizes, images: int, repeats: int) -> dict[str, Any]:
    options = RealNVPOptions(sizes.couplings // 2, context=sizes.context, hidden=sizes.hidden)
    made: dict[str, nn.Module] = {OURS: our_posterior(options, sizes.features, sizes.dimension)}
    for name, flow in PEERS.items():
        if sizes.context and flow in WITHOUT_CONTEXT:
            continue
        made[name] = PeerPosterior(sizes.features, sizes.dimension, flow(sizes))
    given = torch.randn(images, sizes.features)
    calls: dict[str, Call] = {name: gradient_step(moved(model), given) for name, model in made.items()}
    seconds = by_turns({**calls, PRODUCTS: matrix_products(sizes, images)}, repeats)
    fastest = min((name for name in calls if name != OURS), key=lambda name: seconds[name])
    return {
        "speedup": seconds[fastest] / seconds[OURS],
        "fastest_peer": fastest,
        "over_matmul": seconds[OURS] / seconds[PRODUCTS],
        "milliseconds": milliseconds(seconds),
    }


def matrix_products(sizes: Sizes, images: int) -> Call:
    """The products of our posterior, forward and backward, in the order and shapes that autograd has.

    Of every linear layer ``x W'``, then for its gradient ``g`` the two products ``g W`` and ``g' x``: those
    of the base, of all couplings' contexts in one layer, and of both layers of each coupling.
    """
    layers = [(sizes.features, 2 * sizes.dimension)]
    if sizes.context:
        layers.append((sizes.features, sizes.couplings * sizes.hidden))
    for _ in range(sizes.couplings):
        layers += [(sizes.half, sizes.hidden), (sizes.hidden, 2 * sizes.half)]
    operands = [
        (torch.randn(images, inputs), torch.randn(outputs, inputs), torch.randn(images, outputs))
        for inputs, outputs in layers
    ]

    def call() -> None:
        for x, weight, _ in operands:
            torch.mm(x, weight.t())
        for x, weight, gradient in reversed(operands):
            torch.mm(gradient, weight)
            torch.mm(gradient.t(), x)

    return call


class Nflows(nn.Module):
    """AffineCouplingTransform with halves as its mask."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()

        def network(inputs: int, outputs: int) -> nn.Module:
            return NflowsNetwork(inputs, outputs, sizes)

        self.transform = CompositeTransform(
            [AffineCouplingTransform(half.float(), network) for half in sizes.halves()]
        )
        self.context = sizes.context

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        context = features.repeat(len(z), 1) if self.context else None
        moved, log_determinant = self.transform(z.flatten(0, 1), context)
        return moved.view_as(z), log_determinant.view(z.shape[:2])


class NflowsNetwork(nn.Module):
    """nflows' perceptron; its own networks with context, too, begin by appending the context to the input."""

    def __init__(self, inputs: int, outputs: int, sizes: Sizes) -> None:
        super().__init__()
        self.network = nets.MLP([inputs + sizes.context_features], [outputs], [sizes.hidden])

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(inputs if context is None else torch.cat((inputs, context), dim=1))


class Normflows(nn.Module):
    """AffineCouplingBlock, whose split takes turns between the halves. It takes no context."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        flows = [
            normflows.flows.AffineCouplingBlock(
                normflows.nets.MLP([sizes.half, sizes.hidden, 2 * sizes.half]),
                split_mode="channel" if index % 2 == 0 else "channel_inv",
            )
            for index in range(sizes.couplings)
        ]
        self.flows = normflows.NormalizingFlow(None, flows)

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        moved, log_determinant = self.flows.forward_and_log_det(z.flatten(0, 1))
        return moved.view_as(z), log_determinant.view(z.shape[:2])


class Zuko(nn.Module):
    """GeneralCouplingTransform with halves as its mask, value and log-determinant in one call."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.transform = LazyComposedTransform(
            *(
                GeneralCouplingTransform(
                    sizes.dimension,
                    sizes.context_features,
                    mask=cast(torch.BoolTensor, ~half),
                    hidden_features=[sizes.hidden],
                )
                for half in sizes.halves()
            )
        )
        self.context = sizes.context

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform(features if self.context else None).call_and_ladj(z)


class Pyro(nn.Module):
    """AffineCoupling and swaps, with the log-determinant that it keeps from the call."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.context = sizes.context
        outputs = [sizes.half, sizes.half]
        self.couplings = nn.ModuleList()
        for _ in range(sizes.couplings):
            if sizes.context:
                network = ConditionalDenseNN(sizes.half, sizes.features, [sizes.hidden], outputs)
                self.couplings.append(ConditionalAffineCoupling(sizes.half, network))
            else:
                self.couplings.append(
                    AffineCoupling(sizes.half, DenseNN(sizes.half, [sizes.hidden], outputs))
                )
        self.swap = Permute(torch.arange(sizes.dimension).roll(sizes.half))

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[:2])
        for coupling in cast(list[Any], self.couplings):
            transform = coupling.condition(features) if self.context else coupling
            after = cast(Tensor, transform(z))
            total = total + transform.log_abs_det_jacobian(z, after)
            z = cast(Tensor, self.swap(after))
        return z, total


PEERS: dict[str, Callable[[Sizes], nn.Module]] = {
    "nflows AffineCouplingTransform": Nflows,
    "normflows AffineCouplingBlock": Normflows,
    "Pyro AffineCoupling": Pyro,
    "zuko GeneralCouplingTransform": Zuko,
}
WITHOUT_CONTEXT = (Normflows,)
