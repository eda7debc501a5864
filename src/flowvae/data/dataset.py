"""What a data set is: three splits of equally shaped uint8 images."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowvae.batch import Batch, DataSpec

LUMA = (19595, 38470, 7471)
"""the shares of red, green and blue in the brightness of television, of 65,536 in all (ITU-R BT.601)"""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and, where the source has them, their labels.

    images: uint8 [N, C, H, W]; 0 and 1 where the split is binary, otherwise 0 to 255.
    labels: int64 [N], or None.
    """

    images: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits and how their pixels become what the likelihood sees.

    name: "mnist", "larochelle", or the stem of the file or folder.
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
    """names of the labels 0, 1, ..., where the source has names"""
    notes: tuple[str, ...] = ()
    """what a user should know of how the source was read, one line each"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def spec(self) -> DataSpec:
        """What a model is told of the data before it is built."""
        labels = self.train.labels
        classes = 0 if labels is None else int(labels.max()) + 1
        return DataSpec(self.shape, self.levels, len(self.train.images), classes)

    @property
    def levels(self) -> int:
        """How many values a pixel takes where the likelihood sees it: 2, or 256 without binarization."""
        return 256 if self.binarization == "none" else 2

    @property
    def training_levels(self) -> int:
        """How many values a stored training pixel takes: 256 too where every batch is binarized anew."""
        return 256 if self.binarization == "dynamic" else self.levels

    def batch(self, split: str, places: Tensor) -> Batch:
        """The images at ``places`` [B] of train, valid or test, as the likelihood sees them.

        Raises:
            ValueError: training images under dynamic binarization, which ``training_batch`` draws.
        """
        chosen: Split = getattr(self, split)
        labels = None if chosen.labels is None else chosen.labels[places]
        return Batch(as_float(chosen.images[places], self.levels), places, labels)


def in_grey(dataset: Dataset) -> Dataset:
    """Images of three channels, uint8, as one of luma, rounded as Pillow does."""

    def grey(split: Split) -> Split:
        parts = [
            ((part * part.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True) + 2**15) // 2**16
            for part in (few.int() for few in split.images.split(1000))
        ]
        return replace(split, images=torch.cat([part.byte() for part in parts]))

    return replace(dataset, train=grey(dataset.train), valid=grey(dataset.valid), test=grey(dataset.test))


def as_float(images: Tensor, levels: int) -> Tensor:
    """uint8 pixels 0 .. levels - 1 as float32 in [0, 1], same shape.

    Raises ValueError for a pixel out of range: the 8-bit training images of a dynamic data set, for
    one, have to go through ``training_batch``.

    >>> import torch
    >>> as_float(torch.tensor([0, 51, 255], dtype=torch.uint8), 256)
    tensor([0.0000, 0.2000, 1.0000])
    """
    if images.numel() and int(images.max()) >= levels:
        raise ValueError(f"pixel value {int(images.max())} where there are {levels} levels")
    return images.float() / (levels - 1)
