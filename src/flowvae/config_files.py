"""Experiments and tables of experiments in files of the user's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flowvae.config import BUDGETS, Config, DataConfig, TrainingConfig
from flowvae.data.reading import MAX_TEXT, read_bytes
from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.models.registry import preset
from flowvae.parts import choices, names
from flowvae.runs import reason
from flowvae.runs.formats import read_description


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does, and not as text; refuses a name that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_config(path: Path) -> Config:
    """Read the experiment that a file describes.

    A file that ends in .json is the config.json of a run. Any other is YAML: ``preset``, and options of the
    preset, of its data and of its training by their names.

    Raises:
        UserError: if the file cannot be read, or an option is unknown or not valid.
    """
    if path.suffix == ".json":
        described = read_description(path)
        if described.config.model is None:
            raise UserError(f"{path} has the system {described.system}; --config supports flowvae's own")
        return described.config
    return _experiment(str(path), _read_yaml(path))


def read_rows(path: Path) -> dict[str, tuple[str, str]]:
    """Read a table of experiments: the preset of each row, and its options as on a command line.

    The file is YAML with, for each row, its name and either a preset or the same as `read_config` reads.

    Raises:
        UserError: if the file cannot be read, or a row is not valid.
    """
    rows = {}
    for name, given in _read_yaml(path).items():
        where = f"{path}, row {name}"
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(
                f"{path} has a row {quoted(name)}; name rows with letters, digits, '.', '+' and '-'"
            )
        values = _named(where, {"preset": given} if isinstance(given, str) else given)
        for of_all in {"data", "seed", *BUDGETS} & values.keys():
            raise UserError(f"{where} has {of_all}, which is that of all rows; give it on the command line")
        _experiment(where, values)
        chosen = values.pop("preset")
        # An option that may be null is so in every preset, apart from budgets.
        given_values = {option: value for option, value in values.items() if value is not None}
        words = [word for option in given_values.items() for word in _words(*option)]
        if spaced := next((word for word in words if word.split() != [word]), None):
            raise UserError(f"{where} has {quoted(spaced)}; values cannot contain spaces")
        rows[name] = (chosen, " ".join(words))
    if not rows:
        raise UserError(f"{path} has no rows; give each a name and a preset")
    return rows


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a YAML file, or the config.json of a run")
    try:
        values = yaml.load(bytes(read_bytes(path, "YAML", MAX_TEXT)), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or reason(error)
        place = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML ({what}{place}); correct it") from None
    return _named(str(path), values)


def _named(where: str, values: Any) -> dict[str, Any]:
    """Check that values have names."""
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{where} is {quoted(values)}; expected names and values")
    return dict(values)


def _experiment(where: str, values: Mapping[str, Any]) -> Config:
    options: dict[str, Any] = {}
    for written, value in values.items():
        option = written.replace("-", "_")
        if option in options:
            raise UserError(f"{where} has {quoted(option)} twice, with '-' and with '_'; keep one")
        options[option] = value
    name = options.pop("preset", None)
    if not isinstance(name, str):
        raise UserError(f"{where} names no preset; add a line such as preset: realnvp-5")
    try:
        config = preset(name)
        of_parts = [part for known in choices(type(config.model)).values() for part in known.values()]
        kinds = (DataConfig, TrainingConfig, type(config.model), *of_parts)
        known = {"preset", *(option for kind in kinds for option in names(kind))}
        for option in options:
            if option not in known:
                raise UserError(f"no option {quoted(option)}; {did_you_mean(option, known)}")
        return config.revised(**options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _words(name: str, value: Any) -> list[str]:
    """Write an option as words of a command line.

    >>> _words("flow_batch_norm", False), _words("latent", 10)
    (['--no-flow-batch-norm'], ['--latent', '10'])
    """
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
