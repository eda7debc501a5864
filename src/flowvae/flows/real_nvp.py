"""K Real NVP transformations with dense conditioners."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowvae.flows.checkpointing import perhaps_checkpointed
from flowvae.flows.flow import Flow
from flowvae.flows.precision import full_precision
from flowvae.flows.steps import AffineStep, Step


class RealNVP(Flow):
    r"""K transformations of two affine couplings, ``y_2 = z_2 * exp(s(z_1)) + t(z_1)``, with swapped halves.

    (Dinh, Sohl-Dickstein & Bengio 2017, equations 4 to 8.) Each coupling has its own perceptron with one
    hidden layer, ``raw, t = relu(z_1 W_1 + context + b_1) W_2 + b_2``, and bounds its log scale, ``s = bound
    * tanh(raw)`` with a learned bound per dimension; ``log|det| = sum s``. The chain starts as the identity.

    This is the same map as a `Chain` of `AffineCoupling` with `Dense` conditioners, several times as fast:
    the halves are never joined, what a gradient needs is stored where one batched product will read it, and
    the weights of all couplings on the same half are one tensor [K, ...].

    Args:
        dimension: D, at least 2; if odd, the first half is the larger one.
        transformations: K, number of transformations.
        hidden: width of the hidden layers.
        context: add the context to the hidden layers; ``context_features = 2 K hidden``.
        bounded: bound the log scale.
        weight_norm: normalize the weights of both layers (Salimans & Kingma 2016).

    >>> flow = RealNVP(dimension=5, transformations=3, hidden=16)
    >>> z, log_determinant = flow(torch.ones(2, 7, 5))
    >>> bool((z == 1).all()), log_determinant.shape
    (True, torch.Size([2, 7]))
    """

    checkpointed = False
    """whether only the values between transformations are stored: see `checkpoint_transformations`"""

    def __init__(
        self,
        dimension: int,
        transformations: int,
        hidden: int,
        *,
        context: bool = False,
        bounded: bool = True,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.context_features = 2 * transformations * hidden if context else 0
        self.bias = nn.Parameter(torch.empty(transformations, 2, hidden))
        first, second = dimension - dimension // 2, dimension // 2
        # For the couplings on the first half, then for those on the second.
        self.conditioners = nn.ModuleList(
            StackedPerceptrons(transformations, inputs, hidden, outputs, bounded, weight_norm)
            for inputs, outputs in ((first, second), (second, first))
        )
        for part, inputs in enumerate((first, second)):
            nn.init.uniform_(self.bias[:, part], -(inputs**-0.5), inputs**-0.5)

    def _weights(self, context: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Return the offset of the hidden layers, [B or 1, K, 2, hidden], and four tensors for each half."""
        offset = self.bias.unsqueeze(0)
        if self.context_features and context is not None:
            offset = offset + context.view(-1, *self.bias.shape)
        perceptrons = cast("Sequence[StackedPerceptrons]", self.conditioners)
        return offset, [weight for perceptron in perceptrons for weight in perceptron()]

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(z):
            if not self.checkpointed:
                offset, weights = self._weights(context)
                return _RealNVP.apply(z, offset, *weights)
            steps = self.unroll(z, context)
            return steps[-1][0], torch.stack([log_determinant for _, log_determinant in steps]).sum(0)

    def unroll(self, z: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        offset, weights = self._weights(context)
        steps: list[tuple[Tensor, Tensor]] = []
        for own in zip(offset.split(1, dim=1), *(weight.split(1) for weight in weights), strict=True):
            before = steps[-1][0] if steps else z
            steps.append(perhaps_checkpointed(self.checkpointed, _RealNVP.apply, before, *own))
        return steps

    @torch.no_grad()
    def push_score(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        offset, weights = self._weights(context)
        halves, scores = list(z.chunk(2, dim=2)), list(score.chunk(2, dim=2))
        for k in range(len(self.bias)):
            for part in (0, 1):
                first, last, bias, bound = (weight[k] for weight in weights[4 * part : 4 * part + 4])
                hidden = torch.relu(halves[part] @ first.t() + offset[:, k, part])
                slope, shift = (hidden @ last.t() + bias).chunk(2, dim=2)
                d_log_scale = -1 - scores[1 - part] * halves[1 - part]
                if len(bound):
                    slope = torch.tanh(slope)
                    d_log_scale = d_log_scale * (1 - slope.square()) * bound
                scale = (slope * bound if len(bound) else slope).exp()
                # The score of the moved half is divided by the scale. The other half determines scale and
                # shift: its score changes by the derivative of log q(z_2) - s through them, at a fixed moved
                # half.
                scores[1 - part] = scores[1 - part] / scale
                by_hidden = torch.cat([d_log_scale, -scores[1 - part]], dim=2) @ last
                scores[part] = scores[part] + (by_hidden * (hidden > 0)) @ first
                halves[1 - part] = torch.addcmul(shift, halves[1 - part], scale)
        return torch.cat(halves, dim=2), torch.cat(scores, dim=2)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        halves = list(z.chunk(2, dim=2))
        total = z.new_zeros(z.shape[:2])
        for part, coupling in reversed(self._couplings(context)):
            log_scale, shift = coupling(halves[part])
            halves[1 - part] = (halves[1 - part] - shift) * (-log_scale).exp()
            total = total - log_scale.sum(2)
        return torch.cat(halves, dim=2), total

    def _couplings(
        self, context: Tensor | None
    ) -> list[tuple[int, Callable[[Tensor], tuple[Tensor, Tensor]]]]:
        """Return, for each coupling, the half that stays, and a function of it: s and t of the other half."""
        offset, weights = self._weights(context)

        def coupling(k: int, part: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
            first, last, bias, bound = (weight[k] for weight in weights[4 * part : 4 * part + 4])

            def parameters(half: Tensor) -> tuple[Tensor, Tensor]:
                hidden = torch.relu(half @ first.t() + offset[:, k, part])
                raw, shift = (hidden @ last.t() + bias).chunk(2, dim=2)
                return torch.tanh(raw) * bound if len(bound) else raw, shift

            return parameters

        return [(part, coupling(k, part)) for k in range(len(self.bias)) for part in (0, 1)]

    def steps(self, context: Tensor | None = None) -> list[Step]:
        def step(part: int, coupling: Callable[[Tensor], tuple[Tensor, Tensor]]) -> AffineStep:
            def parameters(z: Tensor) -> tuple[Tensor, Tensor]:
                fixed = z.chunk(2, dim=2)[part]
                stays = torch.zeros_like(fixed)
                log_scale, shift = (
                    torch.cat([each, stays] if part else [stays, each], dim=2) for each in coupling(fixed)
                )
                return log_scale, shift

            return AffineStep(parameters)

        return [step(*each) for each in self._couplings(context)]


class StackedPerceptrons(nn.Module):
    """The weights of K conditioners.

    Calling it returns ``W_1`` [K, hidden, inputs], ``W_2`` [K, 2 outputs, hidden], ``b_2`` [K, 2 outputs] and
    the bounds [K, outputs], or [K, 0] if unbounded.
    """

    def __init__(
        self, number: int, inputs: int, hidden: int, outputs: int, bounded: bool, weight_norm: bool
    ) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(number, hidden, inputs).uniform_(-1, 1) * inputs**-0.5)
        self.last = nn.Parameter(torch.zeros(number, 2 * outputs, hidden))
        self.last_bias = nn.Parameter(torch.zeros(number, 2 * outputs))
        self.bound = nn.Parameter(torch.ones(number, outputs)) if bounded else None
        self.norms = None
        if weight_norm:
            # The rows of the last layer have random directions and the norm 0.
            nn.init.uniform_(self.last, -1, 1)
            self.norms = nn.ParameterList([self.first.detach().norm(dim=2), torch.zeros(number, 2 * outputs)])

    def forward(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, last = self.first, self.last
        if self.norms is not None:
            first = F.normalize(first, dim=2) * self.norms[0].unsqueeze(2)
            last = F.normalize(last, dim=2) * self.norms[1].unsqueeze(2)
        bound = last.new_empty(len(last), 0) if self.bound is None else self.bound
        return first, last, self.last_bias, bound


class _RealNVP(torch.autograd.Function):
    """The chain for z [S, B, D], with all of its weights; N = S B rows.

    All values of the halves, hidden layers, tanh and scales are stored, each in one tensor for all couplings
    of a part (0: the first half moves the second, 1: vice versa). The backward pass goes through the chain
    for the rows only; the gradients of all weights follow from a few batched products.
    """

    @staticmethod
    def forward(ctx, z: Tensor, offset: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as documented
        samples, images, _ = z.shape
        rows, count, hidden = samples * images, weights[0].shape[0], offset.shape[3]
        bounded = weights[3].shape[1] > 0
        # halves[part][k]: a half before transformation k; the last one is the result.
        halves = [
            torch.cat([half.reshape(1, rows, -1), z.new_empty(count, rows, half.shape[2])])
            for half in z.chunk(2, dim=2)
        ]
        hiddens = [z.new_empty(count, rows, hidden) for _ in halves]
        # The tanh of the raw log scales, or the raw log scales if unbounded.
        slopes = [z.new_empty(count, rows, half.shape[2]) for half in reversed(halves)]
        scales = [torch.empty_like(slope) for slope in slopes]
        # Views by k: taking all of them at once costs a fraction of taking them in the loop.
        weight = [each.unbind() for each in weights]
        half, activation = [each.unbind() for each in halves], [each.unbind() for each in hiddens]
        slope, scale = [each.unbind() for each in slopes], [each.unbind() for each in scales]
        offsets = [each.unbind(1) for each in offset.unbind(2)]
        for k in range(count):
            for part in (0, 1):
                first, last, bias, bound = weight[4 * part : 4 * part + 4]
                relu = torch.mm(half[part][k + part], first[k].t(), out=activation[part][k])
                relu.view(samples, images, hidden).add_(offsets[part][k]).relu_()
                raw, shift = torch.addmm(bias[k], relu, last[k].t()).chunk(2, dim=1)
                if bounded:
                    torch.mul(torch.tanh(raw, out=slope[part][k]), bound[k], out=scale[part][k]).exp_()
                else:
                    torch.exp(slope[part][k].copy_(raw), out=scale[part][k])
                torch.addcmul(shift, half[1 - part][k], scale[part][k], out=half[1 - part][k + 1])
        log_determinant = sum(
            (each * weights[4 * part + 3].unsqueeze(1) if bounded else each).sum((0, 2))
            for part, each in enumerate(slopes)
        )
        ctx.save_for_backward(*hiddens, *halves, *slopes, *scales, *weights)
        ctx.sizes = samples, images, offset.shape[0]
        moved = torch.cat([each[-1] for each in halves], dim=1)
        return moved.view_as(z), cast(Tensor, log_determinant).view(samples, images)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_moved: Tensor, d_log_determinant: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]  # as documented
        saved = ctx.saved_tensors
        (hiddens, halves, slopes, scales), weights = (saved[i : i + 2] for i in (0, 2, 4, 6)), saved[8:]
        samples, images, offsets = ctx.sizes
        count, rows, hidden = hiddens[0].shape
        bounded = weights[3].shape[1] > 0
        # Copies, even of a single row: they are written to.
        d_half = [
            each.reshape(rows, -1).clone(memory_format=torch.contiguous_format)
            for each in d_moved.chunk(2, dim=2)
        ]
        by_determinant = d_log_determinant.reshape(rows, 1)
        d_hiddens = hiddens[0].new_empty(2, count, rows, hidden)
        d_outputs = [each.new_empty(*each.shape[:2], 2 * each.shape[2]) for each in slopes]
        d_log_scales = [torch.empty_like(each) for each in slopes]
        weight = [each.unbind() for each in weights]
        half, activation = [each.unbind() for each in halves], [each.unbind() for each in hiddens]
        slope, scale = [each.unbind() for each in slopes], [each.unbind() for each in scales]
        d_activation, d_output = [each.unbind() for each in d_hiddens], [each.unbind() for each in d_outputs]
        d_raws, d_shifts = zip(*(each.chunk(2, dim=2) for each in d_outputs), strict=True)
        d_raw, d_shift = [each.unbind() for each in d_raws], [each.unbind() for each in d_shifts]
        d_log_scale = [each.unbind() for each in d_log_scales]
        for k in reversed(range(count)):
            for part in (1, 0):
                first, last, _, bound = weight[4 * part : 4 * part + 4]
                moving = d_half[1 - part]
                d_shift[part][k].copy_(moving)
                moving.mul_(scale[part][k])
                by_scale = torch.addcmul(by_determinant, moving, half[1 - part][k], out=d_log_scale[part][k])
                if bounded:
                    by_scale = torch.ops.aten.tanh_backward(by_scale, slope[part][k])
                    d_raw[part][k].copy_(by_scale.mul_(bound[k]))
                else:
                    d_raw[part][k].copy_(by_scale)
                by_relu = torch.mm(d_output[part][k], last[k], out=d_activation[part][k])
                torch.ops.aten.threshold_backward(by_relu, activation[part][k], 0, grad_input=by_relu)
                d_half[part] = torch.addmm(d_half[part], by_relu, first[k])
        gradients: list[Tensor] = []
        for part in (0, 1):
            inputs = halves[part][1:] if part else halves[part][:-1]
            d_bound = (d_log_scales[part] * slopes[part]).sum(1) if bounded else weights[4 * part + 3]
            gradients += [
                d_hiddens[part].mT @ inputs,
                d_outputs[part].mT @ hiddens[part],
                d_outputs[part].sum(1),
                d_bound,
            ]
        # [2, K, S, B, hidden] to [B or 1, K, 2, hidden]
        d_offset = d_hiddens.view(2, count, samples, images, hidden)
        d_offset = d_offset.sum((2, 3), keepdim=True)[:, :, 0] if offsets == 1 else d_offset.sum(2)
        return (
            torch.cat(d_half, dim=1).view(samples, images, -1),
            d_offset.permute(2, 1, 0, 3),
            *gradients,
        )
