"""A run is a folder: what is in it, written so that a crash never leaves half a file."""

import contextlib
import dataclasses
import glob
import json
import math
import os
import secrets
import shutil
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import nn

from flowvae.build import build_model
from flowvae.config import Config, ModelConfig, from_dict
from flowvae.data import Dataset, load_dataset
from flowvae.errors import UserError, quoted
from flowvae.formats import numbered, upgraded
from flowvae.models import VAE, Model

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
BEGUN = ".begun"
"""there from the folder's first moment until the first state to resume from is saved"""
LEFT_OVER = 3600.0  # seconds after which a file that nobody writes to has lost its writer
MOST_PIXELS = 2**26  # of one image, over its channels
PRETRAINED = Path(__file__).parent / "pretrained"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place when all went well.

    Processes that write the same file do not meet: the last to finish stays. What a process that was killed
    left beside ``path`` is removed an hour later. An OSError is made to name ``path``: that of a full disk
    names no file, and others the one beside it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with replacing(path) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> path.read_text()
    '1 2 3'
    """
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process removes it, too
            if time.time() - partial.stat().st_mtime > LEFT_OVER:
                partial.unlink()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # it took its place, or was never made
            partial.unlink()


def write_json(path: Path, values: Any) -> None:
    """Write nested ``values`` as JSON.

    Raises:
        UserError: one of them is NaN or infinite, which JSON has no number for.
    """
    try:
        text = json.dumps(values, indent=2, allow_nan=False)
    except ValueError:
        raise UserError(f"{path} is not written: a number is not finite; train the run again") from None
    with replacing(path) as partial:
        partial.write_text(text + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is missing, cannot be read, or is no JSON, as one with NaN or Infinity is not.
    """
    try:
        return json.loads(_read(path), parse_constant=_refuse)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} the folder of a run?") from None
    except (ValueError, RecursionError):  # nested too deep, or an integer of thousands of digits
        raise UserError(f"{path} is not valid JSON; restore it or train again") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); restore it") from None


def claim(run: Path) -> bool:
    """Make the folder of a new run, or find one of which nothing was saved, to begin it again.

    Returns:
        Whether the folder was made; of several processes, by one.

    Raises:
        UserError: it is there already.
    """
    try:
        run.mkdir(parents=True)
    except FileExistsError:
        if (run / BEGUN).exists():
            return False
        raise UserError(f"{run} exists already; choose another --out, or go on with --resume {run}") from None
    try:
        (run / BEGUN).touch()
    except BaseException:
        run.rmdir()  # or the next attempt would find that it exists already
        raise
    return True


def create(run: Path, config: Config, shape: tuple[int, int, int]) -> None:
    """Make the folder of a new run as `claim` does, with the configuration, no metrics and no weights.

    Raises:
        UserError: it is there already.
    """
    made = claim(run)
    try:
        for name in (METRICS, WEIGHTS):  # of an attempt that was killed; its other files are written over
            (run / name).unlink(missing_ok=True)
        write_config(run, config, shape)
    except BaseException:
        if made:
            shutil.rmtree(run, ignore_errors=True)
        raise


def revise(run: Path, config: Config) -> None:
    """Change what may change in a run that goes on (see `check_revision`)."""
    check_revision(run, config)
    write_config(run, config, read_config(run)[1])


def check_revision(run: Path, config: Config) -> None:
    """A run that goes on may change its budget, and how it is watched and compiled.

    Raises:
        UserError: something else differs from the run's own configuration.
    """
    old, _ = read_config(run)
    kept = {
        name: getattr(old.training, name)
        for name in ("epochs", "steps", "minutes", "track", "compile", "gradient_checkpointing")
    }
    training = dataclasses.replace(config.training, **kept)
    for part, mine in (("data", config.data), ("model", config.model), ("training", training)):
        for name, value in dataclasses.asdict(mine).items():
            before = getattr(getattr(old, part), name)
            if value != before:
                raise UserError(f"{run} was begun with {name} = {before}; it cannot go on with {value}")


def find(run: str | Path) -> Path:
    """The folder of a run: ``run`` itself or, where nothing has this path, a bundled model of this name.

    Whatever is given a run finds its files by this function alone.

    Raises:
        UserError: there is neither.
    """
    run = Path(run)
    bundled = PRETRAINED / run
    if not run.exists() and run.name == str(run) and bundled.is_dir():
        return bundled
    if not run.is_dir():
        raise UserError(f"{run} is no folder; give the folder of a run")
    return run


def is_bundled(run: Path) -> bool:
    """Whether a run is a model that comes with the package, whose folder is not ours to write into."""
    return find(run).parent == PRETRAINED


def output(run: Path, name: str) -> Path:
    """Where what is made of a run goes: ``name`` in its folder; for a bundled model, the file RUN-``name``.

    The latter lies in the current folder. A folder of the bundled model's own name would hide it.
    """
    return Path(f"{run}-{name}") if is_bundled(run) else run / name


def write_config(run: Path, config: Config, shape: tuple[int, int, int]) -> None:
    """Write config.json; ``shape`` is (C, H, W) of the images."""
    write_json(run / CONFIG, {**numbered(config), "shape": list(shape)})


