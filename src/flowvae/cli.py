"""The command line. Heavy imports are deferred until a command needs them, so that help is fast."""

import errno
import functools
import io
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from tyro.conf import Positional, arg

import flowvae
from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.memory import keep_freed_memory, lacks_memory
from flowvae.options import given, parse

Run = Annotated[Path, Positional, arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
Images = Annotated[
    tuple[str, ...], Positional, arg(metavar="IMAGES [IMAGES ...]", help_behavior_hint="(required)")
]
# The exit code by which a shell knows that a program was stopped with Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130
LONGEST_LINE = 1000


def _default(text: str) -> Any:
    """Show ``text`` in the help in place of None."""
    return arg(help_behavior_hint=f"(default: {text})")


def _width() -> int | None:
    """Characters that a line of the terminal holds; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def train(words: list[str]) -> None:
    """Train a preset into a new directory, or resume a run."""
    name = words[0] if words and not words[0].startswith("-") else None
    resumed = given("--resume", words)
    file = given("--config", words)
    if name is None and resumed is None and file is None and not {"--help", "-h"} & set(words):
        from flowvae.models.registry import PRESETS

        raise UserError(f"name a preset first: flowvae train PRESET; known: {', '.join(PRESETS)}")
    if file is not None and (name is not None or resumed is not None):
        raise UserError(f"--config describes the whole experiment; remove {name or '--resume'}")
    if file == "":
        raise UserError("--config has no value; give a YAML file, or the config.json of a run")
    if resumed == "":
        raise UserError("--resume has no value; give the directory of the run to resume")
    if resumed is not None and given("--out", words) is not None:
        raise UserError("--resume continues in the run's own directory; remove --out")

    from flowvae.forms import read_training
    from flowvae.user_presets import named_preset

    if file is not None:
        from flowvae.config_files import read_config

        config = read_config(Path(file))
    elif resumed is None:
        config = named_preset(name or "vae")
    elif name is None or ":" in name:
        config = _resumed(Path(resumed), name)
    else:
        raise UserError(f"--resume uses the run's own preset; remove {name!r}")
    if any(given(budget, words) is not None for budget in ("--epochs", "--steps", "--minutes")):
        config = replace(config, training=config.training.with_budget())
    chosen = read_training(config, words[name is not None :], f"flowvae train {name or 'PRESET'}")

    from accelerate import PartialState

    from flowvae.training import train as train_run

    own_name = Path(file).stem if file else str(name).rpartition(":")[2]
    run = chosen.resume or chosen.out or Path("runs") / own_name
    if not train_run(run, chosen.config, resume=chosen.resume is not None, device=chosen.device):
        raise KeyboardInterrupt
    if PartialState().is_main_process:  # once, however many processes there are
        print(f"{run} is trained; score it with: flowvae evaluate {shlex.quote(str(run))}")


def _resumed(path: Path, name: str | None) -> Any:
    """Read the configuration of a run whose system is one of flowvae's or that of the preset ``name``."""
    from flowvae.parts import from_dict
    from flowvae.runs import Run
    from flowvae.user_presets import named_preset

    described = Run(path).described
    if described.config.model is not None and name is None:
        return described.config
    if name is None:
        raise UserError(
            f"{path} has the system {described.system}, which is not one of flowvae's; name its preset: "
            f"flowvae train MODULE:NAME --resume {shlex.quote(str(path))}"
        )
    model = named_preset(name).model
    return replace(described.config, model=model and from_dict(type(model), described.options))


def evaluate(
    run: Run,
    estimator: Literal["importance", "ais"] = "importance",
    samples: Annotated[int | None, _default("500")] = None,
    images: Annotated[int | None, _default("up to 1000, or all of other data; of ais, up to 100")] = None,
    split: Literal["train", "valid", "test"] = "test",
    data: Annotated[str | None, _default("the run's own")] = None,
    chains: Annotated[int | None, _default("16")] = None,
    distributions: Annotated[int | None, _default("1000; of systems, 100")] = None,
    leapfrog_steps: Annotated[int | None, _default("10")] = None,
    start: Annotated[Literal["prior", "posterior"] | None, _default("posterior, if possible")] = None,
    variance: Annotated[float | None, _default("none")] = None,
    dequantize: bool = False,
    simulated: Annotated[int | None, _default("16")] = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Score a run on random images and write evaluation.json into its directory.

    With --data, all images of the split are scored by default, and evaluation-NAME.json is written. With
    --estimator ais, evaluation-ais.json is written, and the other files are left as they are.

    Args:
        run: directory of the run
        estimator: of -log p(x): importance, from posterior samples, if it is not exact; or ais, annealed
            importance sampling, which takes far longer and depends less on the encoder
        samples: S, number of posterior samples per image for the importance-weighted -log p(x)
        images: number of images to score
        split: split that the images are drawn from
        data: another data set or path to take the images from
        chains: of ais, number of chains per image
        distributions: of ais, number of distributions between the start and the true posterior
        leapfrog_steps: of ais, number of gradients per move of a chain
        start: of ais, first distribution of codes: prior, or posterior, that of the encoder
        variance: of ais, variance of pixels around the generated image, for gan and glo
        dequantize: of ais, add uniform noise to 8-bit pixels, for models of continuous pixels
        simulated: of ais, number of images drawn from the model to bound log p(x) from both sides, or 0
        seed: random seed for the choice of images and all samples
        device: device to compute on: auto, cpu or an accelerator such as cuda:1
    """
    annealing = {
        "chains": chains,
        "distributions": distributions,
        "leapfrog_steps": leapfrog_steps,
        "start": start,
        "variance": variance,
        "dequantize": dequantize or None,
    }
    chosen: dict[str, Any] = {name: value for name, value in annealing.items() if value is not None}
    if estimator == "importance" and (chosen or simulated is not None):
        name = next(iter(chosen), "simulated").replace("_", "-")
        raise UserError(f"--{name} is an option of --estimator ais; add that, or omit --{name}")
    if estimator == "ais" and samples is not None:
        raise UserError("--samples has no effect with --estimator ais; choose --chains and --distributions")

    from flowvae.commands import USUAL_SIMULATED, anneal_run, evaluate_run
    from flowvae.evaluation import Annealing
    from flowvae.runs.table import markdown, titles

    if estimator == "ais":
        number = USUAL_SIMULATED if simulated is None else simulated
        evaluation = anneal_run(run, Annealing(**chosen), images, number, split, data, seed, device)
    else:
        evaluation = evaluate_run(run, 500 if samples is None else samples, images, split, data, seed, device)
    print(markdown([{"name": titles([run])[0], **evaluation}], width=_width()), end="")


def score(
    run: Run,
    images: Images,
    samples: int = 500,
    split: Annotated[Literal["train", "valid", "test"] | None, _default("test, of a data set")] = None,
    label: Annotated[str | None, _default("all classes, -log p(x)")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, _default("print CSV")] = None,
) -> None:
    """Score single images: one row each, with -ELBO, -log p(x) and how far it can be trusted.

    Args:
        run: directory of the run
        images: image files, directories of them, or data sets
        samples: S, number of posterior samples per image for the importance-weighted -log p(x)
        split: split of a data set to score; with it, a directory is read as a data set
        label: class, by number or name, for -log p(x|y) of a conditional model
        seed: random seed for the samples and the binarization of image files
        device: device to compute on: auto, cpu or an accelerator such as cuda:1
        out: file to write, in the format of its suffix: .csv, .json, .md or .parquet
    """
    from flowvae.commands import score_images

    print(score_images(run, images, samples, split, seed, out, device, label), end="")


def classify(
    run: Run,
    images: Images,
    samples: int = 500,
    split: Annotated[Literal["train", "valid", "test"] | None, _default("test, of a data set")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, _default("print CSV")] = None,
) -> None:
    """Predict the class of each image: one row each, with probability and log q(y|x).

    Args:
        run: directory of the run
        images: image files, directories of them, or data sets
        samples: S, number of posterior samples per image, shared by the classes, of a conditional model
        split: split of a data set to classify; with it, a directory is read as a data set
        seed: random seed for the binarization of image files
        device: device to compute on: auto, cpu or an accelerator such as cuda:1
        out: file to write, in the format of its suffix: .csv, .json or .parquet
    """
    from flowvae.commands import classify_images

    print(classify_images(run, images, split, seed, out, device, samples), end="")


def encode(
    run: Run,
    images: Images,
    draws: Annotated[int | None, _default("the code without noise")] = None,
    split: Annotated[Literal["train", "valid", "test"] | None, _default("test, of a data set")] = None,
    label: Annotated[str | None, _default("the images' own")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, _default("RUN/codes.npz")] = None,
) -> None:
    """Encode images: one code each, without noise, or draws from the posterior.

    Args:
        run: directory of the run
        images: image files, directories of them, or data sets
        draws: S, number of draws from q(z|x) per image
        split: split of a data set to encode; with it, a directory is read as a data set
        label: class of all images, by number or name, for a conditional model
        seed: random seed for the draws and the binarization of image files
        device: device to compute on: auto, cpu or an accelerator such as cuda:1
        out: file to write: .npz with codes and names, or a table, .csv, .json or .parquet
    """
    from flowvae.commands import encode_images

    print(encode_images(run, images, draws, split, seed, out, device, label))


def impute(
    run: Run,
    images: Images,
    samples: int = 5,
    candidates: int = 1000,
    missing: Annotated[str | None, _default("as in the run's own data")] = None,
    hide: Annotated[float | str | None, _default("as in the run's own data")] = None,
    split: Annotated[Literal["train", "valid", "test"] | None, _default("test, of a data set")] = None,
    label: Annotated[str | None, _default("the images' own")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, _default("RUN/imputed")] = None,
) -> None:
    """Fill in the missing pixels of images: several completions of each, and their mean.

    Args:
        run: directory of the run
        images: image files, directories of them, or data sets
        samples: number of completions per image
        candidates: S, number of weighted candidates that completions are chosen from
        missing: what marks missing pixels: nan, alpha, or a value or colour such as 128 or 255,0,255
        hide: share of the pixels of a data set to hide, or HEIGHTxWIDTH of a rectangle to hide
        split: split of a data set; with it, a directory is read as a data set
        label: class of all images, by number or name, for a conditional model
        seed: random seed for the candidates and the binarization of image files
        device: device to compute on: auto, cpu or an accelerator such as cuda:1
        out: directory for completed images, one PNG each, and completions.npz; .npz file; or picture, .png
            or .pdf, with a row per image
    """
    from flowvae.imputing import impute_images

    print(impute_images(run, images, samples, candidates, out, missing, hide, split, label, seed, device))


def compress(
    run: Run,
    images: Images,
    split: Annotated[Literal["train", "valid", "test"] | None, _default("test, of a data set")] = None,
    seed: int = 0,
    samples: int = 1,
    out: Annotated[Path | None, _default("RUN/images.flowvae")] = None,
) -> None:
    """Compress images without loss: a file of as many bits as -ELBO says.

    They are compressed as the model sees them: binarized, if its pixels are binary. Finished blocks are kept,
    and the same command continues from them.

    Args:
        run: directory of the run
        images: image files, directories of them, or data sets
        split: split of a data set; with it, a directory is read as a data set
        seed: random seed for the binarization of image files
        samples: S, number of codes per image: with more, smaller files and S times the time
        out: file to write
    """
    from flowvae.compressing import compress_images

    print(compress_images(run, images, out, split, seed, samples))


def decompress(
    file: Annotated[Path, Positional, arg(metavar="FILE")],
    run: Annotated[Path | None, _default("where it was for compress")] = None,
    out: Annotated[Path | None, _default("FILE-restored")] = None,
) -> None:
    """Restore compressed images bit by bit, with the run that they were compressed with.

    Args:
        file: file that compress has written
        run: directory of the run
        out: directory for one PNG per image, or .npz file
    """
    from flowvae.compressing import decompress_images

    print(decompress_images(file, out, run))


def quality(
    run: Run,
    images: Annotated[int | None, _default("up to 10,000")] = None,
    data: Annotated[str | None, _default("the run's own")] = None,
    features: Annotated[str | None, _default("that of the images, or mnist")] = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Compare samples with test images by the features of a small classifier.

    Prints Frechet and kernel distance, density, coverage, and the distance to the nearest training image, and
    the same numbers of validation images in the place of samples.

    Args:
        run: directory of the run
        images: number of samples, and of test and validation images
        data: data set or path to compare with
        features: data set whose classifier computes the features: mnist or fashion-mnist
        seed: random seed for the samples and the choice of images
        device: device to draw on: auto, cpu or an accelerator such as cuda:1
    """
    from flowvae.quality import compare_samples, report_of

    print(report_of(run.resolve().name, compare_samples(run, images, seed, data, device, features)), end="")


def decode(
    run: Run,
    codes: Annotated[Path, Positional, arg(metavar="CODES")],
    label: Annotated[str | None, _default("that of the encoded image")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, _default("RUN/decoded")] = None,
) -> None:
    """Decode codes to images: one PNG each, or one .npz file.

    Args:
        run: directory of the run
        codes: .npz file with an array codes, [N, D] or [S, N, D], and optionally names and labels, as encode
            writes it
        label: class of all images, by number or name, for a conditional model
        seed: random seed for the noise of the pixels, if the model draws them
        device: device to compute on: auto, cpu or an accelerator such as cuda:1
        out: directory for the images, or .npz file to write
    """
    from flowvae.commands import decode_codes

    print(decode_codes(run, codes, seed, out, device, label))


def sample(
    run: Run,
    show: Literal["samples", "crossed", "nearest", "classes"] = "samples",
    images: int = 100,
    label: Annotated[str | None, _default("each class as often")] = None,
    data: Annotated[str | None, _default("the run's own")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("RUN/SHOW.png")] = None,
) -> None:
    """Draw samples from a run's model and say whether they are draws from p(x) or means of p(x|z).

    Args:
        run: directory of the run
        show: samples; crossed, where columns share a code and rows share the pixel noise; nearest, where each
            sample is above its nearest training image; or classes, where each row has a class
        images: number of samples
        label: class of all samples, by number or name, for a conditional model
        data: another data set or path to take the training images from
        seed: random seed for the samples
        out: grid to write, .png or .pdf; .npz file; or directory for one PNG per image
    """
    from flowvae.commands import picture_samples

    print(picture_samples(run, images, seed, out, show, data, label))


def reconstruct(
    run: Run,
    images: Annotated[int | None, _default("up to 50")] = None,
    data: Annotated[str | None, _default("the run's own")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("RUN/reconstructions.png")] = None,
) -> None:
    """Show random test images, each above its reconstruction.

    Args:
        run: directory of the run
        images: number of test images
        data: another data set or path to take the test images from
        seed: random seed for the choice of images
        out: grid to write, .png or .pdf; .npz file; or directory for one PNG per image
    """
    from flowvae.commands import picture_reconstructions

    print(picture_reconstructions(run, images, seed, out, data))


def interpolate(
    runs: Runs,
    pairs: Annotated[int | None, _default("up to 8")] = None,
    steps: int = 10,
    keep_label: bool = False,
    data: Annotated[str | None, _default("that of each run")] = None,
    seed: int = 0,
    out: Annotated[Path | None, _default("interpolations.png in the first run")] = None,
) -> None:
    """Interpolate between test images in the latent space of one or more runs, side by side.

    Args:
        runs: directories of the runs
        pairs: number of pairs of test images, the same for every run
        steps: number of images per interpolation, both ends included
        keep_label: pair test images of the same class; otherwise a conditional model changes from the class
            of one end to that of the other in the middle
        data: another data set or path to take the test images from
        seed: random seed for the choice of pairs
        out: grid to write, .png or .pdf; .npz file; or directory for one PNG per image
    """
    from flowvae.commands import picture_interpolations

    _at_least_one(runs)
    print(picture_interpolations(runs, pairs, steps, seed, out, data, keep_label))


def table(runs: Runs, out: Annotated[Path | None, _default("print Markdown")] = None) -> None:
    """Compare evaluated runs in a table, with paired differences from the first on the same images.

    A terminal shows the columns that fit; files and pipes get all of them.

    Args:
        runs: directories of the runs
        out: file to write, in the format of its suffix: .md, .csv, .json or .parquet
    """
    from flowvae.runs.table import compare, markdown, write_table

    _at_least_one(runs)
    rows, note = compare(list(runs))
    if note:
        print(f"flowvae: note: {note}", file=sys.stderr)
    if out is None:
        print(markdown(rows, width=_width()), end="")
    else:
        write_table(rows, out)
        print(out)


def export(
    run: Run,
    format: Literal["onnx", "hub"] = "onnx",
    out: Annotated[Path | None, _default("RUN/onnx or RUN/hub")] = None,
) -> None:
    """Export a run's model: as ONNX graphs, or as a directory for the Hugging Face hub.

    Args:
        run: directory of the run
        format: onnx writes encoder, decoder and sampler; hub writes configuration, weights and a model card
        out: directory to write to
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
    """Explore runs in the browser: training curves, latent space, posteriors, scores, samples.

    Args:
        runs: directories of the runs
        port: port of the page on 127.0.0.1; other machines cannot reach it
        data: another data set or path to take the images from
        host: additional host names under which a proxy or tunnel reaches the page
    """
    from flowvae.explorer.page import serve

    _at_least_one(runs)
    serve(runs, port, data, host)


# Minutes on one CPU core, of density on two; test results as in README.md.
CHOICES = (
    ("vae", "a baseline", 40, 642_116, "83.80 nats"),
    ("realnvp-5", "codes of binary images", 43, 1_251_896, "81.92 nats"),
    ("density-small", "a low likelihood in an hour", 60, 1_213_984, "78.73 nats"),
    ("density", "the lowest likelihood", 160, 2_619_008, "78.40 nats"),
    ("cifar10-realnvp", "8-bit grey or colour images", 36, 1_832_760, "4.40 bits/dim"),
)


def presets() -> None:
    """List the presets: named models with their data."""
    from flowvae.models.registry import PRESETS

    print(f"{'which to take':16} {'for':28} minutes  parameters  -log p(x)")
    for name, purpose, minutes, parameters, result in CHOICES:
        print(f"{name:16} {purpose:28} {minutes:7}  {parameters:10,}  {result}")
    print()
    for name, config in PRESETS.items():
        what = "" if config.model is None else config.model.describe()
        print(f"{name:24} {what}; {config.data.data}")


def demo(minutes: float = 2.0, out: Path = Path("runs/demo")) -> None:
    """Train vae and realnvp-2 for a few minutes each, score them, and draw samples.

    Args:
        minutes: training time of each of the two runs, in minutes
        out: directory to write to
    """
    from flowvae.commands import run_demo

    run_demo(minutes, out)


def reproduce(
    what: Annotated[str, Positional, arg(metavar="TABLE|FILE", help_behavior_hint="(required)")],
    out: Annotated[Path | None, _default("runs/ and the name of the table or file")] = None,
    minutes: Annotated[
        float | None, _default("10 without --epochs; of systems, 60; of wu-table1, that of the presets")
    ] = None,
    epochs: int | None = None,
    rows: Annotated[tuple[str, ...], _default("all rows of the table")] = (),
    seeds: int = 1,
    workers: int = 1,
    data: Annotated[str | None, _default("that of the presets")] = None,
    samples: Annotated[int | None, _default("1000; of systems, 500; of bits-back, 1")] = None,
    images: Annotated[
        int | None, _default("2000; of systems, 500; of bits-back, 10000; of wu-table1, 100")
    ] = None,
    annealed: Annotated[int | None, _default("50")] = None,
    drawn: Annotated[int | None, _default("10000")] = None,
    compared: tuple[str, str] = ("vae-seed0", "realnvp-5-seed0"),
    labels: Annotated[tuple[int, ...], _default("100")] = (),
    draws: Annotated[int | None, _default("5")] = None,
    first: Annotated[Path | None, _default("trained as runs/vae")] = None,
    distributions: Annotated[int | None, _default("1000; of systems, 100")] = None,
) -> None:
    """Train, score and report the rows of a table, or draw figure1 from its runs.

    Can be interrupted and resumed: run the same command again. Finished rows are kept, others are resumed,
    and a larger budget resumes all of them.

    Args:
        what: table1, ablations, depth, density or cifar10; a YAML file with a name, a preset and options for
            each row; figure1: interpolations of two rows of table1 side by side; few-labels: errors of
            classifiers from few labels; missing: models that fill in missing pixels; systems: every kind of
            model; wu-table1: log-likelihoods of autoencoders and adversarial networks by annealing; or
            bits-back: sizes of compressed images
        out: directory for the results, one JSON file per row, the table, the pictures and the runs
        minutes: training budget per row in minutes
        epochs: training budget per row in epochs
        rows: names of the rows to train; of bits-back, directories of trained runs
        seeds: number of random seeds, 0 and up, to train each row with
        workers: number of rows to train in parallel
        data: another data set or path to train and score on
        samples: S, number of posterior samples per image for -log p(x); of bits-back, of codes per image
        images: number of random test images to score
        annealed: of systems, how many of these to score by annealed importance sampling; 0 for none
        drawn: of systems, number of samples to compare with test images
        compared: names of the two rows in the figure
        labels: of few-labels, numbers of labelled images
        draws: of few-labels, number of draws of the labelled images
        first: of few-labels, run of vae whose codes semi-supervised-stacked classifies
        distributions: of wu-table1 and systems, T, number of distributions of annealed importance sampling
    """
    own = {"--labels": labels, "--draws": draws, "--first": first}
    usual = {
        "--seeds": (seeds, 1),
        "--workers": (workers, 1),
        "--samples": (samples, None),
        "--images": (images, None),
    }
    if what not in ("systems", "wu-table1") and distributions is not None:
        raise UserError("only systems and wu-table1 are measured by annealing; remove --distributions")
    of_systems = {"annealed": annealed, "drawn": drawn}
    if what != "systems" and (unused := [name for name, value in of_systems.items() if value is not None]):
        raise UserError(f"only systems are measured in these ways; remove --{', --'.join(unused)}")
    if what == "bits-back":
        from flowvae.bits_back import reproduce_bits_back

        of_training = {"--minutes": (minutes, None), "--epochs": (epochs, None), **usual}
        del of_training["--images"], of_training["--samples"]
        if unused := [name for name, (value, default) in of_training.items() if value != default]:
            raise UserError(f"bits-back compresses with trained runs; remove {', '.join(unused)}")
        images, samples = 10_000 if images is None else images, 1 if samples is None else samples
        reproduce_bits_back(out or Path("runs") / what, rows, data, images, samples)
        return
    if what == "few-labels":
        if unused := [name for name, (value, default) in usual.items() if value != default]:
            raise UserError(
                "few-labels trains one draw after the other and scores all test images; remove "
                + ", ".join(unused)
            )
        _reproduce_few_labels(out, labels, draws, rows, data, first, epochs, minutes)
        return
    if unused := [name for name, value in own.items() if value not in (None, ())]:
        raise UserError(f"only few-labels has draws of labelled images; remove {', '.join(unused)}")
    if what == "wu-table1":
        del usual["--images"]
        if unused := [name for name, (value, default) in usual.items() if value != default]:
            raise UserError(
                f"wu-table1 is trained with one seed and measured by annealing; remove {', '.join(unused)}"
            )
        _reproduce_wu_table1(out, rows, data, epochs, minutes, distributions, images)
        return
    from flowvae.reproduce import TABLES, Budget, read_variants, reproduce_figure, reproduce_table

    table = "table1" if what == "figure1" else Path(what).stem
    out = out or Path("runs") / table
    if what == "figure1":
        of_tables = {"--minutes": minutes, "--epochs": epochs, "--rows": rows, "--data": data}
        if unused := [name for name, value in of_tables.items() if value]:
            raise UserError(f"figure1 draws two rows that are already trained; remove {', '.join(unused)}")
        for path in reproduce_figure([out / "runs" / name for name in compared], out / "figure1.png"):
            print(path)
        return
    scored = {
        "num_samples": 1000 if samples is None else samples,
        "num_images": 2000 if images is None else images,
    }
    if what == "missing":
        from flowvae.missing import BASELINES, VARIANTS, reproduce_missing

        for name in rows:
            if name not in (known := (*VARIANTS, *BASELINES)):
                raise UserError(f"missing has no row {quoted(name)}; {did_you_mean(name, known)}")
        if seeds != 1:
            raise UserError("missing is trained with one seed; remove --seeds")
        budget = Budget(minutes=10.0 if minutes is None and epochs is None else minutes, epochs=epochs)
        reproduce_missing(out, budget, rows, data, workers, **scored)
        return
    if what == "systems":
        from flowvae.systems import ROWS, reproduce_systems

        for name in rows:
            if name not in ROWS:
                raise UserError(f"systems has no row {quoted(name)}; {did_you_mean(name, ROWS)}")
        if seeds != 1:
            raise UserError("systems are trained with one seed; remove --seeds")
        budget = Budget(minutes=60.0 if minutes is None and epochs is None else minutes, epochs=epochs)
        measuring = {"num_samples": samples, "num_images": images, "distributions": distributions}
        chosen = {name: value for name, value in (measuring | of_systems).items() if value is not None}
        reproduce_systems(out, budget, rows, data, workers, **chosen)
        return
    variants = TABLES[what] if what in TABLES else read_variants(Path(what))
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
        **scored,
    )
    print((out / "table.md").read_text(encoding="utf-8"), end="")


def _reproduce_few_labels(
    out: Path | None,
    labels: tuple[int, ...],
    draws: int | None,
    rows: tuple[str, ...],
    data: str | None,
    first: Path | None,
    epochs: int | None,
    minutes: float | None,
) -> None:
    from flowvae.few_labels import ROWS, reproduce_few_labels

    for name in rows:
        if name not in ROWS:
            raise UserError(f"few-labels has no row {quoted(name)}; {did_you_mean(name, ROWS)}")
    out = out or Path("runs") / "few-labels"
    reproduce_few_labels(
        out,
        labels=labels or (100,),
        draws=5 if draws is None else draws,
        rows=rows or ROWS,
        data=data,
        first=first,
        epochs=epochs,
        minutes=minutes,
    )
    print((out / "table.md").read_text(encoding="utf-8"), end="")


def _reproduce_wu_table1(
    out: Path | None,
    rows: tuple[str, ...],
    data: str | None,
    epochs: int | None,
    minutes: float | None,
    distributions: int | None,
    images: int | None,
) -> None:
    from flowvae.wu_table1 import ROWS, USUAL_IMAGES, reproduce_wu_table1

    for name in rows:
        if name not in ROWS:
            raise UserError(f"wu-table1 has no row {quoted(name)}; {did_you_mean(name, ROWS)}")
    out = out or Path("runs") / "wu-table1"
    reproduce_wu_table1(
        out,
        rows=rows or tuple(ROWS),
        data=data,
        epochs=epochs,
        minutes=minutes,
        distributions=1000 if distributions is None else distributions,
        num_images=USUAL_IMAGES if images is None else images,
    )
    print((out / "table.md").read_text(encoding="utf-8"), end="")


def completion() -> None:
    """Print a script for bash and zsh that completes commands: eval "$(flowvae completion)"."""
    from flowvae.shell_completion import script

    print(script(COMMANDS), end="")


_ALL = (
    train,
    evaluate,
    score,
    classify,
    encode,
    decode,
    impute,
    compress,
    decompress,
    sample,
    quality,
    reconstruct,
    interpolate,
    explore,
    table,
    export,
    presets,
    demo,
    reproduce,
    completion,
)
COMMANDS: dict[str, Callable[..., None]] = {command.__name__: command for command in _ALL}


def main() -> None:
    """Entry point: a mistake of the user is one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # File names need not be valid text, and the encoding may lack their characters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error), alike=True)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(_file_trouble(error))
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        _fail("out of memory; choose a smaller model, or fewer images or samples at a time")
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED, alike=True)


def _run(words: list[str]) -> None:
    if any("\0" in word for word in words):
        raise UserError("an argument contains a null character; remove it")
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(flowvae.__version__)
        return
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UserError(f"no command {quoted(name)}; {did_you_mean(name, COMMANDS)}")
    # Here and not in the package's functions, which leave the caller's process unchanged.
    keep_freed_memory()
    if name == "train":
        train(rest)
    else:
        command = COMMANDS[name]

        @functools.wraps(command)
        def bind(*arguments: Any, **options: Any) -> Callable[[], None]:
            return functools.partial(command, *arguments, **options)

        bound = parse(bind, rest, f"flowvae {name}")
        if "RANK" in os.environ and not _shares_images(name, rest):
            from flowvae.processes import work_alone

            work_alone()
        bound()


def _shares_images(name: str, words: list[str]) -> bool:
    """Return whether several processes share the images of the command; the first one runs all others."""
    return name in ("score", "classify", "encode", "impute") or (
        name == "evaluate" and given("--estimator", words) != "ais"
    )


def _help() -> str:
    lines = [
        "usage: flowvae COMMAND [options]",
        "",
        "Train, evaluate and explore deep generative models of images.",
        "",
        *(f"  {name:12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()),
        "",
        "flowvae COMMAND --help lists the options of a command; flowvae --version prints the version.",
    ]
    return "\n".join(lines)


def _at_least_one(runs: tuple[Path, ...]) -> None:
    if not runs:
        raise UserError("no run is given; name the directory of at least one")


def _file_trouble(error: OSError) -> str:
    """Say what went wrong with a file, and what to do."""
    remedies = {
        errno.ENOSPC: "free some disk space and run the command again",
        errno.ENOENT: "create the directory first, or choose another path",
    }
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; {remedies.get(error.errno or 0, 'choose another path')}"


def _fail(message: str, code: int = 2, alike: bool = False) -> NoReturn:
    """End with a message; if it is ``alike`` in all processes of a machine, the first one prints it."""
    if alike and os.environ.get("LOCAL_RANK", "0") != "0":
        sys.exit(code)
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:  # it quotes a long argument; the remedy is at the end
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"flowvae: {line}", file=sys.stderr)
    sys.exit(code)
