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

    def _flat(self, context: Tensor | None) -> Tensor:
        """``W``, ``V`` and ``b`` in one row for each image, or one for all."""
        flat = self.parameters_of_all.unsqueeze(0)
        return flat + context if self.context_features and context is not None else flat

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _Planar.apply(z, self._flat(context), self.transformations)

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        w_and_v, _, b = _parts(self._flat(context), self.transformations, self.dimension)
        steps: list[tuple[Tensor, Tensor]] = []
        for k in range(self.transformations):
            own = torch.cat([w_and_v[:, k], w_and_v[:, k + self.transformations], b[:, k : k + 1]], dim=1)
            steps.append(_Planar.apply(steps[-1][0] if steps else z, own, 1))
        return steps


class _Planar(torch.autograd.Function):
    """The chain for z [S, B, D] and parameters ``W``, ``V``, ``b`` in one row, [B or 1, K (2 D + 1)].

    With ``u_k = v_k + c_k w_k`` (see `Planar`), ``U`` is never made: ``A = W V' + W W' diag(c)``, whose two
    products are one, have ``w'v`` and ``||w||^2`` on their diagonals, and ``U' h = V' h + W' (c h)``. The
    gradient of all parameters is written by the same few batched products backwards, into one tensor.
    """

    @staticmethod
    def forward(ctx, z: Tensor, flat: Tensor, transformations: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as documented
        samples, images, dimension = z.shape
        # Each set of parameters with the rows that it moves: [B, S, D], or [1, B S, D] where all share one.
        rows = z.transpose(0, 1).reshape(flat.shape[0], -1, dimension)
        w_and_v, w, b = _parts(flat, transformations, dimension)
        products = w @ w_and_v.mT  # [B, K, 2 K]
        w_w, w_v = products.chunk(2, dim=2)
        product = w_v.diagonal(dim1=1, dim2=2)
        one_more = F.softplus(product + LOG_E_MINUS_1)
        c = (one_more - 1 - product) / w_w.diagonal(dim1=1, dim2=2)
        a = torch.addcmul(w_v, w_w, c.unsqueeze(1))
        h = _substitute(torch.baddbmm(b.unsqueeze(2), w, rows.mT), a)
        both = torch.cat([c.unsqueeze(2) * h, h], dim=1)  # [B, 2 K, S]
        moved = torch.baddbmm(rows, both.mT, w_and_v)
        square = h.square()
        determinants = square + (1 - square) * one_more.unsqueeze(2)
        ctx.save_for_backward(rows, flat, products, one_more, c, a, both, determinants)
        ctx.transformations = transformations
        return (
            moved.reshape(images, samples, dimension).transpose(0, 1),
            determinants.log().sum(1).reshape(images, samples).t(),
        )

    @staticmethod
    def backward(ctx, d_moved: Tensor, d_log_determinant: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]  # as documented
        rows, flat, products, one_more, c, a, both, determinants = ctx.saved_tensors
        samples, images, dimension = d_moved.shape
        w_and_v, w, _ = _parts(flat, ctx.transformations, dimension)
        (w_w, w_v), h = products.chunk(2, dim=2), both.chunk(2, dim=1)[1]
        product, norm = w_v.diagonal(dim1=1, dim2=2), w_w.diagonal(dim1=1, dim2=2)
        d_rows = d_moved.transpose(0, 1).reshape(rows.shape)

        by_w, by_v = (w_and_v @ d_rows.mT).chunk(2, dim=1)
        slope = 1 - h.square()
        by_determinant = d_log_determinant.t().reshape(len(flat), 1, -1) / determinants
        d_h = torch.addcmul(by_v, by_w, c.unsqueeze(2))
        d_h.addcmul_(h * by_determinant, 1 - one_more.unsqueeze(2), value=2)
        d_p = _substitute_back(d_h, slope, a)
        d_a = torch.tril(d_p @ h.mT, diagonal=-1)

        d_c = ((by_w * h).sum(2) + (d_a * w_w).sum(1)) / norm
        d_one_more = (slope * by_determinant).sum(2) + d_c
        d_product = d_one_more * torch.sigmoid(product + LOG_E_MINUS_1) - d_c
        # Strictly lower where A is used, and the diagonals, which are w'v and ||w||^2.
        d_products = torch.cat([d_a * c.unsqueeze(1), d_a], dim=2)
        d_w_w, d_w_v = d_products.chunk(2, dim=2)
        d_w_w.diagonal(dim1=1, dim2=2).copy_(-d_c * c)
        d_w_v.diagonal(dim1=1, dim2=2).copy_(d_product)

        d_w_and_v = torch.baddbmm(both @ d_rows, d_products.mT, w)
        d_w_and_v[:, : ctx.transformations] += torch.baddbmm(d_p @ rows, d_products, w_and_v)
        d_flat = torch.cat([d_w_and_v.flatten(1), d_p.sum(2)], dim=1)
        d_z = torch.baddbmm(d_rows, d_p.mT, w)
        return d_z.reshape(images, samples, dimension).transpose(0, 1), d_flat, None


def _parts(flat: Tensor, transformations: int, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views: ``W`` and ``V`` together [B, 2 K, D], ``W`` [B, K, D], ``b`` [B, K]."""
    size = 2 * transformations * dimension
    w_and_v = flat[:, :size].unflatten(1, (2 * transformations, dimension))
    return w_and_v, w_and_v[:, :transformations], flat[:, size:]


def _substitute(p: Tensor, a: Tensor) -> Tensor:
    """Solve ``h = tanh(p + L h)`` for p [B, K, S], in its place; L is the strictly lower part of a [B, K, K].

    Forward substitution, in blocks of rows: what earlier blocks contribute is one product for the whole
    block, and only the rows within it go one by one.
    """
    rows, columns_of_a = p.split(1, dim=1), a.split(1, dim=2)
    for start, end in _blocks(p.shape[1]):
        if start:
            p[:, start:end].baddbmm_(a[:, start:end, :start], p[:, :start])
        for k in range(start, end):
            rows[k].tanh_()
            later = k + 1, end - k - 1
            p.narrow(1, *later).addcmul_(columns_of_a[k].narrow(1, *later), rows[k])
    return p


def _substitute_back(d_h: Tensor, slope: Tensor, a: Tensor) -> Tensor:
    """Its gradient, ``d_p = slope * (d_h + L' d_p)``, in the place of d_h [B, K, S]."""
    rows, columns_of_a, slopes = d_h.split(1, dim=1), a.mT.split(1, dim=2), slope.split(1, dim=1)
    for start, end in reversed(_blocks(d_h.shape[1])):
        if end < d_h.shape[1]:
            d_h[:, start:end].baddbmm_(a[:, end:, start:end].mT, d_h[:, end:])
        for k in reversed(range(start, end)):
            rows[k].mul_(slopes[k])
            earlier = start, k - start
            d_h.narrow(1, *earlier).addcmul_(columns_of_a[k].narrow(1, *earlier), rows[k])
    return d_h


def _blocks(rows: int, size: int = 8) -> list[tuple[int, int]]:
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
