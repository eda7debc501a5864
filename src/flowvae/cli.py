"""The command line. Heavy imports wait until a command needs them, so that help is quick."""

import contextlib
import functools
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from flowvae.config import Config, DataConfig, ModelConfig, TrainingConfig
from flowvae.errors import UserError, nearest
from flowvae.presets import PRESETS, preset

T = TypeVar("T")
Run = Positional[Path]
Runs = Positional[tuple[Path, ...]]


@dataclass(frozen=True)
class Training:
    """Train a preset into a new folder, or go on with a run.

    Begin with: flowvae train PRESET [options]. Go on, exactly where it stopped, with: flowvae train --resume
    RUN, and a budget if it shall be another. Ctrl-C stops and saves.
    """

    data: OmitArgPrefixes[DataConfig]
    model: OmitArgPrefixes[ModelConfig]
    training: OmitArgPrefixes[TrainingConfig]
    out: Path | None = None
    """folder of the new run [runs/PRESET]"""
    resume: Path | None = None
    """folder of the run to go on with"""


def train(words: list[str]) -> None:
    """Train a preset into a folder, or go on with a run that was stopped."""
    name = words[0] if words and not words[0].startswith("-") else None
    resumed = _given("--resume", words)
    if name is not None:
        config, words = preset(name), words[1:]
    elif resumed is not None:
        from flowvae.runs import read_config

        config = read_config(Path(resumed))[0]
    elif {"--help", "-h"} & set(words):
        config = Config()
    else:
        raise UserError(f"name a preset: flowvae train PRESET; known: {', '.join(PRESETS)}")
    training = config.training
    if any(_given(budget, words) is not None for budget in ("--epochs", "--steps", "--minutes")):
        training = training.with_budget()
    default = Training(config.data, config.model, training)
    chosen = _parse(Training, words, f"flowvae train {name or 'PRESET'}", default=default)
    if name is not None and chosen.resume is not None:
        raise UserError(f"--resume goes on with a run's own preset; leave {name!r} out")

    from flowvae.training import train as train_run

    run = chosen.resume or chosen.out or Path("runs") / str(name)
    train_run(run, Config(chosen.data, chosen.model, chosen.training), resume=chosen.resume is not None)
    print(f"{run} is trained; flowvae evaluate {run} scores it")


def evaluate(
    run: Run,
    samples: int = 500,
    images: int = 1000,
    split: Literal["train", "valid", "test"] = "test",
    data: str | None = None,
    seed: int = 0,
) -> None:
    """Score a run on images drawn at random; writes evaluation.json into its folder.

    Args:
        run: folder of the run
        samples: S, posterior samples an image for the importance-weighted -log p(x)
        images: how many images
        split: which images
        data: other images than those of the run
        seed: of the choice of images and of the samples
    """
    from flowvae.evaluation.table import markdown
    from flowvae.commands import evaluate_run

    evaluation = evaluate_run(run, samples, images, split, data, seed)
    print(markdown([{"name": run.name, **evaluation}]), end="")


def sample(run: Run, images: int = 100, seed: int = 0, out: Path | None = None) -> None:
    """Draw images from the model, as a grid.

    Args:
        run: folder of the run
        images: how many
        seed: of the draws
        out: picture to write [RUN/samples.png]
    """
    from flowvae.commands import picture_samples

    print(picture_samples(run, _positive("images", images), seed, out or run / "samples.png"))


def reconstruct(run: Run, images: int = 50, seed: int = 0, out: Path | None = None) -> None:
    """Test images, each above its reconstruction.

    Args:
        run: folder of the run
        images: how many
        seed: of the choice of images
        out: picture to write [RUN/reconstructions.png]
    """
    from flowvae.commands import picture_reconstructions

    print(picture_reconstructions(run, _positive("images", images), seed, out or run / "reconstructions.png"))


