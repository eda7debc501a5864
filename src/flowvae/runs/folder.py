"""The directory of a run."""

import functools
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from flowvae.batch import DataSpec
from flowvae.config import Config, System
from flowvae.data import Dataset, load_configured
from flowvae.data.reading import open_file
from flowvae.errors import UserError
from flowvae.models import Model, Source
from flowvae.models.registry import PRESETS, build_model
from flowvae.networks import CausalNetwork
from flowvae.parts import shaping
from flowvae.runs.files import (
    as_safetensors,
    make_directory,
    partial_name,
    reason,
    replacing,
    sync,
    write_json,
)
from flowvae.runs.formats import Described, read_description, written
from flowvae.runs.metrics import METRICS, read_metrics

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
EVALUATION = "evaluation.json"
SCORES = "scores.safetensors"
ANNEALED_EVALUATION, ANNEALED_SCORES = "evaluation-ais.json", "scores-ais.safetensors"
QUALITY = "quality.json"
"""of the single images that the evaluation is the average of"""
BEGUN = ".begun"
"""present from the directory's creation until the first state is saved"""
PRETRAINED = Path(__file__).parents[1] / "pretrained"
ORDERS = ("causal_orders", "orders")
"""options of which a model may have more than the run from whose weights it starts"""
# Options that may change on resuming: budget, tracker, and how the same numbers are computed.
FREE = ("epochs", "steps", "minutes", "track", "compile", "gradient_checkpointing")


class Run:
    """A run. Its files are read on first use, and kept in memory.

    Args:
        path: directory of the run; if there is none, the name of a model that comes with the package:
            ``density-mnist``, the preset ``density`` trained for six hours on binary MNIST.

    Raises:
        UserError: if there is no such run; later, if one of its files is damaged.

    >>> run = Run("density-mnist")
    >>> run.config.model.latent, run.spec.shape
    (32, (1, 28, 28))
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = PRETRAINED / path if is_bundled(path) else path
        if not self.path.is_dir():
            models = ", ".join(sorted(place.name for place in PRETRAINED.iterdir() if place.is_dir()))
            remedy = "train this preset and give the" if str(path) in PRESETS else "give the"
            raise UserError(
                f"{path} is not a directory; {remedy} directory of a run, or a model of the package "
                f"({models})"
            )

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def bundled(self) -> bool:
        """Whether it comes with the package, whose directory must not be written to."""
        return self.path.parent == PRETRAINED

    def place_for(self, name: str) -> Path:
        """Return the path for an output of the run: ``name`` in its directory.

        For a bundled model: NAME-``name`` in the working directory, where a directory NAME would hide it.
        """
        return Path(f"{self.name}-{name}") if self.bundled else self.path / name

    @functools.cached_property
    def described(self) -> Described:
        """The contents of config.json."""
        return read_description(self.path / CONFIG)

    @property
    def config(self) -> Config:
        return self.described.config

    @property
    def spec(self) -> DataSpec:
        """The description of the data that the model was built for."""
        return self.described.spec

    @functools.cached_property
    def model(self) -> Model:
        """The trained model, in ``eval()`` mode.

        Raises:
            UserError: if the weights are missing or damaged, or the model is not one of flowvae's systems.
        """
        if self.config.model is None:
            raise UserError(
                f"{self.path} has the system {self.described.system}, which is not one of flowvae's; load it "
                "in Python: flowvae.load(run, model=...), with a module built as for training"
            )
        with torch.random.fork_rng(devices=[]):  # of the weights that are replaced
            model = build_model(self.config.model, self.spec)
        return self.fill(model)

    def fill(self, model: Model) -> Model:
        """Load the trained weights into a module built as for training; return it in ``eval()`` mode."""
        _fill(model, self.path / WEIGHTS)
        model.eval()
        return model

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set that the run was trained on."""
        try:
            return self.read_dataset(self.config.data.data)
        except UserError as error:
            raise UserError(
                f"{error}; {self.path} was trained on it, and --data names other images"
            ) from None

    def read_dataset(self, data: str | None, complete: bool = False) -> Dataset:
        """Load another source of images, with the run's binarization; None for the run's own.

        Args:
            data: all images of another source are taken; of the run's own, those that it was trained on.
            complete: without hiding pixels, where the run's configuration does.

        Raises:
            UserError: if there is no such data, or its images differ in shape from the run's.
        """
        config = self.config.data
        if complete and config.hide is not None:
            config = replace(config, hide=None)
        elif data is None:
            return self.dataset
        source = data or config.data
        dataset = load_configured(config, None if source == config.data else source)
        if dataset.shape != self.spec.shape:
            raise UserError(
                f"the images of {source} are {_sides(dataset.shape)}; {self.path} was trained on "
                f"{_sides(self.spec.shape)}"
            )
        return dataset

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.path)


def is_bundled(path: Path) -> bool:
    """Whether there is no such path, but a model of that name that comes with the package."""
    return not path.exists() and path.name == str(path) and (PRETRAINED / path).is_dir()


def load(run: str | Path, model: Model | None = None) -> Model:
    """Load the trained model of a run, in ``eval()`` mode.

    Args:
        run: as for `Run`.
        model: a module built as for training, to load the weights into; needed only if the run's model is not
            one of flowvae's systems.

    Raises:
        UserError: if there is no such run, one of its files is damaged, or ``model`` has other weights.
    """
    return Run(run).model if model is None else Run(run).fill(model)


