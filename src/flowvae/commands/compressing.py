"""The commands that compress images with a run, and restore them."""

import dataclasses
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.commands.progress import reporting
from flowvae.compression import Coding
from flowvae.compression.container import LARGEST_BLOCK, Block, Header, checksum, packed, read, unpacked
from flowvae.compression.stack import coder
from flowvae.data.cache import fingerprint
from flowvae.data.named import named_images
from flowvae.errors import UserError, check_range, quoted
from flowvae.image_files import files_of, save_images
from flowvae.models import Compressible, Normalizing
from flowvae.parts import LARGEST_SEED
from flowvae.runs import Run, replacing
from flowvae.runs.capability import needs
from flowvae.runs.files import as_safetensors, check_not_read, check_place

MOST_SAMPLES = 1000
WHOLE_SPLIT = re.compile(r"((?:train|valid|test)/|)0")


class Compressed(NamedTuple):
    """A file of compressed images."""

    path: Path
    images: int
    dimensions: int
    """number of values of an image"""
    file_bytes: int
    bits: int
    """of all blocks, with the initial bits"""
    initial_bits: int
    """random bits that codes were chosen from; they could be a message of one's own"""

    @property
    def bits_per_dim(self) -> float:
        return (self.bits - self.initial_bits) / (self.images * self.dimensions)

    @property
    def bits_per_dim_gross(self) -> float:
        return self.bits / (self.images * self.dimensions)

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.images:,} images in {self.file_bytes:,} bytes: "
            f"{self.bits_per_dim_gross:.4f} bits/dim, {self.bits_per_dim:.4f} without the initial bits"
        )


