"""Errors in the user's input, as messages of one line."""

import difflib
import math
from collections.abc import Iterable, Sized

MOST_PIXELS = 2**26  # per image, over all channels


class UserError(Exception):
    """A mistake in the input: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def quoted(value: object, limit: int = 100) -> str:
    """Format ``value`` for a message: its ``repr``, shortened to ``limit`` characters.

    >>> quoted("relnvp")
    "'relnvp'"
    >>> quoted("a" * 1000, limit=8)
    "'aaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Check that the option ``name`` is in a range, both ends included; nan never is.

    Raises:
        UserError: if it is not.
    """
    if not lowest <= value <= highest:
        raise UserError(f"{name} is {quoted(value)}; it must be {lowest:,} to {highest:,}")


def check_some(images: Sized) -> None:
    """Check that there are images.

    Raises:
        UserError: if there are none.
    """
    if not len(images):
        raise UserError("there are no images; give at least one")


def checked_shape(shape: object) -> tuple[int, int, int]:
    """Return a shape as (C, H, W), checked to be that of an image that is not too large.

    >>> checked_shape([1, 28, 28])
    (1, 28, 28)

    Raises:
        UserError: if it is not.
    """
    if not (
        isinstance(shape, list | tuple)
        and len(shape) == 3
        and all(type(side) is int and side > 0 for side in shape)
        and math.prod(shape) <= MOST_PIXELS
    ):
        raise UserError(
            f"shape is {quoted(shape)}; expected [channels, height, width] with a product of at most "
            f"{MOST_PIXELS:,}"
        )
    return shape[0], shape[1], shape[2]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Write a hint for a misspelt ``word``: the nearest of the ``known`` ones, or all of them.

    >>> did_you_mean("relnvp-5", ["vae", "realnvp-5"])
    'did you mean realnvp-5?'
    >>> did_you_mean("gaussian", ["vae", "realnvp-5"])
    'known: realnvp-5, vae'
    """
    known = sorted(known)
    matches = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {matches[0]}?" if matches else f"known: {', '.join(known)}"
