"""Commands that draw pictures of runs."""

from pathlib import Path
from typing import Annotated, Literal

from flowvae.cli.arguments import Run, Runs, check_runs, shown_default


def sample(
    run: Run,
    show: Literal["samples", "crossed", "nearest", "classes"] = "samples",
    images: int = 100,
    label: Annotated[str | None, shown_default("each class as often")] = None,
    data: Annotated[str | None, shown_default("the run's own")] = None,
    seed: int = 0,
    out: Annotated[Path | None, shown_default("RUN/SHOW.png")] = None,
) -> None:
    """Draw samples from a run's model and say whether they are draws from p(x) or means of p(x|z).

    Args:
        run: directory of the run
        show: samples; crossed, where columns share a code and rows share the pixel noise; nearest, where each
            sample is above its nearest training image; or classes, where each row has a class
        images: number of samples
        label: class of all samples, by number or name, for a conditional model
        data: of nearest, another data set or path to take the training images from
        seed: random seed for the samples
        out: grid to write, .png or .pdf; .npz file; or directory for one PNG per image
    """
    from flowvae.commands.picturing import picture_samples

    print(picture_samples(run, images, seed, out, show, data, label))


def reconstruct(
    run: Run,
    images: Annotated[int | None, shown_default("up to 50")] = None,
    data: Annotated[str | None, shown_default("the run's own")] = None,
    seed: int = 0,
    out: Annotated[Path | None, shown_default("RUN/reconstructions.png")] = None,
) -> None:
    """Show random test images, each above its reconstruction.

    Args:
        run: directory of the run
        images: number of test images
        data: another data set or path to take the test images from
        seed: random seed for the choice of images
        out: grid to write, .png or .pdf; .npz file; or directory for one PNG per image
    """
    from flowvae.commands.picturing import picture_reconstructions

    print(picture_reconstructions(run, images, seed, out, data))


def interpolate(
    runs: Runs,
    pairs: Annotated[int | None, shown_default("up to 8")] = None,
    steps: int = 10,
    keep_label: bool = False,
    data: Annotated[str | None, shown_default("that of each run")] = None,
    seed: int = 0,
    out: Annotated[Path | None, shown_default("interpolations.png in the first run")] = None,
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
    from flowvae.commands.picturing import picture_interpolations

    check_runs(runs)
    print(picture_interpolations(runs, pairs, steps, seed, out, data, keep_label))
