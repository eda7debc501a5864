"""Batch normalization as a flow."""

import torch
from torch import Tensor

from flowvae.flows.flow import Flow
from flowvae.flows.steps import AffineStep, Step
from flowvae.shares import var_mean


class BatchNormFlow(Flow):
    """``z' = (z - mean) / sqrt(variance + epsilon) * exp(g) + b`` with running statistics.

    (Dinh et al. 2017, section 3.7.) Both modes use the statistics of *earlier* batches, so the map is fixed
    for all values of a batch, and ``log|det| = sum(g - log(variance + epsilon) / 2)`` is exact; with a
    batch's own statistics, each density would depend on the rest of the batch. In training mode, each use in
    either direction updates the running statistics such that outputs are normalized, up to gain and bias. The
    first batch in training mode initializes them, and sets the saved buffer ``initialized``.

    Args:
        features: size of the first event axis.
        momentum: weight of a new batch in the running statistics.
        epsilon: number added to the variance.
    """

    mean: Tensor
    variance: Tensor
    initialized: Tensor

    def __init__(self, features: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.log_gain = torch.nn.Parameter(torch.zeros(features))
        self.bias = torch.nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("initialized", torch.tensor(False))

    def _statistics(self, z: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Return the statistics to use for ``z``; in training mode, update the running ones with it."""
        if not self.training:
            return self.mean, self.variance
        with torch.no_grad():
            axes = (0, 1, *range(3, z.ndim))
            batch_variance, batch_mean = var_mean(z, axes)
            if inverse:  # the inverse normalizes z if these are the statistics of the inputs of `forward`
                batch_variance = 1 / (batch_variance + self.epsilon)
                batch_mean = -batch_mean * batch_variance.sqrt()
            # `where` instead of `if` keeps one graph under torch.compile.
            mean = torch.where(self.initialized, self.mean, batch_mean)
            variance = torch.where(self.initialized, self.variance, batch_variance)
            self.mean.copy_(mean.lerp(batch_mean, self.momentum))
            self.variance.copy_(variance.lerp(batch_variance, self.momentum))
            self.initialized.fill_(True)
        return mean, variance

    def _scale_and_shift(self, mean: Tensor, variance: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_scale = self.log_gain - 0.5 * (variance + self.epsilon).log()
        shift = self.bias - mean * log_scale.exp()
        per_feature = z.shape[3:].numel()
        broadcast = (-1, *[1] * (z.ndim - 3))
        log_determinant = (per_feature * log_scale.sum()).expand(z.shape[:2])
        return log_scale.exp().view(broadcast), shift.view(broadcast), log_determinant

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale, shift, log_determinant = self._scale_and_shift(*self._statistics(z, inverse=False), z)
        return torch.addcmul(shift, z, scale), log_determinant

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale, shift, log_determinant = self._scale_and_shift(*self._statistics(z, inverse=True), z)
        return (z - shift) / scale, -log_determinant

    def steps(self, context: Tensor | None = None) -> list[Step]:
        def parameters(z: Tensor) -> tuple[Tensor, Tensor]:
            scale, shift, _ = self._scale_and_shift(self.mean, self.variance, z)
            return scale.log(), shift

        return [AffineStep(parameters)]
