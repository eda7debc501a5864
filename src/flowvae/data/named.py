"""Images with their names, from files, directories and data sets: the input of commands on single images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowvae.batch import Batch, DataSpec, joined
from flowvae.config import DataConfig
from flowvae.data import image_folder, images, npz
from flowvae.data.binarization import bernoulli_thresholds
from flowvae.data.dataset import Split, as_float
from flowvae.data.load import NAMES, load_configured, load_whole
from flowvae.data.reading import check_memory, user_path
from flowvae.data.seeding import Purpose, generator
from flowvae.data.splits import check_split
from flowvae.errors import UserError


class Named(NamedTuple):
    """Images and their names, in the same order."""

    names: list[str]
    """path of the file as given, or below the given directory; ``SPLIT/INDEX`` in a data set, and ``INDEX``
    in a file without splits; with ``#NUMBER`` for a page of several"""
    batch: Batch
    """the images as the likelihood sees them, numbered from 0"""

    @property
    def images(self) -> Tensor:
        """[N, C, H, W] in [0, 1], 0 where a pixel is missing"""
        return self.batch.images


def named_images(
    sources: Sequence[str], spec: DataSpec, config: DataConfig, split: str | None = None, seed: int = 0
) -> Named:
    """Read images of the shape, levels and binarization that a model was trained on.

    A source is an image file, a directory of image files at any depth, or a data set (see `load_dataset`).
    Under static and dynamic binarization, the draw of an image from a file without splits depends on its
    pixels and ``seed`` only, not on the other images. Images of a data set are those that `evaluate` scores.

    Args:
        sources: paths, and names of data sets.
        spec: description of the data that the model was built for.
        config: options of the model's own data; its path is not used.
        split: train, valid or test. Given, every source is a data set; by default, the test split of sources
            that are not image files or directories of them, and all images of an .npz or .npy file without
            splits.
        seed: random seed for the binarization of image files, and of files without splits.

    Raises:
        UserError: if a source cannot be read, contains no images, or has images of another shape.
    """
    if not sources:
        raise UserError("no images are given; name image files, a directory or a data set")
    parts = []
    for source in sources:
        files = [] if split is not None else _image_files(source)
        whole = None if files or split is not None else load_whole(config, source)
        if files:
            read = _read_files(files, spec, config, seed)
        elif whole is not None:
            read = _without_splits(source, whole, spec, config, seed)
        else:
            read = _read_split(source, spec, config, split)
        parts.append(read)
    names = [name for part in parts for name in part.names]
    return Named(names, joined([part.batch for part in parts]))


def reads_files(source: str, split: str | None) -> bool:
    """Whether `named_images` reads a source as image files, and not as a data set."""
    return split is None and bool(_image_files(source))


def _image_files(source: str) -> list[tuple[str, Path]]:
    """Names and paths of an image file, or of all below a directory that are not hidden, sorted."""
    path = user_path(source)
    if source in NAMES:  # whatever there is of that name, as in `load_dataset`
        return []
    if path.suffix.lower() in images.SUFFIXES and path.is_file():
        return [(str(path), path)]
    below = image_folder.files_below(path) if path.is_dir() else []
    return [(str(file.relative_to(path)), file) for file in below]


def _read_files(files: list[tuple[str, Path]], spec: DataSpec, config: DataConfig, seed: int) -> Named:
    channels, height, width = spec.shape
    names: list[str] = []
    read: list[Tensor] = []
    masks: list[Tensor] = []
    for name, file in files:
        sides = None if config.image_size is None else (height, width)
        pages = len(images.read_headers(file, config.value_range))
        decoded = images.decode_pages(file, channels, sides, config.value_range, config.marker)
        for number, (pixels, known) in enumerate(decoded, 1):
            if pixels.shape[1:] != (height, width):
                raise UserError(
                    f"{file} has {pixels.shape[2]} x {pixels.shape[1]} pixels, and the model was trained on "
                    f"{width} x {height}; resize it"
                )
            names.append(name if pages == 1 else f"{name}#{number}")
            read.append(seen(torch.from_numpy(np.array(pixels)), config.binarization, seed))
            masks.append(torch.from_numpy(known).expand(spec.shape))
        check_memory(file, 4 * len(read) * channels * height * width)
    observed = torch.stack(masks)
    everything = torch.stack(read), torch.arange(len(read)), None, None if observed.all() else observed
    return Named(names, Batch(*everything))


def seen(pixels: Tensor, binarization: str, seed: int) -> Tensor:
    """Intensities, uint8 [C, H, W], as the likelihood sees them, in [0, 1]."""
    if binarization == "none":
        return as_float(pixels, 256)
    if binarization == "threshold":
        return (pixels >= 128).to(torch.get_default_dtype())
    random = generator(seed, Purpose.IMAGE_NOISE, number_of(pixels))
    return (pixels > bernoulli_thresholds(random, pixels.shape)).to(torch.get_default_dtype())


def number_of(image: Tensor, seed: int = 0) -> int:
    """Return 32 bits that depend on the values of an image and ``seed`` alone, to seed its noise with.

    Torch's generator on the CPU uses only the lowest 32 bits of a seed.

    >>> number_of(torch.zeros(1, 2, 2)) == number_of(torch.zeros(3, 1, 2, 2)[1])
    True
    """
    content = image.detach().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(str(seed).encode() + b" " + content).digest()[:4], "little")


def numbers_of(batch: Batch) -> Tensor:
    """Return `number_of` the pixels of each image and of which of them are missing, int64 [B]."""
    if batch.observed is None:
        return torch.tensor([number_of(image) for image in batch.images])
    known = batch.observed.to(batch.images.dtype)
    return torch.tensor([number_of(both) for both in torch.stack([batch.images, known], 1)])


def _read_split(source: str, spec: DataSpec, config: DataConfig, split: str | None) -> Named:
    dataset = load_configured(config, source)
    _check_shape(source, dataset.shape, spec)
    split = split or "test"
    check_split(split, dataset)
    places = torch.arange(len(getattr(dataset, split).images))
    return Named([f"{split}/{place}" for place in places.tolist()], dataset.batch(split, places))


def _without_splits(source: str, whole: Split, spec: DataSpec, config: DataConfig, seed: int) -> Named:
    _check_shape(source, whole.images.shape[1:], spec)
    check_memory(user_path(source), 4 * whole.images.numel())
    largest = int(whole.images.max())
    # A whole number of 1 is a level of 8 bits; what is 0 alone is black on any scale.
    unscaled = config.binarization == "none" and config.value_range is None and largest == 1
    if unscaled and npz.type_of(user_path(source)).kind in "bf":
        raise UserError(
            f"{source} is binary already, and the model was trained on pixels of 8 bits; save 0 to 255 as "
            "uint8"
        )
    if config.binarization != "none" and largest <= 1:  # binary already
        images = whole.images.to(torch.get_default_dtype())
    else:
        images = torch.stack([seen(pixels, config.binarization, seed) for pixels in whole.images])
    places = torch.arange(len(images))
    return Named(
        [str(place) for place in places.tolist()], Batch(images, places, whole.labels, whole.observed)
    )


def _check_shape(source: str, shape: Sequence[int], spec: DataSpec) -> None:
    if tuple(shape) != spec.shape:
        theirs, mine = (" x ".join(map(str, sides)) for sides in (shape, spec.shape))
        raise UserError(f"the images of {source} are {theirs}; the model was trained on {mine}")
