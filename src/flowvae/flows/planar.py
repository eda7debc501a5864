"""K planar transformations at once."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowvae.flows.flow import Flow
from flowvae.flows.precision import full_precision
from flowvae.flows.steps import AffineStep, MonotoneStep, Step

# So that m(0) = softplus(log(e - 1)) - 1 = 0.
LOG_E_MINUS_1 = math.log(math.e - 1)
# Of the steps in whole numbers: knots are 1/32 apart, and a slope is at least this.
KNOT_BITS, FARTHEST, LEAST_SLOPE = 5, 1 << 30, 2.0**-8


class Planar(Flow):
    r"""K planar transformations ``z_k = z_{k-1} + u_k h(w_k' z_{k-1} + b_k)``, ``h = tanh``.

    (Rezende & Mohamed 2015, equations 10 to 12.) ``log|det| = sum_k log|1 + u_k' psi_k|`` with ``psi_k =
    h'(w_k' z_{k-1} + b_k) w_k``. The map is invertible where ``w_k' u_k >= -1``, which their appendix A.1
    enforces by ``u <- u + (m(w'u) - w'u) w / ||w||^2`` with ``m(x) = softplus(x) - 1``; here ``m(x) =
    softplus(x + log(e - 1)) - 1``, which has the same range and leaves ``u = 0`` alone, so that the chain
    starts as the identity.

    The transformations are computed in blocks of at most 10, and within a block no vector of D dimensions is
    passed from one to the next. With the block's ``W``, ``U`` [s, D], ``p = W z + b``, ``A = W U'`` and ``L``
    its strictly lower part, the activations solve ``h = tanh(p + L h)``, a recurrence of s scalars; then
    ``z' = z + U' h`` and ``log|det| = sum_k log(1 + (1 - h_k^2) A_kk)``. All samples of an image share A.
    Small blocks have a small A, few blocks have few large products; blocks of 10 were the fastest. With ``1 +
    A_kk = softplus(w'u + log(e - 1))``, the determinant is ``h_k^2 + (1 - h_k^2) (1 + A_kk)``: a sum that
    rounding cannot make negative.

    Args:
        dimension: D.
        transformations: K, number of transformations.
        amortized: whether the context contains parameters per image, which are added to the flow's own;
            ``context_features = K (2 D + 1)``, see `Planar.separate`.
    """

    def __init__(self, dimension: int, transformations: int, amortized: bool = False) -> None:
        super().__init__()
        self.dimension, self.transformations = dimension, transformations
        self.block = max(size for size in range(1, 11) if transformations % size == 0)
        # w = 0 would be singular; u and b of 0 are the identity.
        w = torch.randn(transformations // self.block, self.block * dimension) * dimension**-0.5
        self.parameters_of_all = nn.Parameter(F.pad(w, (0, self.block * (dimension + 1))).flatten())
        self.context_features = len(self.parameters_of_all) if amortized else 0

    def separate(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split parameters [..., K (2 D + 1)] into ``W``, ``U`` before A.1 [..., K, D] and ``b`` [..., K]."""
        blocks = flat.unflatten(-1, (-1, self.block * (2 * self.dimension + 1)))
        size = self.block * self.dimension
        w, v, b = blocks.split([size, size, self.block], dim=-1)
        every = -1, self.dimension
        return w.flatten(-2).unflatten(-1, every), v.flatten(-2).unflatten(-1, every), b.flatten(-2)

    def _flat(self, context: Tensor | None) -> Tensor:
        """Return the parameters in one row per image, or one row for all."""
        flat = self.parameters_of_all.unsqueeze(0)
        return flat + context if self.context_features and context is not None else flat

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(z):
            return _Planar.apply(z, self._flat(context), self.block)

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        w, v, b = self.separate(self._flat(context))
        steps: list[tuple[Tensor, Tensor]] = []
        for k in range(self.transformations):
            own = torch.cat([w[:, k], v[:, k], b[:, k : k + 1]], dim=1)
            steps.append(_Planar.apply(steps[-1][0] if steps else z, own, 1))
        return steps

    def _w_and_u(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return W and U [B or 1, K, D], b and ``w'u`` [B or 1, K]."""
        w, v, b = self.separate(self._flat(context))
        product = (w * v).sum(2)
        u_w = F.softplus(product + LOG_E_MINUS_1) - 1
        return w, torch.addcmul(v, ((u_w - product) / w.square().sum(2)).unsqueeze(2), w), b, u_w

    def steps(self, context: Tensor | None = None) -> list[Step]:
        found: list[Step] = []
        for w, u, b, u_w in zip(*(each.unbind(1) for each in self._w_and_u(context)), strict=True):
            found += _steps(w, u, b.unsqueeze(1), u_w.unsqueeze(1))
        return found

    @torch.no_grad()
    def push_score(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # J = 1 + u psi', so J'^-1 g = g - psi (u'g) / (1 + u'psi).
        w, u, b, u_w = self._w_and_u(context)
        for k in range(self.transformations):
            h = ((z * w[:, k]).sum(2) + b[:, k]).tanh()
            slope = 1 - h.square()
            determinant = 1 + slope * u_w[:, k]
            by_determinant = -2 * h * slope * u_w[:, k] / determinant
            score = score - by_determinant.unsqueeze(2) * w[:, k]
            moved = slope * (score * u[:, k]).sum(2) / determinant
            score = score - moved.unsqueeze(2) * w[:, k]
            z = torch.addcmul(z, h.unsqueeze(2), u[:, k])
        return z, score


def _steps(w: Tensor, u: Tensor, b: Tensor, u_w: Tensor) -> list[Step]:
    """Return one transformation as four steps, with w and u [B or 1, D], b and ``w'u`` [B or 1, 1].

    The value p with the largest weight is replaced by ``s = w'z / w_p``; the others move by ``u_i h(w_p s +
    b)``; s moves by ``w'u / w_p h(w_p s + b)``, a function of its own; and z_p is computed from s again.
    """
    place = F.one_hot(w.abs().argmax(1), w.shape[1]).to(w.dtype)
    largest = (w * place).sum(1, keepdim=True)
    others = w / largest * (1 - place)
    still = torch.zeros_like(w)

    def activation(z: Tensor) -> Tensor:
        return torch.tanh(largest * (z * place).sum(2, keepdim=True) + b)

    def moved(z: Tensor) -> Tensor:
        s = z + u_w / largest * torch.tanh(largest * z + b)
        return torch.where(place > 0, torch.lerp(s, z, LEAST_SLOPE), z)

    def sheared(sign: int) -> AffineStep:
        return AffineStep(lambda z: (still, sign * place * (z * others).sum(2, keepdim=True)))

    return [
        sheared(1),
        AffineStep(lambda z: (still, u * (1 - place) * activation(z))),
        MonotoneStep(moved, KNOT_BITS, (-FARTHEST, FARTHEST)),
        sheared(-1),
    ]


class _Planar(torch.autograd.Function):
    """The chain for z [S, B, D] and parameters in rows [B or 1, K (2 D + 1)]: blocks of ``W``, ``V``, ``b``.

    With ``u_k = v_k + c_k w_k`` (see `Planar`), ``U`` is never computed: ``A = W V' + W W' diag(c)``, where
    one product computes both, with ``w'v`` and ``||w||^2`` on the diagonals, and ``U' h = V' h + W' (c h)``.
    The backward pass has the same few batched products, and writes the gradient of all parameters into one
    tensor. What does not depend on z is computed for all n blocks of all images at once, [B n]: block k of
    each image is every n-th of them, from k.
    """

    @staticmethod
    def forward(ctx, z: Tensor, flat: Tensor, size: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as documented
        samples, images, dimension = z.shape
        # The rows that each set of parameters transforms: [B, S, D], or [1, B S, D] if all share one set.
        rows = z.transpose(0, 1).reshape(flat.shape[0], -1, dimension)
        w_and_v, w, b = _parts(flat, size, dimension)
        number = flat.shape[1] // (size * (2 * dimension + 1))
        products = w @ w_and_v.mT  # [B n, s, 2 s]
        w_w, w_v = products.chunk(2, dim=2)
        product = w_v.diagonal(dim1=1, dim2=2)
        one_more = F.softplus(product + LOG_E_MINUS_1)
        c = (one_more - 1 - product) / w_w.diagonal(dim1=1, dim2=2)
        lower = torch.addcmul(w_v, w_w, c.unsqueeze(1)).tril_(-1)
        inputs: list[Tensor] = []
        scaled_and_h: list[Tensor] = []  # [B, 2 s, S] each: c h, h
        for k in range(number):
            own = slice(k, None, number)
            inputs.append(rows)
            h = _substitute(torch.baddbmm(b[own].unsqueeze(2), w[own], rows.mT), lower[own])
            scaled_and_h.append(torch.cat([c[own].unsqueeze(2) * h, h], dim=1))
            rows = torch.baddbmm(rows, scaled_and_h[-1].mT, w_and_v[own])
        both = _of_all(scaled_and_h)
        square = both[:, size:].square()
        determinants = square + (1 - square) * one_more.unsqueeze(2)
        ctx.save_for_backward(flat, products, one_more, c, lower, both, determinants, *inputs)
        ctx.size = size
        log_determinant = determinants.log().unflatten(0, (-1, number)).sum((1, 2))
        return (
            rows.reshape(images, samples, dimension).transpose(0, 1),
            log_determinant.reshape(images, samples).t(),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, d_moved: Tensor, d_log_determinant: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]  # as documented
        flat, products, one_more, c, lower, both, determinants, *inputs = ctx.saved_tensors
        samples, images, dimension = d_moved.shape
        size, number = ctx.size, len(inputs)
        w_and_v, w, _ = _parts(flat, size, dimension)
        (w_w, w_v), h = products.chunk(2, dim=2), both[:, size:]
        product, norm = w_v.diagonal(dim1=1, dim2=2), w_w.diagonal(dim1=1, dim2=2)
        d_rows = d_moved.transpose(0, 1).reshape(inputs[0].shape)

        slope = 1 - h.square()
        d_log = d_log_determinant.t().reshape(flat.shape[0], 1, 1, -1)
        by_determinant = (d_log / determinants.unflatten(0, (-1, number))).flatten(0, 1)
        d_h_of_determinant = h * by_determinant * (2 - 2 * one_more.unsqueeze(2))
        d_outputs, by_w, d_p = ([torch.empty(0)] * number for _ in range(3))
        for k in reversed(range(number)):
            own = slice(k, None, number)
            d_outputs[k] = d_rows
            by_w[k], by_v = (w_and_v[own] @ d_rows.mT).chunk(2, dim=1)
            d_h = torch.addcmul(by_v, by_w[k], c[own].unsqueeze(2)).add_(d_h_of_determinant[own])
            d_p[k] = _substitute_back(d_h, slope[own], lower[own])
            d_rows = torch.baddbmm(d_rows, d_p[k].mT, w[own])
        d_p_of_all = _of_all(d_p)
        d_a = torch.tril(d_p_of_all @ h.mT, diagonal=-1)

        d_c = ((_of_all(by_w) * h).sum(2) + (d_a * w_w).sum(1)) / norm
        d_one_more = (slope * by_determinant).sum(2) + d_c
        d_product = d_one_more * torch.sigmoid(product + LOG_E_MINUS_1) - d_c
        # The strictly lower parts, as used of A, and the diagonals, which are w'v and ||w||^2.
        d_products = torch.cat([d_a * c.unsqueeze(1), d_a], dim=2)
        d_w_w, d_w_v = d_products.chunk(2, dim=2)
        d_w_w.diagonal(dim1=1, dim2=2).copy_(-d_c * c)
        d_w_v.diagonal(dim1=1, dim2=2).copy_(d_product)

        d_w_and_v = torch.baddbmm(both @ _of_all(d_outputs), d_products.mT, w)
        d_w_and_v[:, :size] += torch.baddbmm(d_p_of_all @ _of_all(inputs), d_products, w_and_v)
        d_blocks = torch.cat([d_w_and_v.flatten(1), d_p_of_all.sum(2)], dim=1)
        return d_rows.reshape(images, samples, dimension).transpose(0, 1), d_blocks.view(flat.shape), None


def _parts(flat: Tensor, size: int, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """View each block as ``W`` and ``V`` together [B n, 2 s, D], ``W`` [B n, s, D], ``b`` [B n, s]."""
    blocks = flat.reshape(-1, size * (2 * dimension + 1))
    w_and_v = blocks[:, : 2 * size * dimension].unflatten(1, (2 * size, dimension))
    return w_and_v, w_and_v[:, :size], blocks[:, 2 * size * dimension :]


def _of_all(blocks: Sequence[Tensor]) -> Tensor:
    """Stack n tensors [B, ...], one per block, into [B n, ...]."""
    return torch.stack(list(blocks), dim=1).flatten(0, 1)


def _substitute(p: Tensor, lower: Tensor) -> Tensor:
    """Solve ``h = tanh(p + L h)`` for p [B, s, S], which is overwritten; L [B, s, s] is strictly lower."""
    h = []
    for row, column in zip(p.split(1, dim=1), lower.split(1, dim=2), strict=True):
        h.append(row.tanh())
        p.addcmul_(column, h[-1])  # the column is 0 for this row and earlier ones
    return torch.cat(h, dim=1)


def _substitute_back(d_h: Tensor, slope: Tensor, lower: Tensor) -> Tensor:
    """Compute its gradient, ``d_p = slope * (d_h + L' d_p)``; d_h [B, s, S] is overwritten."""
    parts = zip(d_h.split(1, dim=1), slope.split(1, dim=1), lower.mT.split(1, dim=2), strict=True)
    d_p = []
    for row, slope_of_row, column in reversed(list(parts)):
        d_p.append(row * slope_of_row)
        d_h.addcmul_(column, d_p[-1])
    return torch.cat(d_p[::-1], dim=1)
