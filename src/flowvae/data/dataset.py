"""Data sets: three splits of uint8 images of one shape."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowvae.batch import Batch, DataSpec
from flowvae.errors import UserError

LUMA = (19595, 38470, 7471)
"""weights of red, green and blue in the luma of ITU-R BT.601, which add up to 65,536"""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and, if the source has them, their labels and which of their pixels are known.

    images: uint8 [N, C, H, W]; 0 and 1 if the split is binary, otherwise 0 to 255; 0 where not observed.
    labels: int64 [N], or None.
    observed: bool [N, C, H, W], or None if all pixels are known.
    """

    images: Tensor
    labels: Tensor | None = None
    observed: Tensor | None = None

    def take(self, places: slice | Tensor) -> "Split":
        """Return the images at some positions, with all that belongs to them."""
        rest = (None if part is None else part[places] for part in (self.labels, self.observed))
        return Split(self.images[places], *rest)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits, and how their pixels are binarized.

    name: "mnist", "larochelle", or the stem of the file or directory.
    binarization: "static", "dynamic", "threshold" or "none". With "dynamic" the training images stay
        8-bit intensities and are sampled anew for every batch; valid and test are binary.
    """

    name: str
    binarization: str
    train: Split
    valid: Split
    test: Split
    values: tuple[int, int] = (0, 255)
    """smallest and largest value of a pixel before binarization"""
    classes: tuple[str, ...] = ()
    """names of the labels 0, 1, ..., if the source has names"""
    notes: tuple[str, ...] = ()
    """lines about how the source was read"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def spec(self) -> DataSpec:
        """The description of the data for which a model is built."""
        labels = self.train.labels
        classes = 0 if labels is None else int(labels.max()) + 1
        missing = self.train.observed is not None
        return DataSpec(self.shape, self.levels, len(self.train.images), classes, missing)

    @property
    def levels(self) -> int:
        """Number of values of a pixel in the likelihood: 2, or 256 without binarization."""
        return 256 if self.binarization == "none" else 2

    @property
    def training_levels(self) -> int:
        """Number of values of a stored training pixel: also 256 if every batch is binarized anew."""
        return 256 if self.binarization == "dynamic" else self.levels

    def batch(self, split: str, places: Tensor) -> Batch:
        """Return the images at positions ``places`` [B] of train, valid or test, as the likelihood sees them.

        Raises:
            ValueError: for training images under dynamic binarization, which ``training_batch`` draws.
        """
        chosen: Split = getattr(self, split).take(places)
        return Batch(as_float(chosen.images, self.levels), places, chosen.labels, chosen.observed)


def in_grey(dataset: Dataset) -> Dataset:
    """Convert images of three channels, uint8, to their luma, rounded as by Pillow.

    A grey pixel is observed if all of its channels were.
    """

    def grey(split: Split) -> Split:
        parts = [
            ((part * part.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True) + 2**15) // 2**16
            for part in (few.int() for few in split.images.split(1000))
        ]
        images = torch.cat([part.byte() for part in parts])
        if split.observed is None:
            return replace(split, images=images)
        observed = split.observed.all(1, keepdim=True)
        return replace(split, images=images * observed, observed=observed)

    return replace(dataset, train=grey(dataset.train), valid=grey(dataset.valid), test=grey(dataset.test))


def first_images(dataset: Dataset, number: int) -> Dataset:
    """Keep the first training images only.

    Raises:
        UserError: if there are fewer.
    """
    if number > len(dataset.train.images):
        raise UserError(
            f"training_images is {number:,}, and {dataset.name} has {len(dataset.train.images):,}; give at "
            "most as many"
        )
    return replace(dataset, train=dataset.train.take(slice(number)))


def with_validation(dataset: Dataset, intensities: Split) -> Dataset:
    """Put the validation images behind the training images, and leave them what they are as well.

    ``intensities`` are the validation images before binarization, of which dynamic batches are drawn.
    """
    valid = intensities if dataset.binarization == "dynamic" else dataset.valid
    note = "validation images are training images as well, so validation scores say nothing about new images"
    return replace(dataset, train=_joined(dataset.train, valid), notes=(*dataset.notes, note))


def _joined(*parts: Split) -> Split:
    """Join splits. Where others have labels or masks, images without have the label -1 and known pixels."""
    labels = observed = None
    if any(part.labels is not None for part in parts):
        of_each = [(part, torch.full((len(part.images),), -1)) for part in parts]
        labels = torch.cat([unknown if part.labels is None else part.labels for part, unknown in of_each])
    if any(part.observed is not None for part in parts):
        of_each = [(part, torch.ones_like(part.images, dtype=torch.bool)) for part in parts]
        observed = torch.cat([known if part.observed is None else part.observed for part, known in of_each])
    return Split(torch.cat([part.images for part in parts]), labels, observed)


def as_float(images: Tensor, levels: int) -> Tensor:
    """Convert uint8 pixels 0 .. levels - 1 to numbers in [0, 1] of torch's default type, in the same shape.

    Raises ValueError for a pixel out of range, such as in the 8-bit training images of a dynamic data set,
    which must go through ``training_batch``.

    >>> import torch
    >>> as_float(torch.tensor([0, 51, 255], dtype=torch.uint8), 256)
    tensor([0.0000, 0.2000, 1.0000])
    """
    if images.numel() and int(images.max()) >= levels:
        raise ValueError(f"pixel value {int(images.max())} where there are {levels} levels")
    return images.to(torch.get_default_dtype()) / (levels - 1)