def read_config(run: Path) -> tuple[Config, tuple[int, int, int]]:
    """The configuration of a run, and the shape (C, H, W) of its images; names of models as in `load`."""
    run = find(run)
    values = read_json(run / CONFIG)
    shape = values.pop("shape", None) if isinstance(values, dict) else None
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(side) is int and side > 0 for side in shape)
        and math.prod(shape) <= MOST_PIXELS
    ):
        raise UserError(
            f"{run / CONFIG}: shape is {quoted(shape)}; expected [channels, height, width], of at most "
            f"{MOST_PIXELS:,} numbers in all"
        )
    try:
        return from_dict(Config, upgraded(values)), (shape[0], shape[1], shape[2])
    except UserError as error:
        raise UserError(f"{run / CONFIG}: {error}") from None


def read_dataset(run: Path, data: str | None = None) -> Dataset:
    """The data set of a run, or another source with the run's binarization.

    Raises:
        UserError: there is no such run or data, or its images have another shape than the run's.
    """
    config, shape = read_config(run)
    source = data or config.data.data
    dataset = load_dataset(source, config.data.binarization, image_size=config.data.image_size)
    if dataset.shape != shape:
        raise UserError(
            f"the images of {source} are {_sides(dataset.shape)}; {run} was trained on {_sides(shape)}"
        )
    return dataset


def _sides(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def write_weights(run: Path, model: nn.Module) -> None:
    with replacing(run / WEIGHTS) as partial:
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        partial.write_bytes(safetensors.torch.save(weights, metadata={"format": "pt"}))


def load(run: str | Path) -> Model:
    """The trained model of a run's folder, in ``eval()`` mode.

    Args:
        run: the folder; or, where there is no such folder, the name of a model that comes with the package:
            ``density-mnist``, the preset ``density`` trained for 160 minutes on binary MNIST.

    Raises:
        UserError: no such run, or one of its files is damaged.
    """
    run = find(run)
    config, shape = read_config(run)
    model = build_model(config.model, shape)
    _fill(model, run)
    return model.eval()


def load_weights(run: Path, config: ModelConfig, model: nn.Module) -> None:
    """Give a model that is described by ``config`` the trained weights of a run.

    Raises:
        UserError: no such run, its model is another one, or one of its files is damaged.
    """
    theirs = read_config(run)[0].model
    for name, mine in dataclasses.asdict(config).items():
        if name != "causal_dropout" and mine != getattr(theirs, name):  # dropout has no weights
            raise UserError(f"{run} has {name} = {getattr(theirs, name)}; its weights do not fit {mine}")
    _fill(model, find(run))


def _fill(model: nn.Module, run: Path) -> None:
    path = run / WEIGHTS
    if not path.exists():
        raise UserError(f"{path} is missing; train the run for at least one validation")
    try:
        weights = safetensors.torch.load_file(path)
        model.load_state_dict(weights)
        # As the model has them: a number can be finite in a wider type alone.
        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise ValueError(f"{name} is not finite")
    except (safetensors.SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged, or of another model or version ({reason(error)}); restore it or train again"
        ) from None


def load_vae(run: str | Path) -> VAE:
    """As `load`, for what needs a latent code.

    Raises:
        UserError: the model has none.
    """
    model = load(run)
    if not isinstance(model, VAE):
        raise UserError(f"the model of {run} has no latent code; give the run of a variational autoencoder")
    return model


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, in order; none where there is no such file. Damaged lines are left out.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = _read(run / METRICS).splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):  # a line that a crash cut short, or worse
            records.append(json.loads(line))
    return [record for record in records if _is_record(record)]


def _is_record(value: Any) -> bool:
    """Whether it has what every record has, as numbers that 64 bits hold."""
    return (
        isinstance(value, dict)
        and value.get("split") in ("train", "valid")
        and type(value.get("step")) is int
        and all(
            type(value.get(name)) in (int, float) and abs(value[name]) < 2**63
            for name in ("step", "epoch", "seconds", "negative_elbo")
        )
    )


def cut_metrics(run: Path, length: int) -> None:
    """Keep the first ``length`` bytes of metrics.jsonl; a resumed run writes what came after them again."""
    path = run / METRICS
    kept = path.read_bytes()[:length] if path.exists() else b""
    with replacing(path) as partial:
        partial.write_bytes(kept)


def reason(error: Exception) -> str:
    """What is wrong with a file, out of the many words of the library that found it; one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Where the first line announces a list, its first item; PyTorch's advice comes in later sentences.
    line = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    return textwrap.shorten(line.split(". ")[0], 150, placeholder=" ...")


def seed_everything(seed: int, *place: int) -> None:
    """Seed torch's generator, so that noise is a pure function of the seed and of a place, if any.

    ``spawn_key`` keeps the places of a seed apart from each other and from the seed alone; a plain list of
    numbers would not, since NumPy fills it up with zeros.
    """
    import numpy

    (mixed,) = numpy.random.SeedSequence(seed, spawn_key=place).generate_state(1, numpy.uint64)
    torch.manual_seed(int(mixed))
