"""Batch normalization as a flow."""

import torch
from torch import Tensor

from flowvae.flows.flow import Flow


class BatchNormFlow(Flow):
    """``z' = (z - mean) / sqrt(variance + epsilon) * exp(g) + b`` with running statistics.

    (Dinh et al. 2017, section 3.7.) The statistics of the batches seen *before* are used in both modes, so
    the map is the same fixed one for all values of a batch and ``log|det| = sum(g - log(variance +
    epsilon) / 2)`` is exact; using a batch's own statistics would make each density depend on its
    neighbours. In training mode the running statistics move after each use, in either direction: what comes
    out is normalized, up to gain and bias. The first batch seen in training mode initialises them, and the
    saved buffer ``initialized`` says that this has happened.

    Args:
        features: size of the first event axis.
        momentum: share of a new batch in the running statistics.
        epsilon: added to the variance.
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
        """The statistics to use for ``z``; in training mode, move the running ones towards those of ``z``."""
        if not self.training:
            return self.mean, self.variance
        with torch.no_grad():
            axes = (0, 1, *range(3, z.ndim))
            batch_variance, batch_mean = torch.var_mean(z, dim=axes, correction=0)
            if inverse:  # z comes out normalized where these are the statistics of what goes into `forward`
                batch_variance = 1 / (batch_variance + self.epsilon)
                batch_mean = -batch_mean * batch_variance.sqrt()
            # Blending by tensors rather than by `if` keeps one graph under torch.compile.
            mean = torch.where(self.initialized, self.mean, batch_mean)
            variance = torch.where(self.initialized, self.variance, batch_variance)
            self.mean.copy_(mean.lerp(batch_mean, self.momentum))
            self.variance.copy_(variance.lerp(batch_variance, self.momentum))
            self.initialized.fill_(True)
        return mean, variance

    def _scale_and_shift(self, mean: Tensor, variance: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_scale = self.log_gain - 0.5 * (variance + self.epsilon).log()
        shift = self.bias - mean * log_scale.exp()
        per_feature = z[0, 0].numel() // z.shape[2]
        broadcast = (-1, *[1] * (z.ndim - 3))
        log_determinant = (per_feature * log_scale.sum()).expand(z.shape[:2])
        return log_scale.exp().view(broadcast), shift.view(broadcast), log_determinant

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale, shift, log_determinant = self._scale_and_shift(*self._statistics(z, inverse=False), z)
        return torch.addcmul(shift, z, scale), log_determinant

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale, shift, log_determinant = self._scale_and_shift(*self._statistics(z, inverse=True), z)
        return (z - shift) / scale, -log_determinant
