"""Options with parts chosen by name: nested dataclasses as one flat list of names and values."""

import dataclasses
import types
from abc import ABC
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from flowvae.errors import UserError, check_range, did_you_mean, quoted

MOST = 2**31 - 1
"""largest count: products of two of them still fit into the 64 bits of a tensor's size"""
WIDEST, DEEPEST = 2**16, 1000
"""largest size of one layer, and largest number of layers of one kind, which are built one after another"""
LARGEST = 10**18
"""largest real number: products of two of them still fit into 32 bits"""
VARIANCES = (1e-8, 1e8)
"""smallest and largest variance of a pixel"""
LARGEST_SEED = 2**63 - 1

T = TypeVar("T")
TRAINING_ONLY, RANGE = "training only", "range"


def training_only(default: T) -> T:
    """Declare a field that affects training but not the trained model."""
    return dataclasses.field(default=default, metadata={TRAINING_ONLY: True})


def ranged(default: T, lowest: float, highest: float, *, training_only: bool = False) -> T:
    """Declare a field whose value must be None, or in a range with both ends included.

    ``training_only`` is for fields that affect training but not the trained model.
    """
    metadata = {RANGE: (lowest, highest), TRAINING_ONLY: training_only}
    return dataclasses.field(default=default, metadata=metadata)


class Options:
    """Base class of frozen dataclasses of options: checks types, fields declared by `ranged`, and words.

    Raises:
        UserError: if a value is of another type, out of range, or none of the words.
    """

    def __post_init__(self) -> None:
        hints = _hints_of(type(self))
        for field in dataclasses.fields(cast(Any, self)):
            value = getattr(self, field.name)
            if not dataclasses.is_dataclass(value) and _is_known(hints[field.name]):
                value = _checked(hints[field.name], field.name, value)
                object.__setattr__(self, field.name, value)
            if RANGE in field.metadata and value is not None:
                check_range(field.name, cast(float, value), *field.metadata[RANGE])
        for name, words in _words_of(type(self)).items():
            value = getattr(self, name)
            if value not in words:
                known = [word for word in words if word is not None]
                raise UserError(f"{name} is {quoted(value)}; {did_you_mean(str(value), known)}")


_hints_of = lru_cache(get_type_hints)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types that a hint joins by "or", or the only one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_known(hint: Any) -> bool:
    """Whether `_checked` knows all types of a hint; options of your own may have others."""
    return all(
        kind in (bool, int, float, str, types.NoneType)
        or get_origin(kind) in (tuple, Literal)
        or dataclasses.is_dataclass(kind)
        for kind in _kinds(hint)
    )


@lru_cache
def _words_of(kind: type) -> dict[str, tuple[str | None, ...]]:
    """Return the words that fields of type ``Literal``, or that or None, may have, by the fields' names."""
    found = {}
    for name, hint in _hints_of(kind).items():
        kinds = _kinds(hint)
        if all(get_origin(each) is Literal or each is types.NoneType for each in kinds):
            found[name] = tuple(word for each in kinds for word in get_args(each) or (None,))
    return found


@dataclass(frozen=True)
class Part(Options, ABC):
    """A part that can be chosen, such as a kind of posterior, with its own options.

    To add a part:

    - write a frozen dataclass that subclasses this one, or the base class of its kind;
    - give it a ``name``, by which it is chosen;
    - make each option a field with a default, `ranged` if it has a range, and a docstring, which is its help;
    - add the class to the union that is the type of the choosing field.

    Names of options are unique within a system, except that alternative parts may share them: the value is
    then kept when another part is chosen.
    """

    name: ClassVar[str]


@lru_cache
def choices(kind: type) -> dict[str, dict[str, type[Part]]]:
    """Find the fields of a dataclass that choose a part, with the parts by name, in their order."""
    found = {}
    for name, hint in _hints_of(kind).items():
        kinds = _kinds(hint)
        if kinds and all(isinstance(each, type) and issubclass(each, Part) for each in kinds):
            found[name] = {each.name: each for each in kinds}
    return found


