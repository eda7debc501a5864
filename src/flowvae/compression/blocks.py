r"""Blocks of images as words of a stack, by bits back with asymmetric numeral systems.

(Townsend, Bird & Barber 2019.) To push an image x, its code z is popped with q(z|x); x is pushed with p(x|z),
and z with p(z). That takes ``-log p(x|z) - log p(z) + log q(z|x)``, -ELBO at one sample. To pop it, z is
popped with p(z), x with p(x|z), and z is pushed with q(z|x), which gives back the bits that chose it.

All numbers that probabilities are computed from are the same in both directions: networks run in float64 on
one thread of the CPU, over the same portions of images, and their outputs are rounded to whole numbers before
they are used.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.compression.codes import as_floats, do, pop_normal, push_normal, undo
from flowvae.compression.stack import Integers, Stack
from flowvae.compression.values import pop_values, push_values
from flowvae.errors import UserError
from flowvae.models import Compressible, CompressibleWithCode, Model, Normalizing

WEIGHTS = 1 << 18
"""of all values of a pixel together, which are rounded to whole numbers of at least 1"""
MOST_AT_ONCE = 128
GROWTH = 10
"""images before a portion, per image in it: they provide the bits that its codes are popped from"""
PROBED = 2


class Coding:
    """A model, prepared to compress and decompress.

    With S samples, an image is not pushed given one code, but given that of S codes which is chosen with
    probability proportional to ``p(x, z) / q(z|x)``; the others are pushed with q(z|x) and the choice with
    probability 1 / S. That takes the importance-weighted bound of S samples in place of -ELBO (Ruan et al.
    2021).

    Args:
        model: the model, which must be `Compressible` or `Normalizing` and have levels; it is not changed.
        samples: S; 1 if the model has no code.
    """

    def __init__(self, model: Model, samples: int = 1) -> None:
        assert model.levels is not None
        self.levels: int = model.levels
        self.model: Any = copy.deepcopy(model).to("cpu", torch.float64).eval()
        self._density = self.model if isinstance(model, Normalizing) else None
        self._compressible: Compressible = self.model
        self._coded = self.model if isinstance(model, CompressibleWithCode) else None
        if samples > 1 and self._coded is None:
            raise UserError("the model has no code, of which samples could be drawn; omit --samples")
        self.samples = samples

    def compress(
        self, images: Tensor, report: Callable[[int], None] = lambda _: None
    ) -> tuple[NDArray[np.uint32], int]:
        """Compress images, int64 [N, C, H, W] of levels from 0 on.

        ``report`` is called with the number of finished images.

        Returns:
            The words, and how many of them are the random ones from which the first codes were chosen.

        Raises:
            UserError: if the model cannot compress.
        """
        stack, done = Stack(), 0
        with _one_thread(), torch.no_grad():
            for key, few in enumerate(images.split(portions(len(images), self.samples))):
                stack.scramble(key)
                self._push(stack, few)
                done += len(few)
                report(done)
        return stack.words(), stack.initial_words

    def decompress(
        self, words: NDArray[np.uint32], number: int, report: Callable[[int], None] = lambda _: None
    ) -> Tensor:
        """Return the images, int64 [N, C, H, W], that `compress` returned the words of.

        ``report`` is called with the number of finished images.

        Raises:
            UserError: if the words are damaged.
        """
        stack = Stack(words)
        with _one_thread(), torch.no_grad():
            found: list[Tensor] = []
            for key, few in reversed(list(enumerate(portions(number, self.samples)))):
                found.append(self._pop(stack, few))
                stack.scramble(key)
                report(sum(map(len, found)))
        return torch.cat(found[::-1])

    def probe(self) -> str:
        """Return the checksum of a few random images, compressed: equal where probabilities are equal."""
        shape = self.model.image_shape
        assert shape is not None
        random = np.random.Generator(np.random.PCG64(1)).integers(0, self.levels, (PROBED, *shape))
        return hashlib.sha256(self.compress(torch.from_numpy(random))[0].astype("<u4").tobytes()).hexdigest()

    def seen(self, images: Tensor) -> Tensor:
        """Return images as the model takes them."""
        return images.double() / (self.levels - 1)

    def _push(self, stack: Stack, images: Tensor) -> None:
        if self._density is not None:
            push_values(stack, self._density, images, self.levels)
            return
        model, seen = self._compressible, self.seen(images)
        codes, orders = self._drawn(stack, self.samples, seen)
        chosen, places = self._chosen_table(seen, codes, orders), np.arange(len(images))
        index = stack.pop(chosen)
        if self.samples > 1:
            self._undrawn(stack, _without(codes, index), _without(orders, index), seen)
        codes, orders = codes[None, index, places], orders[index, places]
        pixels = model.pixels(as_floats(codes)[0], torch.from_numpy(orders))
        values, tables = list(pixels.values(images)), list[Tensor]()

        def choose(table: Tensor) -> Tensor:
            tables.append(table)
            return values[len(tables) - 1]

        made = pixels.walk(choose)
        assert torch.equal(made, images)
        for portion, table in zip(reversed(values), reversed(tables), strict=True):
            stack.push(portion.flatten().numpy(), _weights(table.flatten(0, 1)))
        stack.push_uniform(orders, np.full(len(orders), model.pixel_orders))
        if self._coded is not None:
            push_normal(stack, do(stack, codes, self._coded.from_codes()))
        stack.push_uniform(index, np.full(len(index), self.samples))

    def _pop(self, stack: Stack, number: int) -> Tensor:
        """Undo `_push`."""
        if self._density is not None:
            return pop_values(stack, self._density, number, self.levels)
        model = self._compressible
        index = stack.pop_uniform(np.full(number, self.samples))
        codes = np.zeros((1, number, 0), np.int64)
        if self._coded is not None:
            noise = pop_normal(stack, (1, number, self._coded.dimension))
            codes = undo(stack, noise, self._coded.from_codes())
        orders = stack.pop_uniform(np.full(number, model.pixel_orders))
        pixels = model.pixels(as_floats(codes)[0], torch.from_numpy(orders))

        def choose(table: Tensor) -> Tensor:
            return torch.from_numpy(stack.pop(_weights(table.flatten(0, 1)))).view(table.shape[:2])

        images = pixels.walk(choose)
        seen, orders = self.seen(images), orders[None]
        if self.samples > 1:
            others = self._drawn(stack, self.samples - 1, seen)
            codes, orders = (_with(*each, index) for each in zip(others, (codes, orders), strict=True))
        stack.push(index, self._chosen_table(seen, codes, orders))
        self._undrawn(stack, codes, orders, seen)
        return images

    def _drawn(self, stack: Stack, samples: int, seen: Tensor) -> tuple[Integers, Integers]:
        """Pop codes [S, B, D] and orders [S, B] of images."""
        codes = np.zeros((samples, len(seen), 0), np.int64)
        if self._coded is not None:
            noise = pop_normal(stack, (samples, len(seen), self._coded.dimension))
            codes = do(stack, noise, self._coded.to_codes(seen))
        table = np.tile(_weights(self._compressible.order_probabilities(seen)), (samples, 1))
        return codes, stack.pop(table).reshape(samples, -1)

    def _undrawn(self, stack: Stack, codes: Integers, orders: Integers, seen: Tensor) -> None:
        """Undo `_drawn`."""
        table = np.tile(_weights(self._compressible.order_probabilities(seen)), (len(orders), 1))
        stack.push(orders.reshape(-1), table)
        if self._coded is not None:
            push_normal(stack, undo(stack, codes, self._coded.to_codes(seen)))

    def _chosen_table(self, seen: Tensor, codes: Integers, orders: Integers) -> NDArray[np.float64]:
        """Return the weights of the samples [B, S]."""
        if self._coded is None or self.samples == 1:
            return np.ones((len(seen), 1))
        log_weights = self._coded.log_weights(seen, as_floats(codes), torch.from_numpy(orders))
        return _weights(log_weights.softmax(0).mT)


def _without(values: Integers, index: Integers) -> Integers:
    """Remove sample ``index`` [B] of each image from values [S, B, ...]."""
    places = np.arange(len(index))
    others = np.arange(len(values) - 1)[:, None]
    return values[others + (others >= index), places]


def _with(values: Integers, one: Integers, index: Integers) -> Integers:
    """Undo `_without`, with the values [1, B, ...] that were removed."""
    both = np.concatenate([values, one])
    samples = np.arange(len(both))[:, None]
    from_both = np.where(samples == index, len(values), samples - (samples > index))
    return both[from_both, np.arange(len(index))]


def _weights(probabilities: Tensor) -> NDArray[np.float64]:
    """Round probabilities [N, values] to whole numbers, which the coder takes as exact."""
    return (probabilities * WEIGHTS).round().nan_to_num(1.0).clamp(min=1).numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: sums in another order would be rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def portions(number: int, samples: int = 1) -> list[int]:
    """Return the sizes of the portions of ``number`` images, which share a pass through the networks.

    >>> portions(24)
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]
    """
    sizes: list[int] = []
    done = 0
    while done < number:
        sizes.append(min(max(1, done // (GROWTH * samples)), MOST_AT_ONCE, number - done))
        done += sizes[-1]
    return sizes
