"""config.json: its current format, and the conversion of earlier ones.

Format 11 adds whether validation images are training images as well. Format 10 adds the path derivative to
the importance-weighted bound. Format 9 adds to Bayesian GANs whether their generators share a batch. Format 8
adds the weight of the information of classes to Bayesian GANs that learn from few labels. Format 7 adds the
number of components of causal networks, a number of training images, and patience. Format 6 adds the
accumulation of gradients. Format 5 adds the kind of networks. Format 4 adds whether pixels are missing, what
marks or hides them, whether a density is that of images given their labels, and how a classifier from few
labels is regularized and where its first autoencoder is from. Format 3 adds a range of values and conversion
to grey to the options of the data. Format 2 names a system and contains the options of the chosen parts. In
format 1, and in files without a number, the options of all models are one list, and those of the objective
are among the training options.

A field that an older file lacks gets the value that reproduces the behaviour of its time, which may differ
from today's default. A new option needs a new format, and a line here.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from flowvae.batch import DataSpec
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.errors import UserError, checked_shape, did_you_mean, quoted
from flowvae.models.registry import SYSTEMS
from flowvae.parts import MOST, available, from_dict, names, to_dict
from flowvae.runs.files import read_json

T = TypeVar("T")
FORMAT = 11
PARTS = ("data", "model", "training")
ENTRIES = ("format", "system", *PARTS, *DataSpec._fields)
# For files without a number. Fields were added one by one, so a file may have some of them.
BEFORE_NUMBERS: dict[str, dict[str, Any]] = {
    "data": {"image_size": None},
    "model": {
        "channels": 64,
        "blocks": 1,
        "family": "vae",
        "prior": "normal",
        "prior_transformations": 0,
        "pseudo_inputs": 100,
        "likelihood": "bernoulli",
        "components": 5,
        "causal_channels": 64,
        "causal_blocks": 4,
        "causal_dropout": 0.0,
        "code": "vector",
        "flow_of": "code",
        "covariance": "diagonal",
        "causal_orders": 1,
    },
    "training": {
        "optimizer": "adamw",
        "start_from": None,
        "precision": "float32",
        "gradient_checkpointing": False,
        "path_derivative": False,
    },
}
UNREGULARIZED = {"smoothness_weight": 0.0, "smoothness_radius": 1.0, "information_weight": 0.0}
OBJECTIVE = ("objective", "samples", "path_derivative", "kl_warm_up", "free_bits")


class Described(NamedTuple):
    """The contents of config.json."""

    config: Config
    """its model is None if the system is not one of flowvae's"""
    spec: DataSpec
    system: str
    options: dict[str, Any]
    """options of the model, as in the file"""


def written(config: Config, spec: DataSpec, system: str) -> dict[str, Any]:
    """Return the contents of config.json, as `read_description` reads them."""
    return {
        "format": FORMAT,
        "system": system,
        "data": to_dict(config.data),
        "model": {} if config.model is None else to_dict(config.model),
        "training": to_dict(config.training),
        **spec._asdict(),
    }


def read_description(path: Path) -> Described:
    """Read the config.json at ``path``.

    Raises:
        UserError: if the file is missing, damaged, or from a later version of flowvae.
    """
    values = read_json(path)
    try:
        return _described(upgraded(values))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _described(values: dict[str, Any]) -> Described:
    shape = checked_shape(values.pop("shape", None))
    missing = values.pop("missing", None)
    if type(missing) is not bool:
        raise UserError(f"missing is {quoted(missing)}; expected true or false")
    counts = {name: values.pop(name, None) for name in ("levels", "training_images", "classes")}
    for name, count in counts.items():
        if not (type(count) is int and 0 <= count <= MOST) and not (name == "levels" and count is None):
            raise UserError(f"{name} is {quoted(count)}; expected a number from 0 to {MOST:,}")
    spec = DataSpec(shape, **counts, missing=missing)
    system, options = values.pop("system", None), values.pop("model", None)
    if not isinstance(system, str):
        raise UserError(f"system is {quoted(system)}; expected a name")
    if not isinstance(options, dict):
        raise UserError(f"model is {quoted(options)}; expected names and values")
    model = _whole(SYSTEMS[system], "model", options) if system in SYSTEMS else None
    data = _whole(DataConfig, "data", values.pop("data", {}))
    training = _whole(TrainingConfig, "training", values.pop("training", {}))
    for name in values:
        raise UserError(f"no entry {quoted(name)}; {did_you_mean(str(name), ENTRIES)}")
    return Described(Config(data, model, training), spec, system, options)