def interpolate(runs: Runs, pairs: int = 8, steps: int = 10, seed: int = 0, out: Path | None = None) -> None:
    """Walk from one test image to another through the latent space, several runs side by side.

    Args:
        runs: folders of runs
        pairs: how many pairs of test images; every run gets the same ones
        steps: images a walk, both ends included
        seed: of the choice of pairs
        out: picture to write, .png or .pdf [interpolations.png in the first run]
    """
    from flowvae.commands import picture_interpolations

    _at_least_one(runs)
    out = out or runs[0] / "interpolations.png"
    print(picture_interpolations(runs, _positive("pairs", pairs), _positive("steps", steps), seed, out))


def table(runs: Runs, out: Path | None = None) -> None:
    """Compare evaluated runs in a table.

    Args:
        runs: folders of runs
        out: file to write, .md, .csv or .json by its name [print Markdown]
    """
    from flowvae.evaluation.table import collect, markdown, write_table

    _at_least_one(runs)
    rows = collect(list(runs))
    if out is None:
        print(markdown(rows), end="")
    else:
        write_table(rows, out)
        print(out)


def presets() -> None:
    """List the named experiments."""
    for name, config in PRESETS.items():
        model = config.model
        print(f"{name:12} posterior {model.posterior}, K = {model.transformations}, D = {model.latent}")


def demo(minutes: float = 2.0, out: Path = Path("runs/demo")) -> None:
    """Train vae and realnvp-2 for a few minutes each, score them, and make their pictures.

    Args:
        minutes: of training for each of the two
        out: folder to write
    """
    from flowvae.commands import run_demo

    run_demo(minutes, out)


COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__: command
    for command in (train, evaluate, sample, reconstruct, interpolate, table, presets, demo)
}


def main() -> None:
    """Entry point: a mistake of the user is one line on standard error and exit code 2."""
    try:
        _run(sys.argv[1:])
    except UserError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"{error.filename or 'file'}: {error.strerror or error}")


def _run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        import importlib.metadata

        print(importlib.metadata.version("flowvae"))
        return
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}; {nearest(name, COMMANDS)}")
    if name == "train":
        train(rest)
    else:
        command = COMMANDS[name]

        @functools.wraps(command)
        def bind(*arguments: Any, **options: Any) -> Callable[[], None]:
            return functools.partial(command, *arguments, **options)

        _parse(bind, rest, f"flowvae {name}")()


def _help() -> str:
    lines = [
        "usage: flowvae COMMAND [options]",
        "",
        "Train, measure and explore variational autoencoders with flexible posteriors.",
        "",
        *(f"  {name:12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()),
        "",
        "flowvae COMMAND --help lists a command's options; flowvae --version the version.",
    ]
    return "\n".join(lines)


def _parse(kind: Callable[..., T], words: list[str], program: str, **default: Any) -> T:
    """Parse ``words`` with tyro, whose boxed complaints become one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=words, prog=program, **default)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(_one_line(complaint.getvalue())) from None


def _one_line(box: str) -> str:
    """The complaint itself, and the first option that tyro holds likely, out of a box drawn with lines."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    rule = next((index for index, line in enumerate(lines) if line.startswith("─")), len(lines))
    text = " ".join(lines[:rule])
    if "Perhaps you meant:" in lines:
        likely = next((line for line in lines[rule:] if line.startswith("--")), "").split()
        text += f"; did you mean {likely[0]}?" if likely else ""
    return text or "the options cannot be read; see --help"


def _given(option: str, words: list[str]) -> str | None:
    """The word that follows ``option``, before tyro knows which options there are."""
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
        if word == option:
            return words[index + 1] if index + 1 < len(words) else ""
    return None


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise UserError(f"{name} is {value}; it must be at least 1")
    return value


def _at_least_one(runs: tuple[Path, ...]) -> None:
    if not runs:
        raise UserError("name at least one folder of a run")


def _fail(message: str) -> NoReturn:
    print(f"flowvae: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
