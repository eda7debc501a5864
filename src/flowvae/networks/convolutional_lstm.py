"""Causal blocks with convolutional LSTMs, by rows and by diagonals (PixelRNN)."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowvae.networks.causal import CausalBlock, Drawing, halving
from flowvae.networks.dropout import Dropout


class Lines(NamedTuple):
    """The order of a recurrence over a map: lines of positions, each computed at once from the one before.

    The positions of a line are at consecutive places. A position sees the states that were last computed at
    consecutive places, from the one before its own, and continues the cell that was last computed at its own.
    """

    order: Tensor
    """positions of the map in the order of each direction, int64 [directions, P], numbered in raster order"""
    lines: tuple[tuple[int, int], ...]
    """first place of each line, and the one after its last"""
    places: int
    """number of places"""


@lru_cache
def rows(height: int, width: int) -> Lines:
    """Return the rows of a map: the place is the column."""
    return Lines(torch.arange(height * width).view(1, -1), ((0, width),) * height, width)


@lru_cache
def diagonals(height: int, width: int) -> Lines:
    """Return the diagonals from the top left, and those from the top right: the place is the row.

    Diagonals have only the positions inside the map, up to half of those of a skewed map.

    >>> diagonals(2, 3).order.tolist()
    [[0, 1, 3, 2, 4, 5], [2, 1, 5, 0, 4, 3]]
    """
    ends = tuple((max(0, d - width + 1), min(d + 1, height)) for d in range(height + width - 1))
    row = torch.tensor([place for low, high in ends for place in range(low, high)])
    column = torch.tensor([d - place for d, (low, high) in enumerate(ends) for place in range(low, high)])
    return Lines(row * width + torch.stack([column, width - 1 - column]), ends, height)


class ConvolutionalLSTM(nn.Module):
    """States of an LSTM that goes over maps line by line, in each of its directions with other weights.

    ``a, b, c, d = W x + V s + bias`` of the input x and the states s seen in the line before; ``cell =
    sigmoid(b) cell + sigmoid(a) tanh(d)`` and ``state = sigmoid(c) tanh(cell)``. The bias of b, the forget
    gates, starts at 1.

    Args:
        inputs: number of channels of the input.
        size: h, number of channels of the states.
        kernel: (height, width) of V, as a convolution of the line before; one of them is 1.
        reach: (height, width) of W, a convolution that ends at its own position.
        directions: D, number of directions.
    """

    def __init__(
        self,
        inputs: int,
        size: int,
        kernel: tuple[int, int],
        reach: tuple[int, int] = (1, 1),
        directions: int = 1,
    ) -> None:
        super().__init__()
        # Kernels of convolutions, for the sake of optimizers that treat them so; here each is a matrix.
        self.of_inputs = nn.ModuleList(nn.Conv2d(inputs, 4 * size, reach) for _ in range(directions))
        self.of_states = nn.ModuleList(
            nn.Conv2d(size, 4 * size, kernel, bias=False) for _ in range(directions)
        )
        self.size = size
        for layer in (*self.of_inputs, *self.of_states):
            weight = layer.get_parameter("weight")
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        for layer in self.of_inputs:
            nn.init.zeros_(layer.get_parameter("bias"))
            nn.init.ones_(layer.get_parameter("bias")[size : 2 * size])

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return W' [D, taps inputs, 4 h], V' [D, taps h, 4 h] and the bias [D, 1, 4 h], that of g doubled.

        Since ``tanh(d) = 2 sigmoid(2 d) - 1``, all gates are then one sigmoid, which on a CPU takes a tenth
        of the time of tanh.
        """
        of_input, of_state = (
            torch.stack([layer.get_parameter("weight").permute(2, 3, 1, 0).flatten(0, 2) for layer in layers])
            for layers in (self.of_inputs, self.of_states)
        )
        bias = torch.stack([layer.get_parameter("bias").unsqueeze(0) for layer in self.of_inputs])
        factor = torch.ones_like(bias[:1, :1])
        factor[..., 3 * self.size :] = 2
        return of_input * factor, of_state * factor, bias * factor

    def forward(self, x: Tensor, lines: Lines) -> Tensor:
        """Compute states [D, P, N, h] of inputs [D, P, N, taps inputs], in the order of each direction."""
        return _LSTM.apply(x, *(matrix.to(x.dtype) for matrix in self.matrices()), lines)

    @staticmethod
    def step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Compute state and doubled cell from the sums of products of one position, [N, 4 h], [N, h]."""
        i, f, o, s = gates.sigmoid().chunk(4, dim=-1)
        cell = f * cell + i * (4 * s - 2)
        return o * (2 * cell.sigmoid() - 1), cell


class _LSTM(torch.autograd.Function):
    """`ConvolutionalLSTM`: one product computes W x of all positions, and one per line V s of all directions.

    The backward pass has one product per line too, and the gradients of weights and inputs are products over
    all positions. Cells are doubled, so that ``tanh(cell) = 2 sigmoid(doubled) - 1``, and float32 or wider.
    """

    @staticmethod
    def forward(ctx, x: Tensor, of_input: Tensor, of_state: Tensor, bias: Tensor, lines: Lines) -> Tensor:  # type: ignore[override]  # as documented
        directions, number, images, _ = x.shape
        size = of_state.shape[2] // 4
        taps = of_state.shape[1] // size
        wide = torch.promote_types(x.dtype, torch.float32)
        gates = torch.baddbmm(bias, x.flatten(1, 2), of_input).unflatten(1, (number, images))
        seen = x.new_empty(directions, number, images, taps * size)
        before, tanhs, states = (x.new_empty(directions, number, images, size) for _ in range(3))
        # The states of place p are at p + 1: there are zeros on both sides.
        line = x.new_zeros(directions, lines.places + 2, images, size)
        cells = x.new_zeros(directions, lines.places, images, size, dtype=wide)
        for here, low, high in _parts(lines):
            torch.cat([line[:, low + tap : high + tap] for tap in range(taps)], dim=3, out=seen[:, here])
            own, cell = gates[:, here], cells[:, low:high]
            own.flatten(1, 2).baddbmm_(seen[:, here].flatten(1, 2), of_state).sigmoid_()
            i, f, o, s = own.to(wide).split(size, dim=3)
            before[:, here] = cell
            cell.mul_(f).addcmul_(i, s, value=4).sub_(i, alpha=2)
            tanh = torch.sigmoid(cell).mul_(2).sub_(1)
            tanhs[:, here] = tanh
            states[:, here] = line[:, low + 1 : high + 1] = tanh.mul_(o)
        ctx.save_for_backward(x, of_input, of_state, gates, seen, before, tanhs)
        ctx.lines = lines
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, d_states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:  # type: ignore[override]  # as documented
        x, of_input, of_state, gates, seen, before, tanhs = ctx.saved_tensors
        lines: Lines = ctx.lines
        directions, _, images, _ = x.shape
        size = of_state.shape[2] // 4
        wide = torch.promote_types(x.dtype, torch.float32)
        d_gates = torch.empty_like(gates)
        d_line = x.new_zeros(directions, lines.places + 2, images, size, dtype=wide)
        d_cells = x.new_zeros(directions, lines.places, images, size, dtype=wide)
        for here, low, high in reversed(list(_parts(lines))):
            own, tanh = gates[:, here].to(wide), tanhs[:, here].to(wide)
            i, f, o, s = own.split(size, dim=3)
            d_state = d_line[:, low + 1 : high + 1] + d_states[:, here]
            # What was at these places before has been seen by this line and earlier ones only.
            d_line[:, low + 1 : high + 1] = 0
            d_cell = d_cells[:, low:high]
            d_cell += torch.ops.aten.tanh_backward(d_state * o, tanh).mul_(0.5)
            d_own = torch.empty_like(own)
            d_i, d_f, d_o, d_s = d_own.split(size, dim=3)
            torch.mul(d_cell, s, out=d_i).mul_(4).sub_(d_cell, alpha=2)
            torch.mul(d_cell, before[:, here], out=d_f)
            torch.mul(d_state, tanh, out=d_o)
            torch.mul(d_cell, i, out=d_s).mul_(4)
            d_cell *= f
            torch.ops.aten.sigmoid_backward(d_own, own, grad_input=d_own)
            d_gates[:, here] = d_own
            d_seen = torch.bmm(d_gates[:, here].flatten(1, 2), of_state.mT).view_as(seen[:, here])
            for tap, part in enumerate(d_seen.split(size, dim=3)):
                d_line[:, low + tap : high + tap] += part
        flat = d_gates.flatten(1, 2)
        return (
            torch.bmm(flat, of_input.mT).view_as(x),
            torch.bmm(x.flatten(1, 2).mT, flat),
            torch.bmm(seen.flatten(1, 2).mT, flat),
            flat.sum(1, keepdim=True),
            None,
        )


def _parts(lines: Lines) -> Iterator[tuple[slice, int, int]]:
    """Yield each line: its part of the order, its first place, and the one after its last."""
    start = 0
    for low, high in lines.lines:
        yield slice(start, start + high - low), low, high
        start += high - low


class LSTMBlock(CausalBlock):
    """``x + W s``, s the states of an LSTM that goes over the maps x; starts close to the identity.

    Maps [N, C, H, W] are stored as [H, W, N, C], in which a line is a product.

    Args:
        size: h, number of channels of the states.
    """

    def __init__(self, lstm: ConvolutionalLSTM, channels: int, dropout: float) -> None:
        super().__init__()
        self.lstm, self.dropout = lstm, Dropout(dropout, axis=2)
        self.mix = nn.Conv2d(lstm.size, channels, 1)
        halving(self.mix)

    @abstractmethod
    def states(self, x: Tensor) -> Tensor:
        """Compute states [H, W, N, h] of maps [H, W, N, C]."""

    @abstractmethod
    def drawing_states(self, like: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return a function from x [N, C] and its column to the state [N, h], in raster order.

        ``like``: maps [H, W, N, C].
        """

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x = x.permute(2, 3, 0, 1).contiguous()
        kind = x.device.type
        states = self.states(x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x)
        return (x + self._mixed(self.dropout(states))).permute(2, 3, 0, 1)

    def _mixed(self, states: Tensor) -> Tensor:
        return F.linear(states, self.mix.weight.flatten(1), self.mix.bias)

    def drawing(self, like: Tensor) -> Drawing:
        state_at = self.drawing_states(like.permute(2, 3, 0, 1))

        def at(x: Tensor, condition: Tensor | None, row: int, column: int) -> Tensor:
            return x + self._mixed(state_at(x[:, :, 0, 0], column))[:, :, None, None]

        return at


