"""The command line. Heavy imports wait until a command needs them, so that help is quick."""

import errno
import functools
import io
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from tyro.conf import Positional, arg

from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.memory import keep_freed_memory, lacks_memory
from flowvae.options import given, parse

Run = Annotated[Path, Positional, arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
# The program that a shell runs was stopped with Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130
LONGEST_LINE = 1000


def _default(text: str) -> Any:
    """What help shows in place of None."""
    return arg(help_behavior_hint=f"(default: {text})")


def train(words: list[str]) -> None:
    """Train a preset into a directory, or resume a run that was stopped."""
    name = words[0] if words and not words[0].startswith("-") else None
    resumed = given("--resume", words)
    if name is None and resumed is None and not {"--help", "-h"} & set(words):
        from flowvae.models.registry import PRESETS

        raise UserError(f"name a preset first: flowvae train PRESET; known: {', '.join(PRESETS)}")
    if resumed == "":
        raise UserError("--resume has no value; give the directory of the run to resume")
    if resumed is not None and given("--out", words) is not None:
        raise UserError("--resume goes on in the run's own directory; leave --out out")

    from flowvae.forms import read_training
    from flowvae.user_presets import named_preset

    if resumed is None:
        config = named_preset(name or "vae")
    elif name is None or ":" in name:
        config = _resumed(Path(resumed), name)
    else:
        raise UserError(f"--resume goes on with a run's own preset; leave {name!r} out")
    if any(given(budget, words) is not None for budget in ("--epochs", "--steps", "--minutes")):
        config = replace(config, training=config.training.with_budget())
    chosen = read_training(config, words[name is not None :], f"flowvae train {name or 'PRESET'}")

    from accelerate import PartialState

    from flowvae.training import train as train_run

    run = chosen.resume or chosen.out or Path("runs") / str(name).rpartition(":")[2]
    if not train_run(run, chosen.config, resume=chosen.resume is not None):
        raise KeyboardInterrupt
    if PartialState().is_main_process:  # once, however many processes there are
        print(f"{run} is trained; flowvae evaluate {run} scores it")


def _resumed(path: Path, name: str | None) -> Any:
    """The configuration of a run, whose system is flowvae's own or that of the preset ``name``."""
    from flowvae.parts import from_dict
    from flowvae.runs import Run
    from flowvae.user_presets import named_preset

    described = Run(path).described
    if described.config.model is not None and name is None:
        return described.config
    if name is None:
        raise UserError(
            f"{path} is of the system {described.system}; name its preset: flowvae train MODULE:NAME "
            f"--resume {path}"
        )
    model = named_preset(name).model
    return replace(described.config, model=model and from_dict(type(model), described.options))


def evaluate(
    run: Run,
    samples: int = 500,
    images: int = 1000,
    split: Literal["train", "valid", "test"] = "test",
    data: Annotated[str | None, _default("the run's own")] = None,
    seed: int = 0,
) -> None:
    """Score a run on images drawn at random; writes evaluation.json into its directory.

    Args:
        run: directory of the run
        samples: S, number of posterior samples per image for the importance-weighted -log p(x)
        images: number of images
        split: split that the images are drawn from
        data: another source of images
        seed: random seed for the choice of images and for the samples
    """
    from flowvae.commands import evaluate_run
    from flowvae.runs.table import markdown, titles

    evaluation = evaluate_run(run, samples, images, split, data, seed)
    print(markdown([{"name": titles([run])[0], **evaluation}]), end="")


def sample(
    run: Run,
    show: Literal["samples", "crossed", "nearest"] = "samples",
    images: int = 100,
    data: Annotated[str | None, _default("the run's own")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("RUN/SHOW.png")] = None,
) -> None:
    """Draw samples from a run's model and show them as a grid.

    Args:
        run: directory of the run
        show: samples; crossed, where columns share a code and rows share the pixels' noise; or nearest, each
            sample above the training image nearest to it
        images: number of images
        data: another source of training images
        seed: random seed for the draws
        out: picture to write, .png or .pdf
    """
    from flowvae.commands import picture_samples

    print(picture_samples(run, images, seed, out, show, data))


def reconstruct(
    run: Run,
    images: int = 50,
    data: Annotated[str | None, _default("the run's own")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("RUN/reconstructions.png")] = None,
) -> None:
    """Show test images, each above its reconstruction.

    Args:
        run: directory of the run
        images: number of images
        data: another source of images
        seed: random seed for the choice of images
        out: picture to write, .png or .pdf
    """
    from flowvae.commands import picture_reconstructions

    print(picture_reconstructions(run, images, seed, out, data))


def interpolate(
    runs: Runs,
    pairs: int = 8,
    steps: int = 10,
    data: Annotated[str | None, _default("that of each run")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("interpolations.png in the first run")] = None,
) -> None:
    """Interpolate between test images through the latent space, several runs side by side.

    Args:
        runs: directories of runs
        pairs: number of pairs of test images, the same for every run
        steps: images per interpolation, both ends included
        data: another source of images
        seed: random seed for the choice of pairs
        out: picture to write, .png or .pdf
    """
    from flowvae.commands import picture_interpolations

    _at_least_one(runs)
    print(picture_interpolations(runs, pairs, steps, seed, out, data))


def table(runs: Runs, out: Annotated[Path | None, _default("print Markdown")] = None) -> None:
    """Compare evaluated runs in a table.

    Args:
        runs: directories of runs
        out: file to write; its suffix .md, .csv or .json chooses the format
    """
    from flowvae.runs.table import collect, markdown, write_table

    _at_least_one(runs)
    rows = collect(list(runs))
    if out is None:
        print(markdown(rows), end="")
    else:
        write_table(rows, out)
        print(out)


def export(
    run: Run,
    format: Literal["onnx", "hub"] = "onnx",
    out: Annotated[Path | None, _default("RUN/onnx or RUN/hub")] = None,
) -> None:
    """Write a run's model for use elsewhere: as ONNX graphs, or as a directory for a model hub.

    Args:
        run: directory of the run
        format: onnx writes encoder, decoder and sampler; hub writes configuration, weights and a model card
        out: directory to write
    """
    from flowvae.commands import export_run

    for path in export_run(run, format, out):
        print(path)


def explore(
    runs: Runs,
    port: int = 7860,
    data: Annotated[str | None, _default("that of each run")] = None,
    host: Annotated[tuple[str, ...], _default("127.0.0.1 and localhost")] = (),
) -> None:
    """Explore runs on a local web page: curves, latent space, posteriors, scores, samples.

    Args:
        runs: directories of runs
        port: port of the page, which only this machine can reach
        data: another source of images
        host: more names under which a proxy or a tunnel reaches the page
    """
    from flowvae.explorer.page import serve

    _at_least_one(runs)
    serve(runs, port, data, host)


def presets() -> None:
    """List the named experiments."""
    from flowvae.models.registry import PRESETS

    for name, config in PRESETS.items():
        what = "" if config.model is None else config.model.describe()
        print(f"{name:24} {what}; {config.data.data}")


def demo(minutes: float = 2.0, out: Path = Path("runs/demo")) -> None:
    """Train vae and realnvp-2 for a few minutes each, score them, and make their pictures.

    Args:
        minutes: training time of each of the two
        out: directory to write
    """
    from flowvae.commands import run_demo

    run_demo(minutes, out)


def reproduce(
    what: Annotated[Literal["table1", "figure1", "ablations", "depth", "density", "cifar10"], Positional],
    out: Annotated[Path | None, _default("runs/ and the name of the table")] = None,
    minutes: Annotated[float | None, _default("10 where no epochs are given")] = None,
    epochs: int | None = None,
    rows: Annotated[tuple[str, ...], _default("all of the table")] = (),
    seeds: int = 1,
    workers: int = 1,
    data: Annotated[str | None, _default("that of the presets")] = None,
    samples: int = 1000,
    images: int = 2000,
    compared: tuple[str, str] = ("vae-seed0", "realnvp-5-seed0"),
) -> None:
    """Train, score and report the rows of a published table, or draw the figure of the first one.

    Can be interrupted and resumed: start the same command again. Finished rows are kept, others are resumed,
    and a larger budget resumes all of them.

    Args:
        what: name of a table, or figure1: the interpolations of two rows of table1 side by side
        out: directory for a JSON file per row, the table, the pictures and the runs
        minutes: budget of every row in minutes
        epochs: budget of every row in epochs
        rows: names of the rows to train
        seeds: number of random seeds, 0 and up, with which each row is trained
        workers: number of rows trained at a time
        data: another source of images
        samples: S, number of posterior samples per image for -log p(x)
        images: number of random test images that are scored
        compared: names of the two rows of the figure
    """
    from flowvae.reproduce import TABLES, Budget, reproduce_figure, reproduce_table

    table = "table1" if what == "figure1" else what
    out = out or Path("runs") / table
    if what == "figure1":
        of_tables = {"--minutes": minutes, "--epochs": epochs, "--rows": rows, "--data": data}
        if unused := [name for name, value in of_tables.items() if value]:
            raise UserError(f"figure1 draws two rows that are trained; leave out {', '.join(unused)}")
        for path in reproduce_figure([out / "runs" / name for name in compared], out / "figure1.png"):
            print(path)
        return
    variants = TABLES[table]
    for name in rows:
        if name not in variants:
            raise UserError(f"{table} has no row {quoted(name)}; {did_you_mean(name, variants)}")
    reproduce_table(
        out,
        Budget(minutes=10.0 if minutes is None and epochs is None else minutes, epochs=epochs),
        variants={name: variants[name] for name in rows or variants},
        seeds=seeds,
        data=data,
        workers=workers,
        num_samples=samples,
        num_images=images,
    )
    print((out / "table.md").read_text(encoding="utf-8"), end="")


_ALL = (train, evaluate, sample, reconstruct, interpolate, explore, table, export, presets, demo, reproduce)
COMMANDS: dict[str, Callable[..., None]] = {command.__name__: command for command in _ALL}


def main() -> None:
    """Entry point: a mistake of the user is one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be text, and an encoding need not have their letters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(_file_trouble(error))
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        _fail("memory is not enough; choose a smaller model, or fewer images or samples at a time")
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)


def _run(words: list[str]) -> None:
    if any("\0" in word for word in words):
        raise UserError("a word has a null character, which no name and no number has; leave it out")
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        import importlib.metadata

        print(importlib.metadata.version("flowvae"))
        return
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UserError(f"no command {quoted(name)}; {did_you_mean(name, COMMANDS)}")
    # Here and not in the functions of the package, which leave the process of their caller as it is.
    keep_freed_memory()
    if name == "train":
        train(rest)
    else:
        command = COMMANDS[name]

        @functools.wraps(command)
        def bind(*arguments: Any, **options: Any) -> Callable[[], None]:
            return functools.partial(command, *arguments, **options)

        parse(bind, rest, f"flowvae {name}")()


def _help() -> str:
    lines = [
        "usage: flowvae COMMAND [options]",
        "",
        "Train, measure and explore deep generative models.",
        "",
        *(f"  {name:12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()),
        "",
        "flowvae COMMAND --help lists a command's options; flowvae --version the version.",
    ]
    return "\n".join(lines)


def _at_least_one(runs: tuple[Path, ...]) -> None:
    if not runs:
        raise UserError("name at least one directory of a run")


def _file_trouble(error: OSError) -> str:
    """What went wrong with a file, and what to do."""
    remedies = {
        errno.ENOSPC: "free some space, then run it again",
        errno.ENOENT: "create the directory first, or choose another path",
    }
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; {remedies.get(error.errno or 0, 'choose another path')}"


def _fail(message: str, code: int = 2) -> NoReturn:
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:  # it repeats a long word; what to do stands at its end
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"flowvae: {line}", file=sys.stderr)
    sys.exit(code)
