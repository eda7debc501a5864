"""Flows against independent implementations of them, and against the textbook's loop."""

import itertools
import math
from typing import TypeVar, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.flows import AffineCoupling, BatchNormFlow, Chain, Flow, InverseAutoregressive, Planar, RealNVP
from flowvae.networks import Dense, MaskedDense

SAMPLES, IMAGES, DIMENSION = 3, 4, 5
SHIFT = math.log(math.e - 1)
REASON = "an oracle that is not installed; pip install flowvae[oracles]"


def numbers(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64)


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def moved(module: AnyModule, by: float = 0.5) -> AnyModule:
    """In float64, with parameters moved at random from where they start."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


def agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], inputs: list[Tensor]) -> None:
    """Values, log-determinants, and the gradients of a random function of both."""
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-8, rtol=0)
    weights = [torch.randn_like(output) for output in ours]
    gradients = [
        torch.autograd.grad([(w * o).sum() for w, o in zip(weights, outputs, strict=True)], inputs)
        for outputs in (ours, theirs)
    ]
    for mine, other in zip(*gradients, strict=True):
        assert other.abs().max() > 1e-3, "a gradient of zero would prove nothing"
        torch.testing.assert_close(mine, other, atol=1e-8, rtol=1e-8)


# Planar.


def planar_parameters(flow: Planar, flat: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(w, unconstrained u, b) of every transformation: [..., D], [..., D] and [..., 1]."""
    w, u, b = flow.separate(flat)
    return list(zip(w.unbind(-2), u.unbind(-2), b.split(1, dim=-1), strict=True))


def textbook_planar(flow: Planar, z: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
    """One transformation after the other, Rezende & Mohamed 2015, equations 10 to 12 and appendix A.1."""
    total = torch.zeros(z.shape[:-1], dtype=z.dtype)
    for w, u, b in planar_parameters(flow, flat):
        product = (w * u).sum(-1, keepdim=True)
        u_hat = u + (F.softplus(product + SHIFT) - 1 - product) * w / w.norm(dim=-1, keepdim=True) ** 2
        h = torch.tanh((w * z).sum(-1, keepdim=True) + b)
        psi = (1 - h**2) * w
        total = total + (1 + (u_hat * psi).sum(-1)).abs().log()
        z = z + u_hat * h
    return z, total


def pyros_planar(flow: Planar, z: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
    """A composition of Pyro's, whose constraint is softplus(w'u) - 1 where ours is softplus(w'u + SHIFT) - 1.

    So u + SHIFT w / ||w||^2 is to theirs what u is to ours.
    """
    planar = pytest.importorskip("pyro.distributions.transforms.planar", reason=REASON)
    total = torch.zeros(z.shape[:-1], dtype=z.dtype)
    for w, u, b in planar_parameters(flow, flat):
        transform = planar.ConditionedPlanar((b, u + SHIFT * w / w.square().sum(-1, keepdim=True), w))
        after = transform(z)
        total = total + transform.log_abs_det_jacobian(z, after)
        z = after
    return z, total


@pytest.mark.parametrize("amortized", [False, True], ids=["shared", "amortized"])
@pytest.mark.parametrize("transformations", [1, 2, 9, 11, 12, 20])
@pytest.mark.parametrize("oracle", [textbook_planar, pyros_planar])
def test_planar(oracle, transformations, amortized):
    torch.manual_seed(transformations)
    flow = moved(Planar(DIMENSION, transformations, amortized))
    flat, context = flow.parameters_of_all, None
    inputs = [numbers(SAMPLES, IMAGES, DIMENSION).requires_grad_(), *flow.parameters()]
    if amortized:
        context = numbers(IMAGES, flow.context_features, scale=0.5).requires_grad_()
        flat, inputs = flat + context, [*inputs, context]
    agree(flow(inputs[0], context), oracle(flow, inputs[0], flat), inputs)


@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0, 100.0])
def test_planar_with_large_weights_in_single_precision(scale):
    """The map itself magnifies rounding where slopes are steep: the worst gets more room than the mean."""
    torch.manual_seed(0)
    flow = Planar(40, 40, amortized=True)
    z = torch.randn(8, 16, 40)
    context = scale * torch.randn(16, flow.context_features)
    with torch.no_grad():
        outputs = flow(z, context)
        exact = textbook_planar(flow, z.double(), (flow.parameters_of_all + context).double())
    for ours, reference in zip(outputs, exact, strict=True):
        error = (ours - reference).abs()
        assert ours.isfinite().all()
        assert error.mean() < 1e-4 * reference.abs().max()
        assert error.max() < 2e-3 * reference.abs().max()


