"""The table of compressed test images: bits of models, beside their bounds, and of general compressors."""

import bz2
import importlib
import io
import lzma
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowvae import runs
from flowvae.commands.compressing import MOST_SAMPLES, coding_of
from flowvae.commands.progress import reporting
from flowvae.compression import Coding
from flowvae.compression.container import LARGEST_BLOCK
from flowvae.errors import check_range
from flowvae.evaluation.likelihood import bounds
from flowvae.models import Bounded, CompressibleWithCode, Scored
from flowvae.parts import MOST
from flowvae.reproduce import Budget, Row, reproduce_table
from flowvae.runs import Run
from flowvae.runs.folder import WEIGHTS
from flowvae.runs.table import markdown, titles
from flowvae.systems import GREY
from flowvae.tables import Variant

RUNS = ("runs/table1/runs/vae-seed0", "runs/table1/runs/realnvp-20-seed0", "density-mnist")
TRAINED = {
    "vae-grey": replace(GREY["vae-grey"], data="mnist"),
    "realnvp-5-omniglot": Variant("realnvp-5", data="omniglot"),
    "realnvp-density-cifar10": Variant(
        "realnvp-density-cifar10", "--batch-size 16"
    ),  # more steps in a short time
}
SCORED_SAMPLES, SCORED_IMAGES = 10, 100
"""by which -log p(x) of trained rows is estimated: roughly, since their files are measured"""
COLUMNS = {
    "dataset": "",
    "binarization": "",
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
    budget: Budget,
    rows: Sequence[str] = (),
    data: str | None = None,
    num_images: int = 10_000,
    num_samples: int = 1,
) -> None:
    """Compress test images with models and with general compressors, restore them, and write the table.

    Finished rows are kept, and the table has all rows of the folder. Seconds are those of one processor.

    Args:
        folder: directory for ``table.json``, ``table.md``, a file per row, and the runs under ``training/``.
        budget: training budget of each of the rows that are trained.
        rows: names of `TRAINED`, directories of runs, and names of bundled models; by default, `RUNS` and all
            of `TRAINED`.
        data: data set in place of those of the rows.
        num_images: number of random test images, the same for all rows on a data set.
        num_samples: S; with more than 1, models that have codes are measured with S samples as well.

    Raises:
        UserError: if a run is missing, or cannot compress.
    """
    check_range("images", num_images, 1, MOST)
    check_range("samples", num_samples, 1, MOST_SAMPLES)
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows or (*RUNS, *TRAINED)
    paths = [Path(row) for row in rows if row not in TRAINED]
    opened = {name: Run(path) for name, path in zip(titles(paths), paths, strict=True)}
    variants = {name: TRAINED[name] for name in rows if name in TRAINED}
    if data is not None:
        variants = {name: replace(variant, data=data) for name, variant in variants.items()}
    if variants:
        training = folder / "training"
        reproduce_table(
            training,
            budget,
            variants=variants,
            num_samples=SCORED_SAMPLES,
            num_images=min(num_images, SCORED_IMAGES),
        )
        opened |= {name: Run(Row(name, variant, 0, training).run) for name, variant in variants.items()}
    of_data: dict[str, Chosen] = {}
    for name, run in opened.items():
        chosen = _chosen(run, data, num_images)
        of_data.setdefault(chosen.name, chosen)
        several = num_samples > 1 and isinstance(run.model, CompressibleWithCode)
        for samples in (1, num_samples) if several else (1,):
            own = name if samples == 1 else f"{name}-{samples}-samples"
            measure = partial(_by_model, run, chosen, samples)
            _keep(folder / f"{own}-{chosen.name}.json", name, chosen, measure)
    for dataset, chosen in of_data.items():
        for name, compressor in _compressors().items():
            _keep(folder / f"{name}-{dataset}.json", name, chosen, partial(_by_other, compressor, chosen))
    table = _table([runs.read_json(path) for path in folder.glob("*-*.json")])
    runs.write_json(folder / "table.json", table)
    text = markdown([{"name": row["system"], **row} for row in table], COLUMNS)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows by data set and size, and add from how many images on a file with the weights is smaller.

    Smaller, that is, than the file of the best general compressor.
    """
    ordered = sorted(rows, key=lambda row: (row["dataset"], row["binarization"], row["bits_per_dim"]))
    table: list[dict[str, Any]] = []
    for row in ordered:
        others = [
            other["bits_per_dim"]
            for other in ordered
            if other["dataset"] == row["dataset"] and "weights_bytes" not in other
        ]
        added = {}
        if "weights_bytes" in row and row["bits_per_dim"] < min(others, default=0):
            saved = row["values"] * (min(others) - row["bits_per_dim"])
            added["images_until_weights_pay"] = math.ceil(8 * row["weights_bytes"] / saved)
        table.append({**row, **added})
    return table


class Chosen(NamedTuple):
    """Random test images, and what they are."""

    levels: Tensor
    """int64 [N, C, H, W], from 0 on"""
    number_of_levels: int
    asked: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.asked["dataset"]


def _chosen(run: Run, data: str | None, num_images: int) -> Chosen:
    dataset = run.read_dataset(data)
    places = torch.randperm(len(dataset.test.images), generator=torch.Generator().manual_seed(0))[:num_images]
    levels = coding_of(run).levels
    images = (dataset.batch("test", places).images * (levels - 1)).round().long()
    asked = {"dataset": dataset.name, "binarization": dataset.binarization, "images": len(places)}
    return Chosen(images, levels, {**asked, "values": images[0].numel()})


def _keep(path: Path, name: str, chosen: Chosen, measure: Callable[[], dict[str, Any]]) -> None:
    """Write a row, unless the file has that of the same images."""
    row = runs.read_json(path) if path.exists() else None
    if not isinstance(row, dict) or any(row.get(key) != value for key, value in chosen.asked.items()):
        runs.write_json(path, {"system": name, **chosen.asked, **measure()})


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


def _compressors() -> dict[str, Compressor]:
    """Return the compressors of Python and Pillow, and those of libraries that happen to be installed.

    These are oxipng (``pyoxipng``), JPEG XL (``pillow-jxl-plugin``) and Zstandard (``zstandard``).
    """
    png = _as_picture("PNG", optimize=True)
    found = {
        "png": png,
        "webp": _as_picture("WEBP", lossless=True, quality=100, method=6, exact=True),
        "xz": Compressor(
            lambda *images: lzma.compress(_as_bytes(*images), preset=9 | lzma.PRESET_EXTREME), lzma.decompress
        ),
        "bz2": Compressor(lambda *images: bz2.compress(_as_bytes(*images), 9), bz2.decompress),
    }
    with suppress(ImportError):
        oxipng = importlib.import_module("oxipng")
        found["oxipng"] = png._replace(
            compress=lambda *images: oxipng.optimize_from_memory(png.compress(*images), level=6)
        )
    with suppress(ImportError):
        importlib.import_module("pillow_jxl")  # makes Pillow know the format
        found["jpeg-xl"] = _as_picture("JXL", lossless=True, effort=9)
    with suppress(ImportError):
        zstandard = importlib.import_module("zstandard")
        found["zstd"] = Compressor(
            lambda *images: zstandard.ZstdCompressor(level=19).compress(_as_bytes(*images)),
            zstandard.ZstdDecompressor().decompress,
        )
    return found
