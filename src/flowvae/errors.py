"""What goes wrong through the user's input, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def quoted(value: object, limit: int = 100) -> str:
    """``value`` as a message repeats it: its ``repr``, shortened where it has more than ``limit`` characters.

    >>> quoted("relnvp")
    "'relnvp'"
    >>> quoted("a" * 1000, limit=8)
    "'aaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Make sure that the option ``name`` lies between two values, both of them included; nan never does.

    Raises:
        UserError: it does not.
    """
    if not lowest <= value <= highest:
        raise UserError(f"{name} is {quoted(value)}; it must be {lowest:,} to {highest:,}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt ``word``: the nearest of the ``known`` ones, or all of them.

    >>> did_you_mean("relnvp-5", ["vae", "realnvp-5"])
    'did you mean realnvp-5?'
    >>> did_you_mean("gaussian", ["vae", "realnvp-5"])
    'known: realnvp-5, vae'
    """
    known = sorted(known)
    matches = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {matches[0]}?" if matches else f"known: {', '.join(known)}"
