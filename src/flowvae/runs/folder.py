"""The directory of a run."""

import functools
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from flowvae.batch import DataSpec
from flowvae.config import Config, System
from flowvae.data import Dataset, load_dataset
from flowvae.errors import UserError
from flowvae.models import Model
from flowvae.models.registry import build_model
from flowvae.parts import shaping
from flowvae.runs.files import reason, replacing, write_json
from flowvae.runs.formats import Described, read_description, written
from flowvae.runs.metrics import METRICS, read_metrics

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
EVALUATION = "evaluation.json"
BEGUN = ".begun"
"""there from the directory's first moment until the first state to resume from is saved"""
PRETRAINED = Path(__file__).parents[1] / "pretrained"
# What a resumed run may change: its budget, and how it is watched and computed.
FREE = ("epochs", "steps", "minutes", "track", "compile", "gradient_checkpointing")


class Run:
    """A run, opened once: what it is made of is read when it is first asked for, and kept.

    Args:
        path: the directory; or, where there is no such directory, the name of a model that comes with the
            package: ``density-mnist``, the preset ``density`` trained for 160 minutes on binary MNIST.

    Raises:
        UserError: there is no such run; or, later, one of its files is damaged.

    >>> run = Run("density-mnist")
    >>> run.config.model.latent, run.spec.shape
    (32, (1, 28, 28))
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        bundled = PRETRAINED / path
        named = not path.exists() and path.name == str(path) and bundled.is_dir()
        self.path = bundled if named else path
        if not self.path.is_dir():
            raise UserError(f"{path} is not a directory; give the directory of a run")

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def bundled(self) -> bool:
        """Whether it comes with the package, whose directory is not ours to write into."""
        return self.path.parent == PRETRAINED

    def place_for(self, name: str) -> Path:
        """Where what is made of the run goes: ``name`` in its directory; for a bundled model, NAME-``name``.

        The latter lies in the current directory. A directory of the bundled model's own name would hide it.
        """
        return Path(f"{self.name}-{name}") if self.bundled else self.path / name

    @functools.cached_property
    def described(self) -> Described:
        """What config.json says."""
        return read_description(self.path / CONFIG)

    @property
    def config(self) -> Config:
        return self.described.config

    @property
    def spec(self) -> DataSpec:
        """What the model was told of its data."""
        return self.described.spec

    @functools.cached_property
    def model(self) -> Model:
        """The trained model, in ``eval()`` mode.

        Raises:
            UserError: the weights are missing or damaged, or the model is not one of flowvae's systems.
        """
        if self.config.model is None:
            raise UserError(
                f"{self.path} is of the system {self.described.system}, which is not one of flowvae's; load "
                "it in Python: flowvae.load(run, model=...), with a module made as that of the run was"
            )
        return self.fill(build_model(self.config.model, self.spec))

    def fill(self, model: Model) -> Model:
        """The trained weights, in a module that was built as the run's own was; in ``eval()`` mode."""
        _fill(model, self.path / WEIGHTS)
        model.eval()
        return model

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data set that it was trained on."""
        return self.read_dataset(self.config.data.data)

    def read_dataset(self, data: str | None) -> Dataset:
        """Another source of images, with the run's binarization; None for the run's own.

        Raises:
            UserError: there is no such data, or its images have another shape than the run's.
        """
        if data is None:
            return self.dataset
        mine = self.config.data
        dataset = load_dataset(data, mine.binarization, image_size=mine.image_size)
        if dataset.shape != self.spec.shape:
            raise UserError(
                f"the images of {data} are {_sides(dataset.shape)}; {self.path} was trained on "
                f"{_sides(self.spec.shape)}"
            )
        return dataset

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_metrics(self.path)


def load(run: str | Path, model: Model | None = None) -> Model:
    """The trained model of a run, in ``eval()`` mode.

    Args:
        run: as for `Run`.
        model: where the run's model is not one of flowvae's systems, a module made as it was, to be filled.

    Raises:
        UserError: no such run, one of its files is damaged, or ``model`` has other weights.
    """
    return Run(run).model if model is None else Run(run).fill(model)


def claim(path: Path) -> bool:
    """Make the directory of a new run, or find one of which nothing was saved, to begin it again.

    Returns:
        Whether the directory was made; of several processes, by one.

    Raises:
        UserError: it is there already.
    """
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # In one step with the file in it: a process killed between two would leave a directory for nobody.
        partial = path.parent / f".{secrets.token_hex(8)}.partial"
        try:
            partial.mkdir()
            (partial / BEGUN).touch()
            partial.rename(path)
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
    """Make the directory of a new run as `claim` does, with the configuration, no metrics and no weights.

    Raises:
        UserError: it is there already.
    """
    made = claim(path)
    try:
        for name in (METRICS, WEIGHTS):  # of an attempt that was killed; its other files are written over
            (path / name).unlink(missing_ok=True)
        write_json(path / CONFIG, written(config, spec, system))
    except BaseException:
        if made:
            shutil.rmtree(path, ignore_errors=True)
        raise


def revise(run: Run, config: Config) -> None:
    """Write what may change in a run that is resumed (see `check_revision`)."""
    check_revision(run, config)
    write_json(run.path / CONFIG, written(config, run.spec, run.described.system))


def check_revision(run: Run, config: Config, system: str | None = None) -> None:
    """Make sure that a run that is resumed differs from its own configuration in what may change alone.

    Raises:
        UserError: it differs in something else.
    """
    old = run.described
    if system is not None and system != old.system:
        raise UserError(f"{run.path} is of the system {old.system}; it cannot be resumed with {system}")
    new = written(config, run.spec, old.system)
    for part in ("data", "model", "training"):
        before = written(old.config, run.spec, old.system)[part] if part != "model" else old.options
        for name, value in new[part].items():
            free = part == "training" and name in FREE
            if not free and value != before.get(name):
                raise UserError(
                    f"{run.path} was started with {name} = {before.get(name)}; it cannot be resumed with "
                    f"{value}"
                )


def _sides(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def write_weights(path: Path, model: nn.Module) -> None:
    """Write the weights of a model into the directory of a run."""
    with replacing(path / WEIGHTS) as partial:
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        partial.write_bytes(safetensors.torch.save(weights, metadata={"format": "pt"}))


def load_weights(path: Path, config: System | None, model: nn.Module) -> None:
    """Give a model that is described by ``config`` the trained weights of a run.

    Raises:
        UserError: no such run, its model is another one, or one of its files is damaged.
    """
    run = Run(path)
    theirs = run.config.model
    if config is not None and theirs is not None:
        mine, others = shaping(config), shaping(theirs)
        for name in mine | others:
            if mine.get(name) != others.get(name):
                raise UserError(
                    f"{path} has {name} = {others.get(name)}; its weights do not fit {mine.get(name)}"
                )
    _fill(model, run.path / WEIGHTS)


def _fill(model: nn.Module, path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path} is missing; train the run for at least one validation")
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
        # As the model has them: a number can be finite in a wider type alone.
        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise ValueError(f"{name} is not finite")
    except (safetensors.SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged, or of another model or version ({reason(error)}); restore it or train again"
        ) from None