def test_planar_stays_invertible_where_the_constraint_is_tight():
    """The determinant is positive, and all but 0, for w'u far below -1 where the slope of tanh is 1."""
    torch.manual_seed(0)
    w = torch.randn(50, 40)
    u = -w  # w'u about -40
    flow = Planar(40, 1, amortized=True)
    with torch.no_grad():
        flow.parameters_of_all.zero_()
    context = torch.cat([w, u, torch.zeros(50, 1)], dim=1)
    z = torch.randn(20, 50, 40)
    z = z - (z * w).sum(2, keepdim=True) / w.square().sum(1, keepdim=True) * w  # w'z = 0
    _, log_determinant = flow(z, context)
    assert log_determinant.isfinite().all()
    # There it is log softplus(w'u + SHIFT), about w'u + SHIFT, but for what rounding makes of w'z = 0.
    product = (w * u).sum(1).double()
    assert (log_determinant.double() < -10).all()
    assert (log_determinant.double() >= product + SHIFT - 1e-3).all()


# Coupling and autoregressive flows: the same conditioner on both sides.


def bounded_log_scale(flow: AffineCoupling | InverseAutoregressive, raw: Tensor) -> Tensor:
    return raw if flow.affine.bound is None else flow.affine.bound * torch.tanh(raw)


@pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "unbounded"])
@pytest.mark.parametrize("swap", [False, True], ids=["first-half-fixed", "second-half-fixed"])
@pytest.mark.parametrize("dimension", [2, 5, 6])
def test_coupling(dimension, swap, bounded):
    transforms = pytest.importorskip("zuko.transforms", reason=REASON)
    torch.manual_seed(dimension)
    transformed = dimension - dimension // 2 if swap else dimension // 2
    conditioner = Dense(dimension - transformed, 7, 2 * transformed, context=True)
    flow = moved(AffineCoupling(conditioner, dimension, swap, bounded))
    z = numbers(SAMPLES, IMAGES, dimension).requires_grad_()
    context = numbers(IMAGES, flow.context_features).requires_grad_()

    def affine(fixed: Tensor) -> torch.distributions.Transform:
        parameters = conditioner(fixed, context)
        raw, shift = parameters[..., :transformed], parameters[..., transformed:]
        element_wise = torch.distributions.AffineTransform(shift, bounded_log_scale(flow, raw).exp())
        return torch.distributions.IndependentTransform(element_wise, 1)

    first = torch.arange(dimension) < dimension - dimension // 2
    theirs = transforms.CouplingTransform(affine, ~first if swap else first)
    after = theirs(z)
    agree(flow(z, context), (after, theirs.log_abs_det_jacobian(z, after)), [z, context, *flow.parameters()])


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("with_context", [False, True], ids=["without-context", "with-context"])
def test_inverse_autoregressive(with_context, reverse):
    """Against nflows' masked autoregressive transform and its own masks, with our weights copied into it."""
    nflows = pytest.importorskip("nflows.transforms.autoregressive", reason=REASON)
    torch.manual_seed(0)
    hidden = 9
    conditioner = MaskedDense(DIMENSION, hidden, context=with_context, reverse=reverse)
    flow = moved(InverseAutoregressive(conditioner, DIMENSION))
    z = numbers(SAMPLES, IMAGES, DIMENSION).requires_grad_()
    # Their context goes through a rectifier, which leaves positive numbers alone.
    context = (numbers(IMAGES, hidden).abs() + 0.1).requires_grad_() if with_context else None

    class Theirs(nflows.MaskedAffineAutoregressiveTransform):
        def _unconstrained_scale_and_shift(self, autoregressive_params):
            raw, shift = super()._unconstrained_scale_and_shift(autoregressive_params)
            ours = raw.flip(-1) if reverse else raw
            log_scale = bounded_log_scale(flow, ours)
            scale = torch.exp(log_scale.flip(-1) if reverse else log_scale)
            return torch.log(torch.expm1(scale - self._epsilon)), shift  # softplus and epsilon undo this

    theirs = Theirs(
        DIMENSION, hidden, hidden if with_context else None, num_blocks=0, use_residual_blocks=False
    ).double()
    made, order = theirs.autoregressive_net, list(range(DIMENSION))
    if reverse:
        order.reverse()
    with torch.no_grad():
        made.initial_layer.weight.copy_(conditioner.first.weight[:, order])
        made.initial_layer.bias.copy_(conditioner.first.bias)
        for place, i in enumerate(order):
            for offset in (0, 1):  # they have scale and shift of a dimension side by side
                made.final_layer.weight[2 * place + offset] = conditioner.last.weight[i + offset * DIMENSION]
                made.final_layer.bias[2 * place + offset] = conditioner.last.bias[i + offset * DIMENSION]
        if with_context:
            made.context_layer.weight.copy_(torch.eye(hidden))
            made.context_layer.bias.zero_()
    flat = z[..., order].flatten(0, 1)
    repeated = context.repeat(SAMPLES, 1) if context is not None else None
    after, log_determinant = theirs(flat, repeated)
    after = after.unflatten(0, (SAMPLES, IMAGES))[..., order]
    inputs = [z, context] if context is not None else [z]
    agree(flow(z, context), (after, log_determinant.view(SAMPLES, IMAGES)), inputs)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(("dimension", "hidden"), [(1, 4), (2, 1), (5, 4), (6, 17)])