def to_dict(options: Any) -> dict[str, Any]:
    """Convert options and their parts to flat names and JSON values; the inverse of `from_dict`."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Part):
            flat |= {field.name: value.name, **to_dict(value)}
        else:
            flat[field.name] = to_dict(value) if dataclasses.is_dataclass(value) else value
    return flat


def shaping(options: Any) -> dict[str, Any]:
    """Like `to_dict`, without training-only options: models that agree in these have the same weights."""
    flat = to_dict(options)
    parts = [getattr(options, name) for name in choices(type(options))]
    for field in (field for part in (options, *parts) for field in dataclasses.fields(part)):
        if field.metadata.get(TRAINING_ONLY):
            del flat[field.name]
            value = getattr(options, field.name, None)
            for name in names(value) if isinstance(value, Part) else ():
                del flat[name]
    return flat


def available(kind: type, values: Mapping[str, Any]) -> list[str]:
    """List the names of all options of ``kind`` when ``values`` choose its parts."""
    found = names(kind)
    for selector, known in choices(kind).items():
        part = known.get(str(values.get(selector, _default(kind, selector).name)))
        found += [] if part is None else names(part)
    return found


def from_dict(kind: type[T], values: Any) -> T:
    """Create the dataclass ``kind`` from the output of `to_dict`; missing options take their defaults.

    Raises:
        UserError: for an unknown name (with the nearest known one), an option of a part that is not chosen,
            or a value of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} is {quoted(values)}; expected names and values")
    selectors = choices(kind)
    arguments, unused = {}, dict(values)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # T is a dataclass
        if field.name in selectors:
            arguments[field.name] = _chosen(field, selectors[field.name], unused)
        elif field.name in unused:
            arguments[field.name] = unused.pop(field.name)
    for name in unused:
        raise UserError(no_effect(kind, str(name), values))
    return kind(**arguments)


def _chosen(field: dataclasses.Field[Any], known: Mapping[str, type[Part]], values: dict[str, Any]) -> Part:
    """Create a part from its name and options, which are removed from ``values``."""
    default = field.default
    assert isinstance(default, Part)
    name = values.pop(field.name, default.name)
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{field.name} is {quoted(name)}; {did_you_mean(str(name), known)}")
    part = known[name]
    if name != default.name:
        default = part()
    given = {name: values.pop(name) for name in names(part) if name in values}
    return dataclasses.replace(default, **given)


def no_effect(kind: type, name: str, values: Mapping[str, Any]) -> str:
    """Say why there is no option ``name`` when ``values`` choose the parts of ``kind``, and what to do."""
    for selector, known in choices(kind).items():
        owners = [each for each, part in known.items() if name in names(part)]
        if owners:
            chosen = values.get(selector, _default(kind, selector).name)
            return f"{name} has no effect with {selector} {chosen}; remove it, or choose {_or(owners)}"
    parts = [part for known in choices(kind).values() for part in known.values()]
    known = [each for owner in (kind, *parts) for each in names(owner)]
    return f"{kind.__name__} has no option {quoted(name)}; {did_you_mean(name, known)}"


def names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _default(kind: Any, selector: str) -> Part:
    (default,) = (field.default for field in dataclasses.fields(kind) if field.name == selector)
    assert isinstance(default, Part)
    return default


def _or(words: Iterable[str]) -> str:
    """Join words by commas and "or".

    >>> _or(["planar", "realnvp", "iaf"])
    'planar, realnvp or iaf'
    """
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def revised(options: T, changes: Mapping[str, Any]) -> T:
    """Return a copy of the options with other values, by flat names.

    If another part is chosen, options that both parts have keep their values; the other options of the new
    part take their defaults.

    Raises:
        UserError: as in `from_dict`.
    """
    kind, flat = type(options), to_dict(options)
    for selector, known in choices(kind).items():
        chosen = changes.get(selector, flat[selector])
        if chosen != flat[selector] and isinstance(chosen, str) and chosen in known:
            kept = names(known[chosen])
            for name in names(known[flat[selector]]):
                if name not in kept:
                    del flat[name]
    return from_dict(kind, {**flat, **changes})


def _checked(hint: Any, name: str, value: Any) -> Any:
    if isinstance(value, np.generic):  # as searches draw them
        value = value.item()
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value)  # type: ignore[arg-type]  # a class, not an instance
    kinds = _kinds(hint)
    if any(get_origin(kind) is Literal for kind in kinds):
        return value  # which `Options` checks
    pair = next((kind for kind in kinds if get_origin(kind) is tuple), None)
    if pair is not None and isinstance(value, list | tuple) and len(value) == len(get_args(pair)):
        return tuple(_checked(kind, name, each) for kind, each in zip(get_args(pair), value, strict=True))
    if float in kinds and type(value) is int and abs(value) <= 2**53:  # a float holds it exactly
        value = float(value)
    if type(value) not in kinds:  # `isinstance` would take True for an int
        expected = ("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise UserError(f"{name} is {quoted(value)}; expected {' or '.join(expected)}")
    return value


def check_positive(name: str, value: float, highest: float) -> None:
    """Check that an option is above 0, and not too large.

    Raises:
        UserError: if it is not.
    """
    if not 0 < value <= highest:  # nan is neither
        raise UserError(f"{name} is {quoted(value)}; it must be greater than 0 and at most {highest:,}")