def compress_images(
    path: Path,
    sources: Sequence[str],
    out: Path | None = None,
    split: str | None = None,
    seed: int = 0,
    samples: int = 1,
) -> Compressed:
    """Compress images without loss, as the run's model sees them: binarized, if it is one of binary pixels.

    Finished blocks are kept beside ``out`` until it is written, and the same command continues from them.

    Args:
        path: directory of the run.
        sources: image files, directories of them, and data sets (see `named_images`).
        out: file to write; by default, ``images.flowvae`` of the run.
        split, seed: as for `named_images`.
        samples: S, number of codes per image; with more, files are smaller, and initial bits more.

    Raises:
        UserError: if the model cannot compress, or pixels are missing.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("samples", samples, 1, MOST_SAMPLES)
    run = Run(path)
    coding = coding_of(run, samples)
    out = out or run.place_for("images.flowvae")
    if out.exists() and not out.is_file():
        raise UserError(f"{out} is not a file; choose another path")
    check_place(out)
    check_not_read(out, sources)
    found = named_images(sources, run.spec, dataclasses.replace(run.config.data, hide=None), split, seed)
    if found.batch.observed is not None:
        raise UserError("pixels are missing; give complete images, or fill them in by flowvae impute")
    run.model.check(found.images)
    images = (found.images.double() * (coding.levels - 1)).round().long()
    header = Header(
        str(path),
        _weights(run),
        run.spec.shape,
        coding.levels,
        samples,
        _shortened(found.names),
        len(images),
        _checksum(images),
        coding.probe(),
        _machine(),
    )
    kept = out.with_name(f"{out.name}.{fingerprint(*packed(header, []))}.unfinished")
    blocks = unpacked(kept, kept.read_bytes())[1] if kept.exists() else []
    with reporting(f"compressing with {run.name}") as report:
        done = sum(block.images for block in blocks)
        for few in images[done:].split(LARGEST_BLOCK):
            words, initial = coding.compress(
                few, lambda more, before=done: report((before + more) / len(images))
            )
            blocks.append(Block(words, len(few), initial, _checksum(few)))
            done += len(few)
            if len(few) < len(images):
                _write(kept, packed(header, blocks))
    content = packed(header, blocks)
    _write(out, content)
    kept.unlink(missing_ok=True)
    words, initial = (
        sum(each) for each in zip(*((len(block.words), block.initial_words) for block in blocks), strict=True)
    )
    return Compressed(out, len(images), images[0].numel(), len(content), 32 * words, 32 * initial)


def decompress_images(file: Path, out: Path | None = None, path: Path | None = None) -> Path:
    """Restore compressed images, bit by bit, and save them as `save_images` does.

    Args:
        file: a file of `compress_images`.
        out: directory for one PNG per image, or .npz file; by default, FILE-restored.
        path: directory of the run; by default, where it was when the images were compressed.

    Returns:
        ``out``.

    Raises:
        UserError: if the file is damaged, the run is another one, or this machine computes other numbers.
    """
    header, blocks = read(file)
    if out is None:
        out = file.with_name(f"{file.name}-restored")
    elif not out.is_dir() and out.suffix not in ("", ".npz"):
        raise UserError(f"{out} ends in {quoted(out.suffix)}; choose a directory or an .npz file")
    apart = out.is_dir() or out.suffix != ".npz"
    check_place(out, folder=apart)
    check_not_read(out, [file])
    names = header.names
    if isinstance(names, str):
        within = f"{names}/" if names else ""
        names = [f"{within}{place}" for place in range(header.images)]
    files = files_of(["images"], names, out)["images"] if apart else [out]
    # They may be the images that were compressed, of which binary pixels are a part only.
    if there := [file for file in files if file.exists()]:
        raise UserError(f"{there[0]} is there already; choose another --out, where nothing is replaced")
    check_range(f"samples of {file}", header.samples, 1, MOST_SAMPLES)
    try:
        run = Run(path or header.run)
    except UserError:
        if path is not None:
            raise
        raise UserError(
            f"{file} was compressed with the run {header.run}, which is not here; give its directory by --run"
        ) from None
    if _weights(run) != header.weights:
        raise UserError(
            f"{file} was compressed with {header.run}, and {run.path} has other weights or options; give "
            "that run by --run"
        )
    coding = coding_of(run, header.samples)
    if coding.probe() != header.probe:
        raise UserError(
            f"{file} was compressed by {header.machine}; here, {_machine()} computes other probabilities of "
            "test images; decompress it where it was compressed"
        )
    with reporting(f"decompressing with {run.name}") as report:
        parts: list[Tensor] = []
        for block in blocks:
            done = sum(map(len, parts))
            try:
                images = coding.decompress(
                    block.words,
                    block.images,
                    lambda more, before=done: report((before + more) / header.images),
                )
                same = _checksum(images) == block.checksum
            except KeyError:  # of the coder: they lead to an image that has no probability
                same = False
            if not same:
                raise UserError(
                    f"{file} gives other images than were compressed: this machine computes other "
                    "probabilities; decompress it where it was compressed"
                )
            parts.append(images)
    images = torch.cat(parts)
    save_images({"images": images.double() / (header.levels - 1)}, names, out)
    return out


def coding_of(run: Run, samples: int = 1) -> Coding:
    """Return the coding by the model of a run, with a number of samples per image.

    Raises:
        UserError: if it cannot compress, or the coder is not installed.
    """
    if not isinstance(run.model, Normalizing):
        needs(Compressible, run)
    if run.model.conditional:
        raise UserError(
            f"{run.path} is conditional on labels, with which images cannot be compressed; choose another run"
        )
    if run.model.levels is None:
        raise UserError(f"the pixels of {run.path} have no levels; choose a run of images with levels")
    coder()  # raises, if it is not installed
    return Coding(run.model, samples)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def _weights(run: Run) -> str:
    """Return the checksum of what the probabilities depend on: options and weights."""
    return checksum(
        repr(sorted(run.described.options.items())).encode() + as_safetensors(run.model.state_dict())
    )


def _checksum(images: Tensor) -> str:
    return checksum(images.numpy().astype("<u2").tobytes())


def _machine() -> str:
    """Name what probabilities may depend on beside the run."""
    cpu = torch.backends.cpu.get_cpu_capability()
    return f"PyTorch {torch.__version__} with constriction {version('constriction')} on {cpu}"


def _shortened(names: list[str]) -> list[str] | str:
    """Return the split's name, or "", if these are all images of a split or a file; otherwise the names."""
    split = WHOLE_SPLIT.fullmatch(names[0])
    if split and names == [f"{split[1]}{place}" for place in range(len(names))]:
        return split[1].rstrip("/")
    return names