def _whole(kind: type[T], part: str, values: dict[str, Any]) -> T:
    """Create a part of the configuration; all values must be present, as defaults may have changed since."""
    made = from_dict(kind, values)
    for name in available(kind, values):
        if name not in values:
            raise UserError(f"{part} has no {name}; restore it")
    return made


def upgraded(values: Any) -> dict[str, Any]:
    """Convert the contents of any version's config.json to the current format, without its number.

    Raises:
        UserError: if they are not those of a config.json, or are from a later version.
    """
    if not isinstance(values, dict):
        raise UserError("expected names and values; restore the file or train again")
    values = dict(values)
    number = values.pop("format", 0)
    if type(number) is not int or number < 0:
        raise UserError(f"format is {quoted(number)}; expected a number from 1 to {FORMAT}")
    if number > FORMAT:
        raise UserError(
            f"format is {quoted(number)}, and this flowvae reads up to {FORMAT}; install a newer one"
        )
    for part in PARTS:
        if not isinstance(values.get(part, {}), dict):
            raise UserError(f"{part} is {quoted(values[part])}; expected names and values")
    if number == 0:
        values |= {part: BEFORE_NUMBERS[part] | values.get(part, {}) for part in PARTS}
    values = _from_format_1(values) if number < 2 else values
    if number < 3:
        values["data"] = {"value_range": None, "grey": False, **values.get("data", {})}
    if number < 4:
        values["data"] = {"missing": None, "hide": None, **values.get("data", {})}
        if values.get("system") == "semi-supervised":
            first = {"first": None} if values.get("model", {}).get("inputs") == "codes" else {}
            values["model"] = {**UNREGULARIZED, **first, **values.get("model", {})}
        values = {"missing": False, **values}
        if "labels" in names(SYSTEMS.get(str(values.get("system")), DataConfig)):
            values["model"] = {"labels": False, **values.get("model", {})}
    if number < 5 and "networks" in names(SYSTEMS.get(str(values.get("system")), DataConfig)):
        values["model"] = {"networks": "convolutional", **values.get("model", {})}
    if number < 6:
        values["training"] = {"gradient_accumulation": 1, **values.get("training", {})}
    if number < 7:
        values["model"] = {**_components(values), **values.get("model", {})}
        values["data"] = {"training_images": None, **values.get("data", {})}
        values["training"] = {"patience": 0.0, **values.get("training", {})}
    if number < 8 and values.get("model", {}).get("supervision") == "few-labels":
        values["model"] = {"information_weight": 0.0, **values["model"]}
    if number < 9 and values.get("system") == "bayesian-gan":
        values["model"] = {"share_batch": True, **values.get("model", {})}
    weighted = values.get("model", {}).get("objective") == "importance-weighted"
    if number < 10 and weighted and values.get("system") == "vae":
        # In format 1, it may be recorded as true, but had no effect.
        values["model"] = {**values["model"], "path_derivative": False}
    if number < 11:
        values["data"] = {"train_on_validation": False, **values.get("data", {})}
    return values


def _components(values: dict[str, Any]) -> dict[str, Any]:
    """Return the option that causal networks have since format 7, if the model has one."""
    kind, options = SYSTEMS.get(str(values.get("system"))), values.get("model", {})
    known = available(kind, options) if kind else []
    name = "components" if values.get("system") == "pixelrnn" else "causal_components"
    return {name: 5} if name in known else {}


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    data, old, training = (dict(values.pop(part, {})) for part in PARTS)
    system = old.pop("family", "vae")
    if not isinstance(system, str) or system not in SYSTEMS:
        raise UserError(f"family is {quoted(system)}; restore the file or train again")
    old |= {name: training.pop(name) for name in OBJECTIVE if name in training}
    if old.get("prior") == "realnvp":  # its couplings had the posterior's options, but never batch norm
        old["prior_hidden"] = old.get("hidden", 128)
        normalization = old.get("normalization", "none")
        old["prior_normalization"] = "none" if normalization == "batch" else normalization
        old["prior_bounded"] = old.get("bounded", True)
    kind = SYSTEMS[system]
    known = available(kind, old)
    return {
        "system": system,
        "data": data,
        # Options without effect were recorded as well.
        "model": {name: value for name, value in old.items() if name in known},
        "training": {"beta1": 0.9, **training},
        "levels": 256 if data.get("binarization") == "none" else 2,
        "training_images": 0,
        "classes": 0,
        **values,
    }
