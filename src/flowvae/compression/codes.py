r"""Codes as whole numbers: standard normal noise, and affine maps that lose nothing.

A number z is stored as the whole number nearest to ``z / CELL``. An affine map of such numbers rounds, and so
would lose something, or reach only some of the numbers. `do` gives and takes the difference from the stack:
to multiply by the fraction ``R / S``, it pops one of R equally probable remainders, and pushes which one of S
was left over. So the map is a bijection of the numbers together with the stack, and in all the stack gets
``log2(S / R)`` bits longer, which is how much ``log2 q(z)`` rises (Zhang et al. 2021, with S fixed).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowvae.compression.stack import Integers, Stack
from flowvae.errors import UserError
from flowvae.flows import AffineStep, MonotoneStep, Step

CELL_BITS = 14
CELL = 2.0**-CELL_BITS
"""distance between neighbouring codes"""
SCALE_BITS = 12
ONE = 1 << SCALE_BITS
"""S: scales are multiples of 1 / S"""
LARGEST_SCALE = (1 << 23) - 1
FARTHEST = 1 << 39
"""of a code, in cells: its product with a scale has 64 bits"""

# Standard normal noise: steps within which the density counts as constant, and one value for all beyond.
STEP_BITS = 9
"""of cells within a step, which is 1/32 wide"""
REACH = 8
"""of the steps, from 0 on both sides"""
STEPS = 2 * REACH << (CELL_BITS - STEP_BITS)
END = STEPS // 2 << STEP_BITS
"""of the steps, in cells"""
MOST_BITS = 48
"""of the distance from the end of the steps"""
DIGIT_BITS = 16


def _normal_table() -> np.ndarray:
    """Return the weights of the steps, and that of the numbers beyond them."""
    edges = [math.erf((k / STEPS * 2 - 1) * REACH / math.sqrt(2)) for k in range(STEPS + 1)]
    return np.array([*np.diff(edges), 0.0])


NORMAL = _normal_table()
LENGTHS = np.array([0.5**length for length in range(MOST_BITS)])
"""weights of the number of bits of the distance: any distance can be pushed, and what is popped is near"""


def pop_normal(stack: Stack, shape: tuple[int, ...]) -> Integers:
    """Pop standard normal noise, in cells."""
    number = math.prod(shape)
    step = stack.pop(NORMAL, number)
    inside = stack.pop_uniform(np.where(step < STEPS, 1 << STEP_BITS, 1))
    noise = (step << STEP_BITS) - END + inside
    for place in np.flatnonzero(step == STEPS):
        noise[place] = _pop_beyond(stack)
    return noise.reshape(shape)


def push_normal(stack: Stack, noise: Integers) -> None:
    """Undo `pop_normal`."""
    noise = noise.reshape(-1)
    step = noise + END >> STEP_BITS
    beyond = (step < 0) | (step >= STEPS)
    for place in np.flatnonzero(beyond)[::-1]:
        _push_beyond(stack, int(noise[place]))
    stack.push_uniform(noise & (1 << STEP_BITS) - 1, np.where(beyond, 1, 1 << STEP_BITS))
    stack.push(np.where(beyond, STEPS, step), NORMAL)


def _pop_beyond(stack: Stack) -> int:
    """Pop a number beyond the steps: its sign, the length of its distance from them, and the distance."""
    sign, length = int(stack.pop_uniform(np.array([2]))[0]), int(stack.pop(LENGTHS, 1)[0])
    digits = stack.pop_uniform(_digit_sizes(length))
    distance = (1 << length) - 1 + sum(int(digit) << DIGIT_BITS * k for k, digit in enumerate(digits))
    return END + distance if sign else -END - 1 - distance


def _push_beyond(stack: Stack, number: int) -> None:
    """Undo `_pop_beyond`."""
    distance = number - END if number > 0 else -END - 1 - number
    length = (distance + 1).bit_length() - 1
    sizes, rest = _digit_sizes(length), distance + 1 - (1 << length)
    digits = [rest >> DIGIT_BITS * k & (1 << DIGIT_BITS) - 1 for k in range(len(sizes))]
    stack.push_uniform(np.array(digits, np.int64), sizes)
    stack.push(np.array([length]), LENGTHS)
    stack.push_uniform(np.array([number > 0], np.int64), np.array([2]))


def _digit_sizes(length: int) -> Integers:
    """Return the numbers of values of the digits of ``length`` bits, the lowest first."""
    lengths = [min(DIGIT_BITS, length - begin) for begin in range(0, length, DIGIT_BITS)]
    return 1 << np.array(lengths, np.int64)


def as_floats(codes: Integers) -> Tensor:
    """Return codes as numbers, float64."""
    return torch.from_numpy(codes * CELL)


def do(stack: Stack, codes: Integers, steps: Sequence[Step]) -> Integers:
    """Apply affine maps to codes [S, B, D], in cells.

    Raises:
        UserError: if codes are not finite, or too far from 0.
    """
    for step in steps:
        if isinstance(step, MonotoneStep):
            codes = _do_monotone(stack, codes, step)
            continue
        scale, shift = _parameters(step, codes)
        added = stack.pop_uniform(np.where(_moving(step, scale), scale, 1))
        product = codes * scale + added
        stack.push_uniform(product & ONE - 1, np.where(_moving(step, scale), ONE, 1))
        codes = (product >> SCALE_BITS) + shift
        if np.abs(codes).max(initial=0) >= FARTHEST:
            raise UserError("a code is too far from 0 to be compressed; train with a lower --learning-rate")
    return codes


def undo(stack: Stack, codes: Integers, steps: Sequence[Step]) -> Integers:
    """Invert `do`."""
    for step in reversed(steps):
        if isinstance(step, MonotoneStep):
            codes = _undo_monotone(stack, codes, step)
            continue
        before, left = codes, None
        for _ in range(step.depth + 1):
            scale, shift = _parameters(step, before)
            if left is None:
                left = stack.pop_uniform(np.where(_moving(step, scale), ONE, 1))
            product = (codes - shift << SCALE_BITS) + left
            found, added = product // scale, product % scale
            if step.depth == 1 or np.array_equal(found, before):
                stack.push_uniform(added, np.where(_moving(step, scale), scale, 1))
                break
            before = found.clip(-FARTHEST, FARTHEST)
        else:
            raise UserError("codes do not agree with their images; the file is damaged")
        codes = found
    return codes


def _moving(step: AffineStep, scale: Integers) -> Integers:
    """Return which values the stack takes part in.

    Where the scale is 1, nothing is left over. It is not known beforehand if values depend on each other.
    """
    return (scale != ONE) | (step.depth > 1)


def _parameters(step: AffineStep, codes: Integers) -> tuple[Integers, Integers]:
    """Return scale and shift as whole numbers, of the codes' shape."""
    log_scale, shift = step.parameters(as_floats(codes))
    scale = (log_scale.exp() * ONE).nan_to_num(ONE).round().clamp(2, LARGEST_SCALE)
    shift = (shift / CELL).nan_to_num(0.0).round().clamp(-FARTHEST, FARTHEST)
    scale, shift = (each.expand(codes.shape).to(torch.int64).numpy() for each in (scale, shift))
    return scale, shift


