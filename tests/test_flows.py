"""Laws that every flow obeys, in both modes, away from the identity."""

import math

import pytest
import torch
from flow_constructors import FLOWS, context_for, event_of, log_determinant_by_autograd, make

from flowvae.flows import BatchNormFlow, Flow, MonotoneStep, NotInvertibleError

pytestmark = pytest.mark.parametrize("name", FLOWS)
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def values(
    name: str, flow: Flow, samples: int = 3, images: int = 4
) -> tuple[torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(1)
    z = torch.randn(samples, images, *event_of(name), dtype=torch.float64)
    return z, context_for(name, flow, images)


@modes
def test_log_determinant_is_that_of_autograds_jacobian(name, training):
    flow = make(name).train(training)
    z, context = values(name, flow)
    z.requires_grad_()
    moved, log_determinant = flow(z, context)
    torch.testing.assert_close(log_determinant, log_determinant_by_autograd(moved, z), atol=1e-8, rtol=0)


def test_inverse_undoes_forward(name):
    flow = make(name).eval()
    z, context = values(name, flow)
    moved, log_determinant = flow(z, context)
    assert (moved - z).abs().max() > 0.01, "the flow is the identity: this would prove nothing"
    if "planar" in name:
        with pytest.raises(NotInvertibleError, match="Planar has no inverse"):
            flow.inverse(moved, context)
        return
    back, inverse_log_determinant = flow.inverse(moved, context)
    torch.testing.assert_close(back, z, atol=1e-8, rtol=0)
    torch.testing.assert_close(inverse_log_determinant, -log_determinant, atol=1e-8, rtol=0)


def test_steps_are_the_map_and_sweeps_undo_them(name):
    flow = make(name).eval()
    z, context = values(name, flow)
    moved, log_determinant = flow(z, context)
    after, total = z, torch.zeros_like(log_determinant)
    for step in flow.steps(context):
        if isinstance(step, MonotoneStep):
            before = after.detach().requires_grad_()
            after = step.function(before)
            (slope,) = torch.autograd.grad(after.sum(), before)
            assert (slope > 0).all()
            after, total = after.detach(), total + slope.log().flatten(2).sum(2)
            continue
        log_scale, shift = (each.expand_as(z) for each in step.parameters(after))
        before, after = after, after * log_scale.exp() + shift
        total = total + log_scale.flatten(2).sum(2)
        back = after
        for _ in range(step.depth):
            log_scale, shift = step.parameters(back)
            back = (after - shift) * (-log_scale).exp()
        torch.testing.assert_close(back, before, atol=1e-8, rtol=0)
    # The least slope of a planar step changes a little.
    atol = 0.1 if "planar" in name else 1e-8
    torch.testing.assert_close(after, moved, atol=atol, rtol=0)
    torch.testing.assert_close(total, log_determinant, atol=atol, rtol=0)


@modes
def test_samples_of_an_image_share_its_context(name, training):
    # In training, what conditioners with batch norm give depends on all of the batch, and may.
    flow = make(name).train(training and "coupling-batch-norm" not in name)
    state = {key: value.clone() for key, value in flow.state_dict().items()}
    z, context = values(name, flow)
    together = flow(z, context)
    for s in range(z.shape[0]):
        flow.load_state_dict(state)
        alone = flow(z[s : s + 1], context)
        torch.testing.assert_close(alone[0][0], together[0][s])
        torch.testing.assert_close(alone[1][0], together[1][s])


STEPS = {"planar-11": 11, "planar-11-amortized": 11, "planar-4": 4, "chain": 3, "real-nvp": 3, "iaf-3": 3}


def test_unrolled_steps_are_those_of_forward_and_each_has_its_own_determinant(name):
    flow = make(name).eval()
    z, context = values(name, flow, samples=2, images=2)
    z.requires_grad_()
    steps = flow.unroll(z, context)
    assert len(steps) == STEPS.get(name, len(steps))
    last, log_determinant = flow(z, context)
    torch.testing.assert_close(steps[-1][0], last)
    total = torch.zeros_like(log_determinant)
    for moved, each in steps:
        total = total + each
        torch.testing.assert_close(total, log_determinant_by_autograd(moved, z), atol=1e-8, rtol=0)
    torch.testing.assert_close(total, log_determinant)


def test_gradients_match_finite_differences_and_reach_the_context(name):
    flow = make(name).eval()
    z, context = values(name, flow, samples=2, images=2)
    inputs = [z.requires_grad_()]
    if context is not None:
        inputs.append(context.requires_grad_())
    assert torch.autograd.gradcheck(lambda *given: flow(*given), inputs)
    # Along one random direction of each parameter.
    parameters = list(flow.parameters())
    assert torch.autograd.gradcheck(lambda *_: flow(*inputs), parameters, fast_mode=True)
    moved, log_determinant = flow(*inputs)
    total = moved.sum() + log_determinant.sum()
    gradients = torch.autograd.grad(total, [*inputs, *parameters])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_pushed_score_is_that_of_the_density_after_the_flow(name):
    flow = make(name).eval()
    z, context = values(name, flow)
    score = torch.randn_like(z)
    after, pushed = flow.push_score(z, score, context)
    moved, log_determinant = flow(z.requires_grad_(), context)
    torch.testing.assert_close(after, moved)
    assert not any(each.requires_grad for each in (after, pushed))
    # log q'(f(z)) = log q(z) - log|det|: by the chain rule, from the score after the flow to that before it.
    before = torch.autograd.grad((moved * pushed).sum() + log_determinant.sum(), z)[0]
    torch.testing.assert_close(before, score, atol=1e-6, rtol=0)
    assert (pushed - score).abs().max() > 0.01


def test_fresh_flow_is_the_identity(name):
    torch.manual_seed(0)
    flow = FLOWS[name]().double().eval()
    z, context = values(name, flow)
    # What posteriors give at the start: their map to the context begins at zero.
    moved, log_determinant = flow(z, None if context is None else torch.zeros_like(context))
    # A fresh batch norm divides by sqrt(1 + epsilon).
    batch_norms = sum(isinstance(module, BatchNormFlow) for module in flow.modules())
    torch.testing.assert_close(moved, z * (1 + 1e-5) ** (-0.5 * batch_norms), atol=1e-12, rtol=0)
    expected = -0.5 * batch_norms * z[0, 0].numel() * math.log1p(1e-5)
    torch.testing.assert_close(log_determinant, torch.full_like(log_determinant, expected), atol=1e-9, rtol=0)
