"""The table of compressed test images: bits of models, beside their bounds, and of general compressors."""

import bz2
import io
import lzma
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowvae import runs
from flowvae.commands.progress import reporting
from flowvae.compressing import MOST_SAMPLES, coding_of
from flowvae.compression import Coding
from flowvae.compression.container import LARGEST_BLOCK
from flowvae.errors import check_range
from flowvae.evaluation.likelihood import bounds
from flowvae.models import Bounded, Compressible, Scored
from flowvae.parts import MOST
from flowvae.runs import Run
from flowvae.runs.folder import WEIGHTS
from flowvae.runs.table import markdown, titles

RUNS = ("runs/table1/runs/vae-seed0", "runs/table1/runs/realnvp-20-seed0", "density-mnist")
COLUMNS = {
    "dataset": "",
    "images": ",d",
    "samples": "d",
    "bits_per_dim": ".4f",
    "bits_per_dim_gross": ".4f",
    "bound_bits_per_dim": ".4f",
    "bits_per_dim_with_weights": ".4f",
    "images_until_weights_pay": ",d",
    "images_per_second": ".1f",
    "images_per_second_back": ".1f",
}
WORD_BITS = 32
AT_ONCE = 100


def reproduce_bits_back(
    folder: Path,
    rows: Sequence[str] = (),
    data: str | None = None,
    num_images: int = 10_000,
    num_samples: int = 1,
) -> None:
    """Compress test images with runs and with general compressors, restore them, and write the table.

    Finished rows are kept. Seconds are those of one processor.

    Args:
        folder: directory for ``table.json``, ``table.md`` and a file per row.
        rows: directories of runs, and names of bundled models; by default, `RUNS`.
        data: data set in place of those of the runs.
        num_images: number of random test images, the same for all rows on a data set.
        num_samples: S; with more than 1, models that have codes are measured with S samples as well.

    Raises:
        UserError: if a run is missing, or cannot compress.
    """
    check_range("images", num_images, 1, MOST)
    check_range("samples", num_samples, 1, MOST_SAMPLES)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [Path(row) for row in rows or RUNS]
    found: list[dict[str, Any]] = []
    of_data: dict[str, Chosen] = {}
    for name, path in zip(titles(paths), paths, strict=True):
        run = Run(path)
        chosen = _chosen(run, data, num_images)
        of_data.setdefault(chosen.asked["dataset"], chosen)
        several = num_samples > 1 and isinstance(run.model, Compressible) and run.model.code_size > 0
        for samples in (1, num_samples) if several else (1,):
            own = name if samples == 1 else f"{name}-{samples}-samples"
            row = _kept(folder, own, chosen, lambda of=chosen, by=run, s=samples: _by_model(by, of, s))
            found.append({**row, "system": name, "samples": samples})
    for dataset, chosen in of_data.items():
        others = [
            _kept(folder, name, chosen, lambda of=chosen, by=compressor: _by_other(by, of))
            for name, compressor in COMPRESSORS.items()
        ]
        best = min(row["bits_per_dim"] for row in others)
        for row in found:
            if row["dataset"] == dataset and row["bits_per_dim"] < best:
                saved = chosen.levels[0].numel() * (best - row["bits_per_dim"])
                row["images_until_weights_pay"] = math.ceil(8 * row["weights_bytes"] / saved)
        found += others
    runs.write_json(folder / "table.json", found)
    text = markdown([{"name": row["system"], **row} for row in found], COLUMNS)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")


class Chosen(NamedTuple):
    """Random test images, and what they are."""

    levels: Tensor
    """int64 [N, C, H, W], from 0 on"""
    number_of_levels: int
    asked: dict[str, Any]


def _chosen(run: Run, data: str | None, num_images: int) -> Chosen:
    dataset = run.read_dataset(data)
    places = torch.randperm(len(dataset.test.images), generator=torch.Generator().manual_seed(0))[:num_images]
    levels = coding_of(run).levels
    asked = {"dataset": dataset.name, "binarization": dataset.binarization, "images": len(places)}
    return Chosen((dataset.batch("test", places).images * (levels - 1)).round().long(), levels, asked)


