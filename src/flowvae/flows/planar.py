"""K planar transformations at once."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae.flows.flow import Flow

# So that m(0) = softplus(log(e - 1)) - 1 = 0.
LOG_E_MINUS_1 = math.log(math.e - 1)


class Planar(Flow):
    r"""K planar transformations ``z_k = z_{k-1} + u_k h(w_k' z_{k-1} + b_k)``, ``h = tanh``.

    (Rezende & Mohamed 2015, equations 10 to 12.) ``log|det| = sum_k log|1 + u_k' psi_k|`` with ``psi_k =
    h'(w_k' z_{k-1} + b_k) w_k``. The map is invertible where ``w_k' u_k >= -1``, which their appendix A.1
    enforces by ``u <- u + (m(w'u) - w'u) w / ||w||^2`` with ``m(x) = softplus(x) - 1``; here ``m(x) =
    softplus(x + log(e - 1)) - 1``, which has the same range and leaves ``u = 0`` alone, so that the chain
    starts as the identity.

    No vector of D dimensions is carried from one transformation to the next. With ``W`` and ``U`` [K, D],
    ``p = W z_0 + b``, ``A = W U'`` and ``L`` its strictly lower part, the activations solve ``h = tanh(p + L
    h)``, a recurrence of K scalars; then ``z_K = z_0 + U' h`` and ``log|det| = sum_k log(1 + (1 - h_k^2)
    A_kk)``. A belongs to the image and is shared by all its samples. With ``1 + A_kk = softplus(w'u + log(e -
    1))``, the determinant is ``h_k^2 + (1 - h_k^2) (1 + A_kk)``: a sum that rounding cannot make negative.

    Args:
        dimension: D.
        transformations: K.
        amortized: the context holds ``W``, ``U`` and ``b`` of every image, added to the flow's own;
            ``context_features = K (2 D + 1)``.
    """

    def __init__(self, dimension: int, transformations: int, amortized: bool = False) -> None:
        super().__init__()
        self.dimension, self.transformations = dimension, transformations
        parameters = torch.cat(
            [
                torch.randn(transformations * dimension) * dimension**-0.5,  # W: w = 0 would be singular
                torch.zeros(transformations * (dimension + 1)),  # U and b: the identity
            ]
        )
        self.parameters_of_all = nn.Parameter(parameters)
        self.context_features = len(parameters) if amortized else 0

    def _weights(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``W`` and constrained ``U`` [B, K, D], ``b`` and ``1 + w'u`` [B, K]; B is 1 without a context."""
        flat = self.parameters_of_all.unsqueeze(0)
        if self.context_features and context is not None:
            flat = flat + context
        size = self.transformations * self.dimension
        w, u, b = flat.split([size, size, self.transformations], dim=1)
        w = w.unflatten(1, (self.transformations, self.dimension))
        u = u.unflatten(1, (self.transformations, self.dimension))
        product = (w * u).sum(2)
        one_more = F.softplus(product + LOG_E_MINUS_1)
        u = u + ((one_more - 1 - product) / w.square().sum(2)).unsqueeze(2) * w
        return w, u, b, one_more

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        samples, images, dimension = z.shape
        w, u, b, one_more = self._weights(context)
        a = w @ u.mT  # [B, K, K]
        # Columns of one matrix for each set of parameters: [B, D, S], or [1, D, B S] where all share one.
        columns = z.transpose(0, 1).reshape(len(w), -1, dimension).mT
        h = _Recurrence.apply(torch.baddbmm(b.unsqueeze(2), w, columns), a)
        moved = (columns + u.mT @ h).mT.reshape(images, samples, dimension).transpose(0, 1)
        square = h.square()
        log_determinant = (square + (1 - square) * one_more.unsqueeze(2)).log().sum(1)
        return moved, log_determinant.reshape(images, samples).t()


class _Recurrence(torch.autograd.Function):
    """Solve ``h = tanh(p + L h)`` for p [B, K, N], with ``L`` the strictly lower part of ``a`` [B, K, K].

    Forward substitution, in blocks of rows: what earlier blocks contribute is one product for the whole
    block, and only the rows within it go one by one. The gradient is the same substitution backwards:
    ``dp = (1 - h^2) * (dh + L' dp)`` and ``dL = dp h'``.
    """

    @staticmethod
    def forward(ctx, p: Tensor, a: Tensor) -> Tensor:  # type: ignore[override]
        h = p.clone()
        for start, end in _blocks(h.shape[1]):
            if start:
                h[:, start:end].baddbmm_(a[:, start:end, :start], h[:, :start])
            for k in range(start, end):
                h[:, k].tanh_()
                h[:, k + 1 : end].addcmul_(a[:, k + 1 : end, k : k + 1], h[:, k : k + 1])
        ctx.save_for_backward(h, a)
        return h

    @staticmethod
    def backward(ctx, dh: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        h, a = ctx.saved_tensors
        slope = 1 - h.square()
        dp = dh.clone()
        for start, end in reversed(_blocks(h.shape[1])):
            if end < h.shape[1]:
                dp[:, start:end].baddbmm_(a[:, end:, start:end].mT, dp[:, end:])
            for k in reversed(range(start, end)):
                dp[:, k].mul_(slope[:, k])
                dp[:, start:k].addcmul_(a[:, k, start:k].unsqueeze(2), dp[:, k : k + 1])
        return dp, torch.tril(dp @ h.mT, diagonal=-1)


def _blocks(rows: int, size: int = 8) -> list[tuple[int, int]]:
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
