"""Codes from the prior, nearer to its middle or farther out."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from flowvae.densities.prior import FlowDistribution


@torch.no_grad()
def tempered(prior: Distribution, count: int, temperature: float) -> Tensor:
    """Draws [N, D] of p(z), whose distance from its mean is multiplied by the temperature; 1 is p(z) itself.

    Where the prior is a flow, that is done to the draws of its base, which the flow's inverse makes codes of.
    """
    if isinstance(prior, FlowDistribution):
        return prior.flow.inverse(tempered(prior.base, count, temperature).unsqueeze(0))[0][0]
    return prior.mean + temperature * (prior.sample((count,)) - prior.mean)
