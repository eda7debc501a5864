"""Commands on images and codes."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from flowvae.cli.arguments import Images, Run, Split, shown_default


def score(
    run: Run,
    images: Images,
    samples: int = 500,
    split: Split = None,
    label: Annotated[str | None, shown_default("all classes, -log p(x)")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, shown_default("print CSV")] = None,
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
    from flowvae.commands.scoring import score_images

    print(score_images(run, images, samples, split, seed, out, device, label), end="")


def classify(
    run: Run,
    images: Images,
    samples: int = 500,
    split: Split = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, shown_default("print CSV")] = None,
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
    from flowvae.commands.classifying import classify_images

    print(classify_images(run, images, split, seed, out, device, samples), end="")


def encode(
    run: Run,
    images: Images,
    draws: Annotated[int | None, shown_default("the code without noise")] = None,
    split: Split = None,
    label: Annotated[str | None, shown_default("the images' own")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, shown_default("RUN/codes.npz")] = None,
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
    from flowvae.commands.coding import encode_images

    print(encode_images(run, images, draws, split, seed, out, device, label))


def impute(
    run: Run,
    images: Images,
    samples: int = 5,
    candidates: int = 1000,
    missing: Annotated[str | None, shown_default("as in the run's own data")] = None,
    hide: Annotated[float | str | None, shown_default("as in the run's own data")] = None,
    split: Split = None,
    label: Annotated[str | None, shown_default("the images' own")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, shown_default("RUN/imputed")] = None,
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
    from flowvae.commands.imputing import impute_images

    print(impute_images(run, images, samples, candidates, out, missing, hide, split, label, seed, device))


def compress(
    run: Run,
    images: Images,
    split: Split = None,
    seed: int = 0,
    samples: int = 1,
    out: Annotated[Path | None, shown_default("RUN/images.flowvae")] = None,
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
    from flowvae.commands.compressing import compress_images

    print(compress_images(run, images, out, split, seed, samples))


def decompress(
    file: Annotated[Path, Positional, arg(metavar="FILE")],
    run: Annotated[Path | None, shown_default("where it was for compress")] = None,
    out: Annotated[Path | None, shown_default("FILE-restored")] = None,
) -> None:
    """Restore compressed images bit by bit, with the run that they were compressed with.

    Args:
        file: file that compress has written
        run: directory of the run
        out: directory for one PNG per image, or .npz file
    """
    from flowvae.commands.compressing import decompress_images

    print(decompress_images(file, out, run))


def decode(
    run: Run,
    codes: Annotated[Path, Positional, arg(metavar="CODES")],
    label: Annotated[str | None, shown_default("that of the encoded image")] = None,
    seed: int = 0,
    device: str = "auto",
    out: Annotated[Path | None, shown_default("RUN/decoded")] = None,
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
    from flowvae.commands.coding import decode_codes

    print(decode_codes(run, codes, seed, out, device, label))