def _do_monotone(stack: Stack, codes: Integers, step: MonotoneStep) -> Integers:
    """Apply a map that is linear between knots: what is between two knots goes between their images."""
    bits = CELL_BITS - step.distance_bits
    knot = codes >> bits
    first, width = _between(step, knot)
    moving = width != 1 << bits
    product = (codes & (1 << bits) - 1) * width + stack.pop_uniform(np.where(moving, width, 1))
    stack.push_uniform(product & (1 << bits) - 1, np.where(moving, 1 << bits, 1))
    return (product >> bits) + first


def _undo_monotone(stack: Stack, codes: Integers, step: MonotoneStep) -> Integers:
    """Invert `_do_monotone`; the knots are found by bisection."""
    bits = CELL_BITS - step.distance_bits
    knot, after = (np.full_like(codes, end) for end in step.reach)
    while (after - knot).max(initial=0) > 1:
        middle = knot + after >> 1
        beyond = _image(step, middle) > codes
        knot, after = np.where(beyond, knot, middle), np.where(beyond, middle, after)
    first, width = _between(step, knot)
    moving = width != 1 << bits
    product = (codes - first << bits) + stack.pop_uniform(np.where(moving, 1 << bits, 1))
    stack.push_uniform(product % width, np.where(moving, width, 1))
    return (knot << bits) + product // width


def _between(step: MonotoneStep, knots: Integers) -> tuple[Integers, Integers]:
    """Return the images of knots, and how far those of the next knots are from them."""
    first = _image(step, knots)
    return first, _image(step, knots + 1) - first


def _image(step: MonotoneStep, knots: Integers) -> Integers:
    images = step.function(torch.from_numpy(knots * 2.0**-step.distance_bits))
    return (images / CELL).round().to(torch.int64).numpy()
