"""Flows as steps of affine and monotone maps."""

import torch

from flowvae.flows import MonotoneStep
from flowvae.flows.affine import BoundedAffine


def test_a_monotone_step_of_another_shape_is_the_same_map():
    flat = MonotoneStep(lambda z: torch.arange(1.0, 7) * z, 8, (-9, 9))
    step = flat.reshaped(lambda z: z.flatten(2), lambda z: z.unflatten(2, (2, 3)))
    z = torch.randn(4, 5, 2, 3)
    assert torch.equal(step.function(z), flat.function(z.flatten(2)).view_as(z))
    assert step[1:] == flat[1:]


def test_log_scales_are_bounded_by_default():
    assert torch.equal(BoundedAffine(3).log_scale(torch.full((1, 1, 3), 50.0)), torch.ones(1, 1, 3))
