"""The options of ``flowvae train`` for one experiment: exactly those of its parts."""

import ast
import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_origin, get_type_hints

from tyro.conf import OmitArgPrefixes, arg

from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.errors import UserError
from flowvae.options import given, parse
from flowvae.parts import Part, choices, from_dict, names, no_effect, revised, to_dict

DEVICE = "device to train on: auto, cpu or an accelerator such as cuda:1"


@dataclass(frozen=True)
class Chosen:
    """The result of parsing: an experiment, the directory to train in, and the device to train on."""

    config: Config
    out: Path | None
    resume: Path | None
    device: str


def read_training(config: Config, words: list[str], program: str) -> Chosen:
    """Apply the arguments ``words`` of a command line to the experiment ``config``.

    Raises:
        UserError: if the parts of the experiment do not have an option, or a value is out of range.
    """
    model = config.model
    if model is not None:
        # All choices at once: one may be valid only together with another.
        picked = {name: word for name in _choosing(type(model)) if (word := given(f"--{name}", words))}
        model = revised(model, picked)
        for word in words:
            _check_effect(model, word)
    kind = dataclasses.make_dataclass(
        "Training",
        [
            ("data", OmitArgPrefixes[DataConfig], config.data),
            *([] if model is None else _model_fields(model)),
            ("training", OmitArgPrefixes[TrainingConfig], config.training),
            (
                "config",
                Annotated[
                    Path | None,
                    _shown("YAML file with a preset and options, or a run's config.json", "no file"),
                ],
                None,
            ),
            ("out", Annotated[Path | None, _shown("directory of the new run", "runs/PRESET")], None),
            ("resume", Annotated[Path | None, arg(help="directory of the run to resume")], None),
            ("device", Annotated[str, arg(help=DEVICE)], "auto"),
        ],
    )
    kind.__doc__ = (
        "Train a preset into a new directory, or resume a run.\n\n"
        "Start with: flowvae train PRESET [options], or flowvae train --config FILE [options]. "
        "Resume exactly where it stopped with: flowvae train "
        "--resume RUN; add a budget to change it. Ctrl-C, SIGTERM or SIGHUP saves the state and stops. A run "
        "that was killed before it saved anything is started again, with either command."
    )
    parsed = parse(kind, words, program)
    if model is not None:
        values: dict[str, Any] = to_dict(parsed.model)
        for selector in choices(type(model)):
            part = getattr(parsed, _group(model, selector), None)
            values |= {} if part is None else to_dict(part)
        model = from_dict(type(model), values)
    return Chosen(Config(parsed.data, model, parsed.training), parsed.out, parsed.resume, parsed.device)


def _choosing(kind: type[System]) -> list[str]:
    """List the system's own options whose value is a name, such as that of a part."""
    chosen = choices(kind)
    return [
        name for name, hint in get_type_hints(kind).items() if name in chosen or get_origin(hint) is Literal
    ]


def _shown(text: str, default: str) -> Any:
    return arg(help=text, help_behavior_hint=f"(default: {default})")


def _model_fields(model: System) -> list[tuple[str, Any, Any]]:
    """Make the fields for the system's own options, with the names of its parts, and for each part."""
    kind = type(model)
    hints, helps, selectors = get_type_hints(kind), field_docs(kind), choices(kind)
    own = []
    for field in dataclasses.fields(cast(Any, model)):
        value, hint = getattr(model, field.name), hints[field.name]
        if field.name in selectors:
            value, hint = value.name, Literal[tuple(selectors[field.name])]  # type: ignore[valid-type]  # made here
        own.append((field.name, Annotated[hint, arg(help=helps[field.name])], value))
    form = dataclasses.make_dataclass("Model", own, frozen=True)
    form.__doc__ = inspect.cleandoc(kind.__doc__ or "")
    fields = [("model", OmitArgPrefixes[form], form())]
    for selector in selectors:
        part: Part = getattr(model, selector)
        if names(part):
            fields.append((_group(model, selector), OmitArgPrefixes[type(part)], part))  # type: ignore[misc]  # made here
    return fields


def _group(model: System, selector: str) -> str:
    """Name the group of a part's options, such as realnvp_posterior."""
    return f"{getattr(model, selector).name}_{selector}".replace("-", "_")


def _check_effect(model: System, word: str) -> None:
    """Check that an argument is not an option of a part that was not chosen.

    Raises:
        UserError: if it is.
    """
    if not word.startswith("--"):
        return
    kind, flat = type(model), to_dict(model)
    option = word[2:].partition("=")[0].replace("-", "_")
    name = option.removeprefix("no_")
    of_parts = {each for known in choices(kind).values() for part in known.values() for each in names(part)}
    if name in of_parts and name not in flat:
        raise UserError(no_effect(kind, name, flat))


def field_docs(kind: type) -> dict[str, str]:
    """Collect the docstrings below the fields of a dataclass and its bases, by field name.

    >>> field_docs(DataConfig)["image_size"].startswith("side")
    True
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in pairwise(tree.body):
            match field, text:
                case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc)))):
                    found[name] = " ".join(doc.split())
    return found
