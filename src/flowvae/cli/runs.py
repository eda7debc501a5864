"""Commands on runs: their numbers, tables, exports and explorer."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from flowvae.cli.arguments import Run, Runs, check_runs, shown_default, width
from flowvae.errors import UserError


def evaluate(
    run: Run,
    estimator: Literal["importance", "ais"] = "importance",
    samples: Annotated[int | None, shown_default("500")] = None,
    images: Annotated[
        int | None, shown_default("up to 1000, or all of other data; of ais, up to 100")
    ] = None,
    split: Literal["train", "valid", "test"] = "test",
    data: Annotated[str | None, shown_default("the run's own")] = None,
    chains: Annotated[int | None, shown_default("16")] = None,
    distributions: Annotated[int | None, shown_default("1000; of systems, 100")] = None,
    leapfrog_steps: Annotated[int | None, shown_default("10")] = None,
    start: Annotated[Literal["prior", "posterior"] | None, shown_default("posterior, if possible")] = None,
    variance: Annotated[float | None, shown_default("none")] = None,
    dequantize: bool = False,
    simulated: Annotated[int | None, shown_default("16")] = None,
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

    from flowvae.commands.evaluating import USUAL_SIMULATED, anneal_run, evaluate_run
    from flowvae.evaluation import Annealing
    from flowvae.runs.table import markdown, titles

    if estimator == "ais":
        number = USUAL_SIMULATED if simulated is None else simulated
        evaluation = anneal_run(run, Annealing(**chosen), images, number, split, data, seed, device)
    else:
        evaluation = evaluate_run(run, 500 if samples is None else samples, images, split, data, seed, device)
    print(markdown([{"name": titles([run])[0], **evaluation}], width=width()), end="")


def quality(
    run: Run,
    images: Annotated[int | None, shown_default("up to 10,000")] = None,
    data: Annotated[str | None, shown_default("the run's own")] = None,
    features: Annotated[str | None, shown_default("that of the images, or mnist")] = None,
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
    from flowvae.commands.quality import compare_samples, report_of

    print(report_of(run.resolve().name, compare_samples(run, images, seed, data, device, features)), end="")


def table(runs: Runs, out: Annotated[Path | None, shown_default("print Markdown")] = None) -> None:
    """Compare evaluated runs in a table, with paired differences from the first on the same images.

    A terminal shows the columns that fit; files and pipes get all of them.

    Args:
        runs: directories of the runs
        out: file to write, in the format of its suffix: .md, .csv, .json or .parquet
    """
    from flowvae.runs.table import check_format, compare, markdown, write_table

    if out is not None:
        check_format(out)
    check_runs(runs)
    rows, note = compare(list(runs))
    if note:
        print(f"flowvae: note: {note}", file=sys.stderr)
    if out is None:
        print(markdown(rows, width=width()), end="")
    else:
        write_table(rows, out)
        print(out)


def export(
    run: Run,
    format: Literal["onnx", "hub"] = "onnx",
    out: Annotated[Path | None, shown_default("RUN/onnx or RUN/hub")] = None,
) -> None:
    """Export a run's model: as ONNX graphs, or as a directory for the Hugging Face hub.

    Args:
        run: directory of the run
        format: onnx writes encoder, decoder and sampler; hub writes configuration, weights and a model card
        out: directory to write to
    """
    from flowvae.commands.exporting import export_run

    for path in export_run(run, format, out):
        print(path)


def explore(
    runs: Runs,
    port: int = 7860,
    data: Annotated[str | None, shown_default("that of each run")] = None,
    host: Annotated[tuple[str, ...], shown_default("127.0.0.1 and localhost")] = (),
) -> None:
    """Explore runs in the browser: training curves, latent space, posteriors, scores, samples.

    Args:
        runs: directories of the runs
        port: port of the page on 127.0.0.1; other machines cannot reach it
        data: another data set or path to take the images from
        host: additional host names under which a proxy or tunnel reaches the page
    """
    from flowvae.explorer.page import serve

    check_runs(runs)
    serve(runs, port, data, host)
