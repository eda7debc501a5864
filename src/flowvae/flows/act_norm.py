"""Activation normalization as a flow."""

import torch
from torch import Tensor, nn

from flowvae.flows.flow import Flow
from flowvae.flows.steps import AffineStep, Step


class ActNorm(Flow):
    """``z' = z * exp(g) + b``, with one g and b per feature (Kingma & Dhariwal 2018, section 3.1).

    Starts as the identity. Each use in either direction while ``starting`` is true first sets g and b such
    that the output has mean 0 and variance 1 in each feature, and sets the saved buffer ``initialized``.
    After that they are ordinary parameters, and an output never depends on its batch. A feature whose
    standard deviation is below 0.001, as with a single image, is only shifted.

    Args:
        features: size of the first event axis.
    """

    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialized", torch.tensor(False))
        self.starting = False

    @torch.no_grad()
    def _start(self, z: Tensor, inverse: bool) -> None:
        variance, mean = torch.var_mean(z, dim=(0, 1, *range(3, z.ndim)), correction=0)
        log_scale = 0.5 * (torch.where(variance > 1e-6, variance, 1.0) + 1e-6).log()
        self.log_gain.copy_(log_scale if inverse else -log_scale)
        self.bias.copy_(mean if inverse else -mean * (-log_scale).exp())
        self.initialized.fill_(True)

    def _log_determinant(self, z: Tensor) -> Tensor:
        places = z.shape[3:].numel()
        return (places * self.log_gain.sum()).expand(z.shape[:2])

    def _per_feature(self, values: Tensor, z: Tensor) -> Tensor:
        return values.view(-1, *[1] * (z.ndim - 3))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.starting:
            self._start(z, inverse=False)
        gain = self._per_feature(self.log_gain.exp(), z)
        return torch.addcmul(self._per_feature(self.bias, z), z, gain), self._log_determinant(z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.starting:
            self._start(z, inverse=True)
        gain = self._per_feature((-self.log_gain).exp(), z)
        return (z - self._per_feature(self.bias, z)) * gain, -self._log_determinant(z)

    def steps(self, context: Tensor | None = None) -> list[Step]:
        return [AffineStep(lambda z: (self._per_feature(self.log_gain, z), self._per_feature(self.bias, z)))]
