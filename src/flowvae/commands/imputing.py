"""The command that fills in missing pixels: images in, completed images out."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from flowvae.batch import Batch
from flowvae.commands.progress import reporting
from flowvae.data.named import named_images, number_of, reads_files
from flowvae.errors import UserError, check_range
from flowvae.figures import save_panels
from flowvae.image_files import files_of, is_grid, save_arrays, save_images
from flowvae.models import Completing, Imputation
from flowvae.parts import LARGEST_SEED, MOST
from flowvae.processes import joined, leave_to_first, spread
from flowvae.runs import Run
from flowvae.runs.capability import labels_of, needs
from flowvae.runs.files import check_not_read

MOST_COMPLETIONS = 1000
FEW = 5.0
"""effective sample size below which a warning is printed"""
MOST_ROWS, MOST_COLUMNS = 100, 20  # of a picture
ARRAYS = "completions.npz"


def impute_images(
    path: Path,
    sources: Sequence[str],
    num_completions: int,
    num_samples: int,
    out: Path | None = None,
    missing: str | None = None,
    hide: float | str | None = None,
    split: str | None = None,
    label: str | None = None,
    seed: int = 0,
    on: str = "auto",
) -> Path:
    """Fill in the missing pixels of images (see `Completing.impute`), and save completions and their mean.

    A directory gets the completions as ``1/NAME.png``, ``2/NAME.png``, ..., the means as ``mean/NAME.png``,
    and ``completions.npz``; if ``out`` ends in .npz, that file only is written. A picture, .png or .pdf, has
    a row per image: what is known, the completions, and the mean. The completions of an image
    depend on its known pixels, its mask and ``seed`` only.

    Args:
        path: directory of the run.
        sources: image files, directories of them, and data sets (see `named_images`).
        num_completions: N, completions per image.
        num_samples: S, candidates per image.
        out: by default, the directory ``imputed`` of the run.
        missing: what marks missing pixels, by default as in the run's own data.
        hide: pixels of data sets to hide, by default as in the run's own data.
        split: as for `named_images`.
        label: class of all images, for a model of p(x|y); by default, those of a data set's labels.
        seed: random seed.
        on: device.

    Returns:
        ``out``.

    Raises:
        UserError: if no pixel is missing, ``hide`` is given for image files, the model cannot fill in these
            pixels, or there are too many images for a picture.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("samples", num_completions, 1, MOST_COMPLETIONS)
    check_range("candidates", num_samples, 1, MOST)
    if hide is not None and (files := [source for source in sources if reads_files(source, split)]):
        raise UserError(
            f"{files[0]} is read as image files, and --hide is for data sets; say what marks missing pixels "
            "with --missing"
        )
    run = Run(path)
    model, on_device = needs(Completing, run), joined(on)
    out = out or run.place_for("imputed")
    picture = is_grid(out)
    check_not_read(out, sources)
    config = run.config.data
    given = {"missing": missing, "hide": hide}
    changed = {name: value for name, value in given.items() if value is not None}
    found = named_images(sources, run.spec, dataclasses.replace(config, **changed), split, seed)
    batch = found.batch
    if batch.observed is None:
        raise UserError(
            "no pixel of these images is missing; say what marks missing pixels, such as --missing alpha, or "
            "hide some of a data set, such as --hide 0.5"
        )
    if picture and (len(batch.images) > MOST_ROWS or num_completions > MOST_COLUMNS):
        raise UserError(
            f"{out} would be a picture of {len(batch.images)} images, {num_completions} completions each, "
            f"and {MOST_ROWS} with {MOST_COLUMNS} is the most; choose a directory or .npz file"
        )
    if not picture and (out.is_dir() or out.suffix != ".npz"):
        files_of(_groups(num_completions), found.names, out)  # if it raises, before the work
    labels = labels_of(run, label, batch.labels, len(batch.images))
    run.model.to(on_device).eval()

    def completed(one: Batch) -> Imputation:
        assert one.observed is not None
        seen = torch.cat([one.images, one.observed.to(one.images.dtype)])
        noise = torch.Generator().manual_seed(number_of(seen, seed))
        here = one.to(on_device)
        assert here.observed is not None
        found = model.impute(here.images, here.observed, num_completions, num_samples, noise, here.labels)
        return Imputation(*(each.cpu() for each in found))

    parts: list[Imputation] = []
    with reporting(f"imputing with {run.name}") as report:
        for part in spread(list(batch._replace(labels=labels).split(1)), completed):
            parts.append(part)
            report(len(parts) / len(batch.images))
    leave_to_first()
    imputed = Imputation(
        torch.cat([part.images for part in parts], 1),
        *(torch.cat(each) for each in list(zip(*parts, strict=True))[1:]),
    )
    if not imputed.log_prob.isfinite().all():
        raise UserError("log p of an image's known pixels is not finite; train with a lower --learning-rate")
    if picture:
        known = torch.where(batch.observed, batch.images, torch.nan)
        panels = {"known": known, **_pictures(imputed)}
        save_panels(panels, out, columns=1)
    else:
        _save(imputed, found.names, out)
    _warn(run.name, imputed, num_samples)
    return out


def _save(imputed: Imputation, names: Sequence[str], out: Path) -> None:
    arrays = {name: values.numpy() for name, values in imputed._asdict().items()}
    if out.suffix == ".npz" and not out.is_dir():
        save_arrays(out, names=np.array(names), **arrays)
        return
    save_images(_pictures(imputed), names, out)
    save_arrays(out / ARRAYS, names=np.array(names), **arrays)


def _groups(num_completions: int) -> list[str]:
    return [*(str(number) for number in range(1, num_completions + 1)), "mean"]


def _pictures(imputed: Imputation) -> dict[str, torch.Tensor]:
    return dict(zip(_groups(len(imputed.images)), [*imputed.images, imputed.mean], strict=True))


def _warn(name: str, imputed: Imputation, num_samples: int) -> None:
    few = int((imputed.effective_sample_size < min(FEW, num_samples)).sum())
    if few:
        print(
            f"flowvae: warning: {name}: {few} of {len(imputed.mean)} images have an effective sample size "
            f"below {FEW:g} of {num_samples} candidates, so their completions hardly differ; give more "
            "--candidates, or train on images with missing pixels (--hide)",
            file=sys.stderr,
        )