def test_masked_network_sees_exactly_what_comes_before(dimension, hidden, reverse):
    torch.manual_seed(0)
    network = moved(MaskedDense(dimension, hidden, reverse=reverse), by=1.0)
    x = numbers(40, 1, dimension)  # many points, so that every hidden unit is on at one of them
    jacobian = torch.autograd.functional.jacobian(lambda points: network(points).sum((0, 1)), x)
    assert isinstance(jacobian, Tensor)
    jacobians = jacobian[:, :, 0].movedim(0, 1)  # [point, output, input]
    depends = (jacobians.abs().amax(0) > 0).unflatten(0, (2, dimension))  # [raw or shift, i, j]
    before = torch.ones(dimension, dimension).tril(-1).bool()
    expected = before.T if reverse else before
    assert (depends[0] == expected).all()
    assert (depends[1] == expected).all()


@pytest.mark.parametrize("event", [(5,), (3, 2, 2)], ids=["vector", "map"])
def test_batch_norm_flow(event):
    torch.manual_seed(0)
    features = event[0]
    flow = moved(BatchNormFlow(features))
    with torch.no_grad():
        flow.mean += torch.randn(features)
        flow.variance += torch.rand(features)
    flow.eval()
    z = numbers(SAMPLES, IMAGES, *event).requires_grad_()
    gain = flow.log_gain.exp()
    flat = z.flatten(0, 1)
    after = F.batch_norm(flat, flow.mean, flow.variance, gain, flow.bias, eps=flow.epsilon).view_as(z)
    element_wise = (gain / (flow.variance + flow.epsilon).sqrt()).abs().log()
    log_determinant = element_wise.view(-1, *[1] * (len(event) - 1)).expand(event).sum()
    agree(flow(z), (after, log_determinant.expand(SAMPLES, IMAGES)), [z, *flow.parameters()])


def test_batch_norm_flow_keeps_running_statistics():
    """By hand: the first batch initialises them, every later one has its share."""
    torch.manual_seed(0)
    flow = BatchNormFlow(DIMENSION, momentum=0.25).double().train()
    batches = [2 * numbers(SAMPLES, IMAGES, DIMENSION) + 3 for _ in range(3)]
    mean = variance = torch.zeros(0)
    for step, (batch, _) in enumerate(itertools.product(batches, range(2))):
        flat = batch.flatten(0, 1)
        own_mean, own_variance = flat.mean(0), ((flat - flat.mean(0)) ** 2).mean(0)
        used_mean, used_variance = (mean, variance) if step else (own_mean, own_variance)
        after, _ = flow(batch)
        expected = (batch - used_mean) / (used_variance + flow.epsilon).sqrt()
        torch.testing.assert_close(after, expected)
        mean = 0.75 * used_mean + 0.25 * own_mean
        variance = 0.75 * used_variance + 0.25 * own_variance
        torch.testing.assert_close(flow.mean, mean)
        torch.testing.assert_close(flow.variance, variance)
    assert flow.initialized


