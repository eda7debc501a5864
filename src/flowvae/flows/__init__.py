"""Invertible maps with log-determinants."""

from flowvae.flows.act_norm import ActNorm
from flowvae.flows.autoregressive import InverseAutoregressive
from flowvae.flows.batch_norm import BatchNormFlow
from flowvae.flows.chain import Chain
from flowvae.flows.checkpointing import checkpoint_transformations
from flowvae.flows.coupling import AffineCoupling
from flowvae.flows.flattened import Flattened
from flowvae.flows.flow import Flow, NotInvertibleError
from flowvae.flows.planar import Planar
from flowvae.flows.precision import at_least_float32, full_precision
from flowvae.flows.real_nvp import RealNVP
from flowvae.flows.squeeze import Checkerboard, squeeze, unsqueeze
from flowvae.flows.steps import AffineStep, MonotoneStep, Step

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "AffineStep",
    "BatchNormFlow",
    "Chain",
    "Checkerboard",
    "Flattened",
    "Flow",
    "InverseAutoregressive",
    "MonotoneStep",
    "NotInvertibleError",
    "Planar",
    "RealNVP",
    "Step",
    "at_least_float32",
    "checkpoint_transformations",
    "full_precision",
    "squeeze",
    "unsqueeze",
]
