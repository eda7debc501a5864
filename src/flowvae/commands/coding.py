"""`flowvae encode` and `flowvae decode`: images to codes, and codes to images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.batch import Batch, labelled
from flowvae.commands.limits import IMAGES_AT_ONCE, MOST_IMAGES, TABLES
from flowvae.commands.picturing import finite, numbers
from flowvae.commands.progress import reporting
from flowvae.data.named import named_images, number_of
from flowvae.data.npz import NUMBERS, read_arrays
from flowvae.devices import device
from flowvae.errors import UserError, check_range
from flowvae.image_files import is_grid, save_arrays, save_images
from flowvae.models import Coded, Inferring
from flowvae.parts import LARGEST_SEED
from flowvae.processes import joined, leave_to_first, spread
from flowvae.runs import Run
from flowvae.runs.capability import labels_of, needs
from flowvae.runs.files import check_not_read
from flowvae.runs.table import check_format, write_table


def encode_images(
    path: Path,
    sources: Sequence[str],
    draws: int | None,
    split: str | None,
    seed: int,
    out: Path | None = None,
    on: str = "auto",
    label: str | None = None,
) -> Path:
    """Write the code of each image, or draws of it, to ``out``, by default codes.npz in the run.

    A conditional model encodes an image with the class ``label``, by default with its own label, and the file
    also has ``labels`` [N].

    An .npz file has ``names`` [N] and ``codes``: [N, D], the codes without noise (`Coded.center`), or
    [S, N, D], S draws from q(z|x). The draws of an image depend on its pixels and ``seed`` only. A table
    has a row for each code, with the columns ``name``, ``draw`` (of several) and ``z0``, ``z1``, ...
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    run = Run(path)
    out = out or run.place_for("codes.npz")
    check_format(out, (".npz", *TABLES))
    check_not_read(out, sources)
    if draws is not None:
        check_range("draws", draws, 1, MOST_IMAGES)
        needs(Inferring, run)
    model, on_device = needs(Coded, run), joined(on)
    run.model.to(on_device)
    names, batch = named_images(sources, run.spec, run.config.data, split, seed)
    labels = labels_of(run, label, batch.labels, len(names))

    def codes_of(few: Batch) -> Tensor:
        few = few.to(on_device)
        given = run.model.given(few)
        if not draws:
            return model.center(few.images, **given).cpu()
        noise = torch.Generator().manual_seed(number_of(few.images[0], seed))
        return needs(Inferring, run).encode(few.images, draws, noise, **given).cpu()

    with reporting(f"encoding with {run.name}") as report, torch.no_grad():
        parts: list[Tensor] = []
        pieces = list(batch._replace(labels=labels).split(1 if draws else IMAGES_AT_ONCE))
        for part in spread(pieces, codes_of):
            parts.append(part)
            report(len(parts) / len(pieces))
    leave_to_first()
    codes = torch.cat(parts, dim=1 if draws else 0)
    if not codes.isfinite().all():
        raise UserError("a code is not finite; train again with a lower --learning-rate")
    if out.suffix == ".npz":
        also = {} if labels is None else {"labels": labels.numpy()}
        save_arrays(out, codes=codes.numpy(), names=np.array(names), **also)
        return out
    write_table(
        [
            {
                "name": name,
                **({} if labels is None else {"label": int(labels[place])}),
                **({"draw": draw} if draws else {}),
                **{f"z{dimension}": value for dimension, value in enumerate(code)},
            }
            for draw, of_draw in enumerate((codes if draws else codes[None]).tolist())
            for place, (name, code) in enumerate(zip(names, of_draw, strict=True))
        ],
        out,
    )
    return out


def decode_codes(
    path: Path,
    codes: Path,
    seed: int,
    out: Path | None = None,
    on: str = "auto",
    label: str | None = None,
) -> Path:
    """Decode the codes that `encode_images` wrote, and save the images one by one, or in an .npz file.

    By default, they go into the directory ``decoded`` of the run. ``seed`` is that of the noise of pixels, if
    the model draws them. A conditional model decodes a code as an image of the class ``label``, by default of
    the label that it was encoded with.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    run = Run(path)
    out = out or run.place_for("decoded")
    if is_grid(out):
        raise UserError(
            f"{out} is a picture, and decoded images are saved one by one; choose a directory or .npz"
        )
    check_not_read(out, [codes])
    model, on_device = needs(Coded, run), device(on)
    names, z, own = _read_codes(codes, run, label)
    labels = labels_of(run, label, own, len(z))
    run.model.to(on_device)
    noise = torch.Generator().manual_seed(seed)
    with reporting(f"decoding with {run.name}") as report, torch.no_grad():
        parts: list[Tensor] = []
        done = 0
        for few in z.split(IMAGES_AT_ONCE):
            given = labelled(None if labels is None else labels[done : done + len(few)].to(on_device))
            parts.append(model.decode(few.to(on_device), noise, **given).cpu())
            done += len(few)
            report(done / len(z))
    save_images({"images": finite(run, torch.cat(parts))}, names, out)
    return out


def _read_codes(path: Path, run: Run, label: str | None) -> tuple[list[str], Tensor, Tensor | None]:
    """Read names, codes [N, D] and labels, if any, of an .npz file; of several draws, names are DRAW/NAME."""
    if path.suffix.lower() in (".csv", ".json", ".parquet"):
        raise UserError(
            f"{path} is a table, and decode reads .npz; write the codes with: flowvae encode {run.path} "
            "IMAGES --out codes.npz"
        )
    try:
        arrays = read_arrays(path, {"codes": NUMBERS, "names": "U", "labels": "iu"})
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; write it with: flowvae encode {run.path} IMAGES --out {path}"
        ) from None
    if "codes" not in arrays:
        raise UserError(
            f"{path} has no array codes; write it with: flowvae encode {run.path} IMAGES --out {path}"
        )
    with np.errstate(over="ignore"):  # infinite codes are refused below
        codes = torch.from_numpy(arrays["codes"].astype(np.float32))
    blank = labelled(torch.zeros(1, dtype=torch.int64) if run.model.conditional else None)
    dimension = needs(Coded, run).center(torch.zeros(1, *run.spec.shape), **blank).shape[1]
    if codes.ndim not in (2, 3) or codes.shape[-1] != dimension or not codes.numel():
        raise UserError(
            f"{path} has codes of shape {tuple(codes.shape)}; {run.path} decodes [N, {dimension}] or "
            f"[S, N, {dimension}]"
        )
    names = arrays["names"].tolist() if "names" in arrays else numbers(codes.shape[-2])
    if not isinstance(names, list) or len(names) != codes.shape[-2] or not codes.isfinite().all():
        raise UserError(f"{path} needs one name per code and codes that are finite; encode the images again")
    labels = torch.from_numpy(arrays["labels"].astype(np.int64)) if "labels" in arrays else None
    if labels is not None and tuple(labels.shape) != (len(names),):
        raise UserError(f"{path} needs one label per code; encode the images again")
    if codes.ndim == 3:
        names = [f"{draw}/{name}" for draw in numbers(len(codes)) for name in names]
        labels = None if labels is None else labels.repeat(len(codes))
    return [str(name) for name in names], codes.flatten(0, -2), labels