def test_batch_norm_flow_normalizes_in_either_direction():
    """A density of images goes through it from its end."""
    torch.manual_seed(0)
    flow = BatchNormFlow(DIMENSION).double().train()
    for _ in range(200):
        after, _ = flow.inverse(2 * numbers(50, IMAGES, DIMENSION) + 3)
    torch.testing.assert_close(after.mean((0, 1)), torch.zeros(DIMENSION).double(), atol=0.3, rtol=0)
    torch.testing.assert_close(after.var((0, 1)), torch.ones(DIMENSION).double(), atol=0.3, rtol=0)
    z = numbers(SAMPLES, IMAGES, DIMENSION)
    flow.eval()
    before, log_determinant = flow.inverse(z)
    back, of_forward = flow(before)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(of_forward, -log_determinant)
    assert log_determinant[0, 0].item() == pytest.approx(-DIMENSION * math.log(2), abs=0.2)


@pytest.mark.parametrize("dimension", [2, 3, 4])
def test_gradient_of_real_nvp_for_a_single_row_spares_the_one_that_comes_in(dimension):
    torch.manual_seed(0)
    flow = moved(RealNVP(dimension, transformations=2, hidden=7))
    z = numbers(1, 1, dimension).requires_grad_()
    assert torch.autograd.gradcheck(flow, [z])
    incoming = torch.ones(1, 1, dimension).double()
    torch.autograd.grad(flow(z)[0], z, incoming)
    assert (incoming == 1).all()


def test_chains_without_context_ignore_one():
    z, context = numbers(SAMPLES, IMAGES, DIMENSION), numbers(IMAGES, 7)
    chain = Chain([moved(Planar(DIMENSION, 1)), moved(RealNVP(DIMENSION, 1, 7))])
    assert all(torch.equal(one, other) for one, other in zip(chain(z, context), chain(z), strict=True))


@pytest.mark.parametrize("dimension", [4, 5])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("options", [{}, {"bounded": False}, {"normalization": "weight"}])
def test_real_nvp_at_once_against_a_chain_of_couplings(dimension, samples, options):
    """The same weights in both: equal values, log-determinants and gradients."""
    torch.manual_seed(0)
    count, hidden, images = 3, 7, 6
    bounded, normalization = options.get("bounded", True), options.get("normalization", "none")
    whole = RealNVP(
        dimension, count, hidden, context=True, bounded=bounded, weight_norm=normalization == "weight"
    ).double()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    couplings: list[Flow] = []
    for index in range(2 * count):
        k, part = divmod(index, 2)
        moved = AffineCoupling.transformed_features(dimension, swap=part == 1)
        conditioner = Dense(dimension - moved, hidden, 2 * moved, context=True, normalization=normalization)
        coupling = AffineCoupling(conditioner, dimension, part == 1, bounded).double()
        first, last, bias, bound = cast(list[torch.nn.Module], whole.conditioners)[part]()
        with torch.no_grad():
            # The effective weights, whatever made them.
            conditioner.first.weight = nn.Parameter(first[k]) if normalization == "none" else first[k]
            conditioner.last.weight = nn.Parameter(last[k]) if normalization == "none" else last[k]
            conditioner.first.bias.copy_(whole.bias[k, part])
            conditioner.last.bias.copy_(bias[k])
            if coupling.affine.bound is not None:
                coupling.affine.bound.copy_(bound[k])
        couplings.append(coupling)
    chain = Chain(couplings)
    z = torch.randn(samples, images, dimension, dtype=torch.float64, requires_grad=True)
    context = torch.randn(images, whole.context_features, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(samples, images, dimension), torch.randn(samples, images)
    results = []
    for flow in (whole, chain):
        values = flow(z, context)
        loss = sum((weight * value).sum() for weight, value in zip(weights, values, strict=True))
        results.append([*values, *torch.autograd.grad(cast(torch.Tensor, loss), [z, context])])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)
