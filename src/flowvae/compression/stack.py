"""A stack of bits: random choices are popped from it, and values pushed onto it, by their probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowvae.errors import UserError

Integers = NDArray[np.int64]

SUPPLY = 1 << 20
"""number of random words below an empty stack"""
SCRAMBLED = 1 << 16
"""number of words at the top that are scrambled"""
IN_STATE = 2  # words that the coder holds apart from those below


def coder() -> Any:
    """Return the library of entropy coders.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import constriction
    except ImportError:
        raise UserError("compression needs constriction; pip install 'flowvae[compression]'") from None
    return constriction


class Stack:
    """A stack of bits, by asymmetric numeral systems (Duda et al. 2015).

    A pop of values with given probabilities is undone by a push of the same values with the same
    probabilities, which adds as many bits as the pop removes. Random words lie below an empty stack, for pops
    that come before there is anything else; `words` leaves out those that were never needed.

    Args:
        words: contents, uint32, the bottom first; by default, the stack is empty.
    """

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        library = coder().stream
        self._models = library.model
        if words is None:
            words = np.random.Generator(np.random.PCG64(0)).integers(1, 1 << 32, SUPPLY, np.uint32)
        self._size = self._lowest = len(words)
        self._ans = library.stack.AnsCoder
        self._coder = self._ans(words)

    @property
    def initial_words(self) -> int:
        """The number of words that pops needed of those that were there at first."""
        return self._size - self._lowest

    def words(self) -> NDArray[np.uint32]:
        """Return the contents without the words that were there at first and never needed."""
        return self._coder.get_compressed()[self._lowest :]

    def scramble(self, key: int) -> None:
        """Make the next pops random, by pseudo-random bits that depend on ``key``; done again, it is undone.

        Otherwise, noise that is popped would be the codes that were pushed last, by the same probabilities:
        as noise, they are not quite normal, and not independent of what comes after.
        """
        words = self._coder.get_compressed()
        number = min(len(words) - 1, SCRAMBLED)  # the last word must not become 0
        bits = np.random.Generator(np.random.PCG64(key)).integers(0, 1 << 32, SCRAMBLED, np.uint32)
        words[-1 - number : -1] ^= bits[:number][::-1]
        self._coder = self._ans(words)

    def pop_uniform(self, sizes: Integers) -> Integers:
        """Pop numbers from 0 to ``sizes - 1``, all equally probable; sizes are below 2^24, of any shape."""
        popped = np.zeros(sizes.shape, np.int64)
        free = sizes > 1
        if free.any():
            popped[free] = self._popped(self._models.Uniform(), sizes[free].astype(np.int32))
        return popped

    def push_uniform(self, values: Integers, sizes: Integers) -> None:
        """Undo `pop_uniform`."""
        free = sizes > 1
        if free.any():
            self._push(values[free], self._models.Uniform(), sizes[free].astype(np.int32))

    def pop(self, table: NDArray[np.float64], number: int | None = None) -> Integers:
        """Pop a value by each row of a table of weights [N, values], or ``number`` of them by one [values].

        Returns:
            int64 [N].
        """
        if table.shape[-1] == 1:  # the coder has no distribution of a single value
            return np.zeros(len(table), np.int64)
        if number is None:
            return self._popped(self._models.Categorical(perfect=False), table)
        return self._popped(self._models.Categorical(table, perfect=False), number)

    def push(self, values: Integers, table: NDArray[np.float64]) -> None:
        """Undo `pop`."""
        if table.shape[-1] == 1:
            return
        if table.ndim == 1:
            self._push(values, self._models.Categorical(table, perfect=False))
        else:
            self._push(values, self._models.Categorical(perfect=False), table)

    def _popped(self, model: Any, parameters: Any) -> Integers:
        popped = self._coder.decode(model, _as_it_is_read(parameters))
        self._needs_state()
        return popped.astype(np.int64)

    def _needs_state(self) -> None:
        """Count the words in the state, which every pop and push changes, as needed."""
        self._lowest = min(self._lowest, max(0, self._coder.num_words() - IN_STATE))

    def _push(self, values: Integers, model: Any, *parameters: Any) -> None:
        self._needs_state()
        self._coder.encode_reverse(values.astype(np.int32), model, *map(_as_it_is_read, parameters))


def _as_it_is_read(parameters: Any) -> Any:
    """Return a table row by row in memory: constriction reads a transposed one in the wrong order."""
    return np.ascontiguousarray(parameters) if isinstance(parameters, np.ndarray) else parameters
