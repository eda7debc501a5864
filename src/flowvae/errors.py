"""What goes wrong through the user's input, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


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
