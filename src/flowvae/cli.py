"""The command line. Heavy imports wait until a command needs them, so that help is quick."""

import errno
import functools
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from tyro.conf import OmitArgPrefixes, Positional, arg

from flowvae.config import Config, DataConfig, ModelConfig, TrainingConfig
from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.options import given, parse
from flowvae.presets import PRESETS, preset

Run = Annotated[Path, Positional, arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
# The program that a shell runs was stopped with Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130
LONGEST_LINE = 1000


def _default(text: str) -> Any:
    """What help shows in place of None."""
    return arg(help_behavior_hint=f"(default: {text})")


@dataclass(frozen=True)
class Training:
    """Train a preset into a new folder, or go on with a run.

    Begin with: flowvae train PRESET [options]. Go on, exactly where it stopped, with: flowvae train --resume
    RUN, and a budget if it shall be another. Ctrl-C or SIGTERM stops and saves. A run that was killed before
    anything was saved begins anew either way.
    """

    data: OmitArgPrefixes[DataConfig]
    model: OmitArgPrefixes[ModelConfig]
    training: OmitArgPrefixes[TrainingConfig]
    out: Annotated[Path | None, _default("runs/PRESET")] = None
    """folder of the new run"""
    resume: Path | None = None
    """folder of the run to go on with"""


def train(words: list[str]) -> None:
    """Train a preset into a folder, or go on with a run that was stopped."""
    name = words[0] if words and not words[0].startswith("-") else None
    resumed = given("--resume", words)
    if name is not None:
        config, words = preset(name), words[1:]
    elif resumed is not None:
        if not resumed:
            raise UserError("--resume has no value; give the folder of the run to go on with")
        from flowvae.runs import read_config

        config = read_config(Path(resumed))[0]
    elif {"--help", "-h"} & set(words):
        config = Config()
    else:
        raise UserError(f"name a preset first: flowvae train PRESET; known: {', '.join(PRESETS)}")
    training = config.training
    if any(given(budget, words) is not None for budget in ("--epochs", "--steps", "--minutes")):
        training = training.with_budget()
    default = Training(config.data, config.model, training)
    chosen = parse(Training, words, f"flowvae train {name or 'PRESET'}", default=default)
    if name is not None and chosen.resume is not None:
        raise UserError(f"--resume goes on with a run's own preset; leave {name!r} out")
    if chosen.resume is not None and chosen.out is not None:
        raise UserError("--resume goes on in the run's own folder; leave --out out")

    from accelerate import PartialState

    from flowvae.training import train as train_run

    run = chosen.resume or chosen.out or Path("runs") / str(name)
    config = Config(chosen.data, chosen.model, chosen.training)
    if not train_run(run, config, resume=chosen.resume is not None):
        raise KeyboardInterrupt
    if PartialState().is_main_process:  # once, however many processes there are
        print(f"{run} is trained; flowvae evaluate {run} scores it")


def evaluate(
    run: Run,
    samples: int = 500,
    images: int = 1000,
    split: Literal["train", "valid", "test"] = "test",
    data: Annotated[str | None, _default("the run's own")] = None,
    seed: int = 0,
) -> None:
    """Score a run on images drawn at random; writes evaluation.json into its folder.

    A warning says where the samples are too few for the -log p(x) that is printed.

    Args:
        run: folder of the run
        samples: S, posterior samples an image for the importance-weighted -log p(x)
        images: how many images
        split: which images
        data: images of another source
        seed: of the choice of images and of the samples
    """
    from flowvae.commands import evaluate_run
    from flowvae.evaluation.table import markdown, titles

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
    """Draw codes from the prior and show the images that they decode to, as a grid.

    Args:
        run: folder of the run
        show: samples; crossed, with a code for each column and the pixels' noise for each row; or each sample
            above the training image nearest to it
        images: how many
        data: training images of another source
        seed: of the draws
        out: picture to write, .png or .pdf
    """
    from flowvae.commands import picture_samples
    from flowvae.runs import output

    print(picture_samples(run, images, seed, out or output(run, f"{show}.png"), show, data))


def reconstruct(
    run: Run,
    images: int = 50,
    data: Annotated[str | None, _default("the run's own")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("RUN/reconstructions.png")] = None,
) -> None:
    """Show test images, each above its reconstruction.

    Args:
        run: folder of the run
        images: how many
        data: images of another source
        seed: of the choice of images
        out: picture to write, .png or .pdf
    """
    from flowvae.commands import picture_reconstructions
    from flowvae.runs import output

    print(picture_reconstructions(run, images, seed, out or output(run, "reconstructions.png"), data))


def interpolate(
    runs: Runs,
    pairs: int = 8,
    steps: int = 10,
    data: Annotated[str | None, _default("that of each run")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("interpolations.png in the first run")] = None,
) -> None:
    """Walk from one test image to another through the latent space, several runs side by side.

    Args:
        runs: folders of runs
        pairs: how many pairs of test images; every run gets the same ones
        steps: images a walk, both ends included
        data: images of another source
        seed: of the choice of pairs
        out: picture to write, .png or .pdf
    """
    from flowvae.commands import picture_interpolations
    from flowvae.runs import output

    _at_least_one(runs)
    out = out or output(runs[0], "interpolations.png")
    print(picture_interpolations(runs, pairs, steps, seed, out, data))


def table(runs: Runs, out: Annotated[Path | None, _default("print Markdown")] = None) -> None:
    """Compare evaluated runs in a table.

    Args:
        runs: folders of runs
        out: file to write, .md, .csv or .json by its name
    """
    from flowvae.evaluation.table import collect, markdown, write_table

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
    """Write a run's model for use elsewhere: as ONNX graphs, or a folder as model hubs have it.

    Args:
        run: folder of the run
        format: onnx writes encoder, decoder and sampler; hub writes configuration, weights and a model card
        out: folder to write
    """
    from flowvae.commands import export_run
    from flowvae.runs import output

    for path in export_run(run, format, out or output(run, format)):
        print(path)


def explore(
    runs: Runs,
    port: int = 7860,
    data: Annotated[str | None, _default("that of each run")] = None,
    host: Annotated[tuple[str, ...], _default("127.0.0.1 and localhost")] = (),
) -> None:
    """Look into runs on a local web page: curves, latent space, posteriors, scores, samples.

    Args:
        runs: folders of runs
        port: where the page is served, on this machine alone
        data: images of another source
        host: more names under which a proxy or a tunnel reaches the page
    """
    from flowvae.explorer.page import serve

    _at_least_one(runs)
    serve(runs, port, data, host)


def presets() -> None:
    """List the named experiments."""
    for name, config in PRESETS.items():
        model = config.model
        if model.family == "realnvp":
            what = f"Real NVP as a density, K = {model.transformations} at each scale"
        elif model.family == "pixelcnn":
            what = "a causal network without a code"
        else:
            size = f"D = {model.latent}" if model.code == "vector" else f"a map of {model.latent} channels"
            what = f"posterior {model.posterior}, K = {model.transformations}, {size}"
            if model.prior != "normal" or model.likelihood != "bernoulli":
                what += f"; prior {model.prior}, likelihood {model.likelihood}"
        print(f"{name:24} {what}, {config.data.data}")


def demo(minutes: float = 2.0, out: Path = Path("runs/demo")) -> None:
    """Train vae and realnvp-2 for a few minutes each, score them, and make their pictures.

    Args:
        minutes: of training for each of the two
        out: folder to write
    """
    from flowvae.commands import run_demo

    run_demo(minutes, out)


def reproduce(
    what: Annotated[Literal["table1", "figure1", "ablations", "depth", "density", "cifar10"], Positional],
    out: Annotated[Path | None, _default("runs/table1, or the folder of another table's name")] = None,
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

    Start the same command again after a stop: finished rows are kept, others go on; so does everything with
    a larger budget.

    Args:
        what: a table, or, of table1, the interpolations of two rows side by side
        out: folder with a JSON for each row, the table, the pictures, and the runs
        minutes: budget of every row
        epochs: budget of every row
        rows: names of rows
        seeds: rows are trained with the seeds 0 to this number less one
        workers: rows that are trained at a time
        data: images
        samples: S of -log p(x)
        images: random test images that are scored
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
        if not _is_lack_of_memory(error):
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
        "Train, measure and explore variational autoencoders with flexible posteriors.",
        "",
        *(f"  {name:12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()),
        "",
        "flowvae COMMAND --help lists a command's options; flowvae --version the version.",
    ]
    return "\n".join(lines)


def _at_least_one(runs: tuple[Path, ...]) -> None:
    if not runs:
        raise UserError("name at least one folder of a run")


def _file_trouble(error: OSError) -> str:
    """What went wrong with a file, and what to do."""
    remedies = {
        errno.ENOSPC: "free some space, then run it again",
        errno.ENOENT: "make its folder first, or choose another place",
    }
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; {remedies.get(error.errno or 0, 'choose another place')}"


def _is_lack_of_memory(error: MemoryError | RuntimeError) -> bool:
    """PyTorch raises a RuntimeError where its allocator fails, or where a size has more than 64 bits."""
    signs = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def _fail(message: str, code: int = 2) -> NoReturn:
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:  # it repeats a long word; what to do stands at its end
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"flowvae: {line}", file=sys.stderr)
    sys.exit(code)