def _kept(folder: Path, name: str, chosen: Chosen, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a file if it is of the same images; otherwise measure and write it."""
    path = folder / f"{name}-{chosen.asked['dataset']}.json"
    row = runs.read_json(path) if path.exists() else None
    if isinstance(row, dict) and all(row.get(key) == value for key, value in chosen.asked.items()):
        return row
    row = {"system": name, **chosen.asked, **measure()}
    runs.write_json(path, row)
    return row


def _by_model(run: Run, chosen: Chosen, samples: int) -> dict[str, Any]:
    """Compress and restore images by blocks; compare with the bound of as many samples, or with -log p(x)."""
    coding, number = coding_of(run, samples), len(chosen.levels)
    words = initial = 0
    seconds = np.zeros(2)
    bound = torch.zeros((), dtype=torch.float64)
    with reporting(f"compressing with {run.name}") as report:
        for block in chosen.levels.split(LARGEST_BLOCK):
            before = time.process_time()
            packed, of_block = coding.compress(block, lambda done: report(done / 2 / number))
            between = time.process_time()
            restored = coding.decompress(
                packed, len(block), lambda done: report((number + done) / 2 / number)
            )
            seconds += between - before, time.process_time() - between
            assert torch.equal(restored, block), "images are not restored"
            words, initial = words + len(packed), initial + of_block
    with torch.no_grad():
        for few in chosen.levels.split(AT_ONCE):
            bound += _bound(coding, few).sum()
    values = chosen.levels.numel()
    weights = (run.path / WEIGHTS).stat().st_size
    return {
        "samples": samples,
        "bits_per_dim": WORD_BITS * (words - initial) / values,
        "bits_per_dim_gross": WORD_BITS * words / values,
        "bound_bits_per_dim": bound.item() / math.log(2) / values,
        "bits_per_dim_with_weights": (WORD_BITS * words + 8 * weights) / values,
        "weights_bytes": weights,
        "images_per_second": number / seconds[0],
        "images_per_second_back": number / seconds[1],
    }


def _bound(coding: Coding, levels: Tensor) -> Tensor:
    """Compute the importance-weighted bound, or -log p(x) where it is exact, in nats, [B]."""
    model, images = coding.model, coding.seen(levels)
    if isinstance(model, Scored):
        return -model.log_prob(images)
    assert isinstance(model, Bounded)
    noise = torch.Generator().manual_seed(0)
    return bounds(model, images, coding.samples, noise=noise).negative_log_marginal


# Compressors that know nothing of the images.


class Compressor(NamedTuple):
    """A general compressor, of bytes."""

    compress: Callable[[Tensor, int], bytes]
    """from levels int64 [N, C, H, W] and their number to bytes"""
    restore: Callable[[bytes], object]


def _by_other(compressor: Compressor, chosen: Chosen) -> dict[str, Any]:
    before = time.process_time()
    packed = compressor.compress(chosen.levels, chosen.number_of_levels)
    between = time.process_time()
    compressor.restore(packed)
    number, bits = len(chosen.levels), 8 * len(packed) / chosen.levels.numel()
    return {
        "bits_per_dim": bits,
        "bits_per_dim_gross": bits,
        "images_per_second": number / max(between - before, 1e-9),
        "images_per_second_back": number / max(time.process_time() - between, 1e-9),
    }


def _as_bytes(levels: Tensor, number_of_levels: int) -> bytes:
    """Return one bit per value of binary images, and otherwise one byte."""
    values = levels.numpy().astype(np.uint8)
    return (np.packbits(values) if number_of_levels == 2 else values).tobytes()


def _as_picture(format: str, **options: Any) -> Compressor:
    """Compress all images as a single picture, in a grid."""

    def compress(levels: Tensor, number_of_levels: int) -> bytes:
        columns = math.ceil(len(levels) ** 0.5)
        missing = levels.new_zeros(-len(levels) % columns, *levels.shape[1:])
        grid = torch.cat([levels, missing]).unflatten(0, (-1, columns)) * (255 // (number_of_levels - 1))
        pixels = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).to(torch.uint8).numpy()
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        file = io.BytesIO()
        binary = number_of_levels == 2 and format == "PNG"
        (picture.convert("1") if binary else picture).save(file, format, **options)
        return file.getvalue()

    return Compressor(compress, lambda packed: Image.open(io.BytesIO(packed)).load())


COMPRESSORS = {
    "png": _as_picture("PNG", optimize=True),
    "webp": _as_picture("WEBP", lossless=True, quality=100, method=6, exact=True),
    "xz": Compressor(
        lambda *images: lzma.compress(_as_bytes(*images), preset=9 | lzma.PRESET_EXTREME), lzma.decompress
    ),
    "bz2": Compressor(lambda *images: bz2.compress(_as_bytes(*images), 9), bz2.decompress),
}