def claim(path: Path, config: Config, spec: DataSpec, system: str) -> bool:
    """Create the directory of a new run with its configuration, or find one whose run saved nothing.

    Returns:
        Whether this call created the directory; of several processes, one does.

    Raises:
        UserError: if the directory exists, with a run that saved something.
    """
    if not os.path.lexists(path):
        make_directory(path.parent)
        # In one step, with its files: killed between two, a process would leave an unusable directory.
        partial = partial_name(path)
        try:
            partial.mkdir()
            (partial / BEGUN).touch()
            write_json(partial / CONFIG, written(config, spec, system))
            partial.rename(path)
            sync(path.parent)
            return True
        except OSError as error:
            if not os.path.lexists(path):
                error.filename = str(path)
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if (path / BEGUN).exists():
        return False
    raise UserError(f"{path} already exists; choose another --out, or resume it with --resume {path}")


def create(path: Path, config: Config, spec: DataSpec, system: str) -> None:
    """Create the directory of a new run as `claim` does, or start it again with another configuration.

    Raises:
        UserError: as in `claim`.
    """
    if claim(path, config, spec, system):
        return
    for name in (METRICS, WEIGHTS):  # of a killed attempt; other files are overwritten
        (path / name).unlink(missing_ok=True)
    write_json(path / CONFIG, written(config, spec, system))


def revise(run: Run, config: Config) -> None:
    """Write the configuration of a resumed run, which may differ as `check_revision` allows."""
    check_revision(run, config)
    write_json(run.path / CONFIG, written(config, run.spec, run.described.system))


def check_revision(run: Run, config: Config, system: str | None = None) -> None:
    """Check that a resumed run differs from its own configuration only in options that may change.

    Raises:
        UserError: if it differs in any other, or in its system.
    """
    old = run.described
    if system is not None and system != old.system:
        raise UserError(f"{run.path} has the system {old.system}; it cannot be resumed with {system}")
    before = {**written(old.config, run.spec, old.system), "model": old.options}
    after = written(config, run.spec, old.system)
    for part in ("data", "model", "training"):
        for name, value in after[part].items():
            was = before[part].get(name)
            if value != was and not (part == "training" and name in FREE):
                raise UserError(
                    f"{run.path} was started with {name} = {was}; it cannot be resumed with {value}"
                )


def _sides(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def write_weights(path: Path, model: nn.Module) -> None:
    """Write the weights of a model into the directory ``path`` of a run."""
    with replacing(path / WEIGHTS) as partial:
        partial.write_bytes(as_safetensors(model.state_dict()))


def save_model(path: Path, config: Config, spec: DataSpec, model: nn.Module) -> None:
    """Make the directory of a run that holds a trained model of one of flowvae's systems, and no state.

    Raises:
        UserError: it is there already.
    """
    assert config.model is not None
    create(path, config, spec, config.model.name)
    write_weights(path, model)
    (path / BEGUN).unlink()


def load_weights(path: Path, config: System | None, model: nn.Module) -> None:
    """Load the trained weights of a run into a model built from ``config``, which may have more orders.

    Raises:
        UserError: if there is no such run, its model differs, or one of its files is damaged.
    """
    run = Run(path)
    changed = None
    if config is not None and run.config.model is not None:
        theirs, mine = shaping(run.config.model), shaping(config)
        for name in ORDERS:
            if name in mine and theirs.get(name, mine[name]) < mine[name]:
                del mine[name]
                changed = functools.partial(_with_more_orders, model, theirs[name])
        _check_options(run, mine)
    _fill(model, run.path / WEIGHTS, changed)


def load_part(source: Source, part: nn.Module) -> None:
    """Load the trained weights of a run into a part of another model.

    Raises:
        UserError: if there is no such run, its model differs, or one of its files is damaged.
    """
    run = Run(source.run)
    if run.described.system != source.system:
        raise UserError(
            f"{run.path} has the system {run.described.system}; give a run of the system {source.system}"
        )
    _check_options(run, source.options)
    _fill(part, run.path / WEIGHTS)


def _check_options(run: Run, mine: Mapping[str, Any]) -> None:
    """Check that the model of a run has the options ``mine``, on which the shapes of its weights depend."""
    others = shaping(run.config.model)
    for name, value in mine.items():
        if others.get(name) != value:
            raise UserError(f"{run.path} has {name} = {others.get(name)}; its weights do not fit {value}")


def _with_more_orders(model: nn.Module, orders: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix, part in model.named_modules():
        if isinstance(part, CausalNetwork):
            start = f"{prefix}."
            own = {name.removeprefix(start): weights[name] for name in weights if name.startswith(start)}
            weights |= {start + name: value for name, value in part.from_fewer_orders(own, orders).items()}
    return weights


def _fill(
    model: nn.Module, path: Path, changed: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
) -> None:
    if not path.exists():
        raise UserError(f"{path} is missing; train the run for at least one validation")
    try:
        open_file(path).close()  # it may be a named pipe, which is waited for
        weights = safetensors.torch.load_file(path)
        model.load_state_dict(weights if changed is None else changed(weights))
        # In the model's type: a number may be finite only in a wider one.
        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise ValueError(f"{name} is not finite")
    except (safetensors.SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged or from another model or version ({reason(error)}); restore it or train again"
        ) from None
