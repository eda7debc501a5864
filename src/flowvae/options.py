"""Parsing of command-line arguments, with errors of one line."""

import contextlib
import dataclasses
import difflib
import functools
import io
import re
from collections.abc import Callable
from types import NoneType
from typing import Any, TypeVar, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from flowvae.errors import UserError

T = TypeVar("T")
values = ConstructorRegistry()


@values.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Show and parse ``X | None`` as X, with ``str`` beside numbers as str; an omitted option is None."""
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if NoneType not in get_args(info.type) or kinds not in ([int, str], [float, str], kinds[:1]):
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[-1], info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        inner,
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["none"] if value is None else inner.str_from_instance(value),
    )


def parse(kind: Callable[..., T], words: list[str], program: str, **default: Any) -> T:
    """Parse ``words`` with tyro and turn its boxed error messages into one line."""
    complaint = io.StringIO()
    read = functools.partial(
        tyro.cli, kind, prog=program, registry=values, return_unknown_args=True, **default
    )
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = read(args=words)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(f"{_one_line(complaint.getvalue())}; see {program} --help") from None
    if unknown:
        help_text = io.StringIO()
        with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
            read(args=["--help"])
        raise UserError(
            _unknown(unknown, re.findall(r"--(?!help)[a-z][a-z0-9-]+", help_text.getvalue()), program)
        )
    return parsed


def _unknown(words: list[str], options: list[str], program: str) -> str:
    """Write the message about arguments that tyro left over."""
    option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    matches = difflib.get_close_matches(
        (option or words[0]).lstrip("-"),
        [each.removeprefix("--") for each in options],
        n=1,
        cutoff=0.6 if option else 0.8,  # what has no dash is rarely meant as an option
    )
    hint = f"did you mean --{matches[0]}?" if matches else f"see {program} --help"
    return f"no option {option}; {hint}" if option else f"unexpected argument {words[0]!r}; {hint}"


def _one_line(box: str) -> str:
    """Take the message out of tyro's box: the text between its first two rules.

    >>> _one_line('''
    ... ╭─ Parsing error ────────────────────────╮
    ... │ Missing value for argument '--steps'.  │
    ... │ ────────────────────────────────────── │
    ... │ For full helptext, run flowvae --help  │
    ... ╰────────────────────────────────────────╯
    ... ''')
    "Missing value for argument '--steps'"
    """
    lines = [line.strip("╭│╰ ╮╯") for line in box.splitlines()]
    rules = [index for index, line in enumerate(lines) if line.startswith(("─", "---"))]
    if len(rules) < 2:
        return "the options cannot be parsed"
    return " ".join(lines[rules[0] + 1 : rules[1]]).strip().rstrip(".")


def given(option: str, words: list[str]) -> str | None:
    """Find the value of ``option`` before tyro parses: None if it is absent, "" if it has no value.

    Of an option that is given twice the last counts, as for tyro.

    >>> given("--code_start", ["--code-start", "random"]), given("--out", ["--out=runs"]), given("--out", [])
    ('random', 'runs', None)
    >>> given("--flow", ["--flow", "iaf", "--flow=planar"])
    'planar'
    """
    found = None
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option.replace("_", "-"):  # either is accepted
            following = words[index + 1] if index + 1 < len(words) else ""
            found = value if equals else following
    return found