class RowLSTM(LSTMBlock):
    """An LSTM that goes down from row to row (van den Oord, Kalchbrenner & Kavukcuoglu 2016).

    It sees the input at its own position and left of it, and three states in the row above. So a position
    depends on a triangle above it, which widens by one position per row on each side.

    Args:
        channels: C; states have half as many.
        dropout: dropout probability of the states.
    """

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        lstm = ConvolutionalLSTM(channels, max(1, channels // 2), kernel=(1, 3), reach=(1, 2))
        super().__init__(lstm, channels, dropout)

    def states(self, x: Tensor) -> Tensor:
        left = F.pad(x, (0, 0, 0, 0, 1, 0))[:, :-1]
        both = torch.cat([left, x], dim=3)
        return self.lstm(both.flatten(0, 1).unsqueeze(0), rows(*x.shape[:2]))[0].unflatten(0, x.shape[:2])

    def drawing_states(self, like: Tensor) -> Callable[[Tensor, int], Tensor]:
        _, width, number, _ = like.shape
        of_input, of_state, bias = (matrix[0] for matrix in self.lstm.matrices())
        line = like.new_zeros(width + 2, number, self.lstm.size)
        cells = like.new_zeros(width, number, self.lstm.size)
        left, of_line = like[0, 0], like

        def at(x: Tensor, column: int) -> Tensor:
            nonlocal left, of_line
            if column == 0:  # the row above is complete
                of_line = torch.cat([line[:-2], line[1:-1], line[2:]], dim=2) @ of_state + bias
                left = torch.zeros_like(x)
            gates = of_line[column] + torch.cat([left, x], dim=1) @ of_input
            line[column + 1], cells[column] = self.lstm.step(gates, cells[column])
            left = x
            return line[column + 1]

        return at


class DiagonalLSTM(LSTMBlock):
    """Two LSTMs from diagonal to diagonal, from either upper corner (van den Oord et al. 2016).

    A position sees the input there, and the states above it and beside it, on the side of the corner. The
    state from the right is that of the row above, whose right side comes before the position. So a position
    depends on all positions up to its own in raster order.

    Args:
        channels: C; states have half as many, and those of both directions are added.
        dropout: dropout probability of the states.
    """

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        lstm = ConvolutionalLSTM(channels, max(1, channels // 2), kernel=(2, 1), directions=2)
        super().__init__(lstm, channels, dropout)

    def states(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        lines = diagonals(*x.shape[:2])
        order = lines.order.to(x.device)
        # `index_select` has a faster gradient than indexing.
        inputs = x.flatten(0, 1).index_select(0, order.flatten()).unflatten(0, order.shape)
        left, right = (
            states.index_select(0, own.argsort())
            for states, own in zip(self.lstm(inputs, lines), order, strict=True)
        )
        return torch.cat([left[:width], left[width:] + right[:-width]]).unflatten(0, x.shape[:2])

    def drawing_states(self, like: Tensor) -> Callable[[Tensor, int], Tensor]:
        _, width, number, _ = like.shape
        of_input, of_state, bias = self.lstm.matrices()
        inputs = torch.zeros_like(like[0])
        above_left, above_right = like.new_zeros(2, width, number, self.lstm.size)
        nothing = like.new_zeros(number, self.lstm.size)
        state, cell, first = nothing, nothing, True

        def step(direction: int, of_x: Tensor, above: Tensor) -> Tensor:
            nonlocal state, cell
            gates = of_x + torch.cat([above, state], dim=1) @ of_state[direction]
            state, cell = self.lstm.step(gates, cell)
            return state

        def at(x: Tensor, column: int) -> Tensor:
            nonlocal state, cell, first
            if column == 0:
                if not first:  # the row above is complete
                    state, cell = nothing, nothing
                    of_inputs = inputs @ of_input[1] + bias[1]
                    for place in reversed(range(width)):
                        above_right[place] = step(1, of_inputs[place], above_right[place])
                state, cell, first = nothing, nothing, False
            inputs[column] = x
            above_left[column] = step(0, x @ of_input[0] + bias[0], above_left[column])
            return above_left[column] + above_right[column]

        return at
