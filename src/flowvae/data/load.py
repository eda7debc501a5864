"""Loading a data set from any source, by its name or the content of its path."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowvae.config import DataConfig, Marker, sides_of
from flowvae.data import (
    celeba,
    chardata,
    cifar10,
    cifar10_png,
    hub,
    idx,
    image_folder,
    larochelle,
    mnist,
    npz,
    omniglot,
    stacked_mnist,
    svhn,
)
from flowvae.data.binarization import binarize
from flowvae.data.dataset import Dataset, Split, first_images, in_grey, with_validation
from flowvae.data.hiding import hide_pixels
from flowvae.data.images import Sides
from flowvae.data.reading import user_path
from flowvae.data.summary import oddities, values_of
from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.parts import from_dict

OWN: dict[str, Callable[[], Dataset]] = {
    "mnist": mnist.load,
    stacked_mnist.NAME: stacked_mnist.load,
    "larochelle": larochelle.fetch,
}
NAMES = (*OWN, *hub.SOURCES)
FILES: dict[str, Callable[..., Dataset]] = {
    ".npz": npz.load,
    ".npy": npz.load_npy,
    ".mat": chardata.load,
    ".gz": cifar10.load_archive,
    ".tgz": cifar10.load_archive,
}
# A directory is read by the first entry whose pattern matches one of its files.
DIRECTORIES: list[tuple[str, Callable[..., Dataset]]] = [
    ("*-idx?-ubyte*", idx.load),
    ("*.amat", larochelle.load),
    ("data_batch_?.bin", cifar10.load),
    ("data_batch_?.png", cifar10_png.load),
    ("data_batch_?", cifar10.refuse_pickles),
    ("*_32x32.mat", svhn.load),
    ("list_eval_partition.txt", celeba.load),
    ("Eval/list_eval_partition.txt", celeba.load),
    ("images_background*", omniglot.load),
    ("python/images_background*", omniglot.load),
    ("*", image_folder.load),
]
RESIZING = (celeba.load, omniglot.load)
"""sources whose images are resized to squares; those of directories of image files to any sides"""
SCALING = (npz.load, npz.load_npy, image_folder.load)
"""sources whose pixels can have other values than 0 to 255, or be marked as missing"""


def load_dataset(
    source: str | Path = "mnist",
    binarization: str = "static",
    seed: int = 0,
    image_size: int | str | None = None,
    value_range: tuple[float, float] | None = None,
    grey: bool = False,
    missing: str | None = None,
    hide: float | str | None = None,
    training_images: int | None = None,
    train_on_validation: bool = False,
) -> Dataset:
    """Load a data set by its name, or from a file or a directory.

    Names are "mnist", bundled, "stacked-mnist", made of it, and "larochelle" and those of
    ``flowvae.data.hub.SOURCES``, downloaded; docs/data.md describes files and directories.

    Args:
        source: a name or a path.
        binarization: "static", "dynamic", "threshold" or "none". Images that are binary already are static
            as they are.
        seed: random seed of the frozen draws (see ``flowvae.data.binarization``). The splits do not depend
            on it.
        image_size: side of the square images that CelebA (64 by default), Omniglot (28) and directories of
            image files (unchanged by default) are resized to; for the latter also "HEIGHTxWIDTH". Images of
            other sources are never resized.
        value_range: the values of an array, or of the pixels in a directory of image files, that become 0 and
            255. Without it they must be 8-bit levels.
        grey: convert three channels to one.
        missing: what marks missing pixels of an array or of image files: "nan", "alpha" (pixels that are not
            fully opaque), or the value or colour that they have in the source, such as "128" or "255,0,255".
            Arrays that are named "observed" are always used.
        hide: hide pixels: the probability of each, or "HEIGHTxWIDTH" of a rectangle at a random place of each
            image, drawn with ``seed``.
        training_images: number of training images to keep, the first ones; all other pixels, of every split,
            are the same as without.
        train_on_validation: put the validation images, which also stay what they are, behind the training
            images, or behind the first ones that are kept.

    Raises:
        UserError: if it cannot be loaded.
    """
    options = {
        "data": str(source),
        "binarization": binarization,
        "image_size": image_size,
        "value_range": value_range,
        "grey": grey,
        "missing": missing,
        "hide": hide,
        "training_images": training_images,
        "train_on_validation": train_on_validation,
    }
    return _load(from_dict(DataConfig, options), seed)


def load_configured(config: DataConfig, source: str | None = None) -> Dataset:
    """Load the data set of a configuration, or another ``source`` in the same way, with all of its images."""
    if source is not None:
        config = replace(config, data=source, training_images=None, train_on_validation=False)
    return _load(config)


def load_whole(config: DataConfig, source: str) -> Split | None:
    """Load all images of an .npz or .npy file without splits, not binarized; None of other sources."""
    path = user_path(source)
    load = FILES.get(path.suffix.lower())
    if source in NAMES or not path.is_file() or load not in (npz.load, npz.load_npy):
        return None
    if load is npz.load and npz.has_splits(path):
        return None
    return _read(replace(config, data=source), whole=True).test


def _load(config: DataConfig, seed: int = 0) -> Dataset:
    """Load the data set of a configuration; frozen draws are of ``seed``."""
    dataset = _read(config, seed)
    dataset = replace(dataset, values=values_of(dataset))
    notes = (*dataset.notes, *oddities(dataset, config.binarization))
    intensities = dataset.valid
    dataset = binarize(replace(dataset, notes=notes), config.binarization, seed)
    if config.training_images is not None:
        dataset = first_images(dataset, config.training_images)
    return with_validation(dataset, intensities) if config.train_on_validation else dataset


def _read(config: DataConfig, seed: int = 0, whole: bool = False) -> Dataset:
    """Load the data set of a configuration up to its binarization; ``whole`` is that of `npz.load`."""
    if seed < 0:
        raise UserError(f"seed {seed}; give 0 or more")
    sides = None if config.image_size is None else sides_of(config.image_size)
    dataset = read_source(config.data, sides, config.value_range, config.marker, whole)
    if sides not in (None, dataset.shape[1:]):
        height, width = dataset.shape[1:]
        raise UserError(
            f"the images of {quoted(config.data)} are {height} x {width}, and only CelebA, Omniglot and "
            "directories of image files are resized; leave the image size out"
        )
    if config.grey and dataset.shape[0] == 3:
        dataset = in_grey(dataset)
    splits = (dataset.train, dataset.valid, dataset.test)
    if config.marker is not None and all(split.observed is None for split in splits):
        dataset = replace(dataset, notes=(*dataset.notes, f"--missing {config.missing} marks no pixel"))
    return dataset if config.hide is None else hide_pixels(dataset, config.hide, seed)


def read_source(
    source: str,
    sides: Sides | None = None,
    value_range: tuple[float, float] | None = None,
    marker: Marker | None = None,
    whole: bool = False,
) -> Dataset:
    """Load the images of a source without binarization, otherwise like `load_dataset`.

    ``sides`` is (height, width). ``marker`` has an effect in arrays and directories of image files only.
    """
    if source in NAMES:
        if value_range is not None:
            raise _without_range(source)
        if source in hub.SOURCES:
            return hub.load(source, sides and _square(source, sides))
        return OWN[source]()
    path = user_path(source)
    if path.is_dir():
        load = next((load for pattern, load in DIRECTORIES if any(path.glob(pattern))), image_folder.load)
    elif path.is_file() and path.suffix.lower() in FILES:
        load = FILES[path.suffix.lower()]
    elif path.is_file():
        raise UserError(
            f"{path} is not a data set; give an .npz file or a directory of IDX, .amat or image files, or "
            "another form that docs/data.md lists"
        )
    else:
        raise UserError(
            f"no data set, file or directory {quoted(source)}; give a path or a name; "
            f"{did_you_mean(source, NAMES)}"
        )
    if value_range is not None and load not in SCALING:
        raise _without_range(source)
    wanted: dict[str, Any] = {"value_range": value_range, "marker": marker} if load in SCALING else {}
    if load is image_folder.load:
        wanted["sides"] = sides
    elif load in SCALING:
        wanted["whole"] = whole
    elif load in RESIZING:
        wanted["image_size"] = sides and _square(source, sides)
    return load(path, **wanted)


def _square(source: str, sides: Sides) -> int:
    height, width = sides
    if height != width:
        raise UserError(
            f"{quoted(source)} is resized to squares only, not to {height} x {width}; give one side as the "
            "image size"
        )
    return height


def _without_range(source: str) -> UserError:
    return UserError(
        f"the pixels of {quoted(source)} are 0 to 255; leave --value-range out, which is for arrays and "
        "directories of image files"
    )
