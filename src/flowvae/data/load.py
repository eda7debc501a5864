"""One door to all sources: what a path is decides how it is read."""

from collections.abc import Callable
from dataclasses import replace

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
    svhn,
)
from flowvae.data.binarization import BINARIZATIONS, binarize
from flowvae.data.dataset import Dataset
from flowvae.data.reading import user_path
from flowvae.data.summary import oddities, values_of
from flowvae.errors import UserError, did_you_mean, quoted

NAMES = ("mnist", "larochelle", *hub.SOURCES)
FILES: dict[str, Callable[..., Dataset]] = {
    ".npz": npz.load,
    ".mat": chardata.load,
    ".gz": cifar10.load_archive,
    ".tgz": cifar10.load_archive,
}
# A folder is what the first pattern that matches one of its files says.
FOLDERS: list[tuple[str, Callable[..., Dataset]]] = [
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
RESIZING = (celeba.load, omniglot.load, image_folder.load)
"""those that are told which size images shall have"""


def load_dataset(
    source: str = "mnist", binarization: str = "static", seed: int = 0, image_size: int | None = None
) -> Dataset:
    """Load a data set by its name, from a file or from a folder.

    Names are "mnist", bundled, and "larochelle" and those of ``flowvae.data.hub.SOURCES``, downloaded;
    docs/data.md says what files and directories look like.

    Args:
        source: a name or a path.
        binarization: "static", "dynamic", "threshold" or "none". Images that are binary already are static
            as they are.
        seed: of the frozen draws (see ``flowvae.data.binarization``). The splits do not depend on it.
        image_size: side of the square images that CelebA (64 by default), Omniglot (28) and folders of image
            files (as they are) are brought to. Images of other sources are never resized.

    Raises:
        UserError: whatever cannot be loaded.
    """
    if binarization not in BINARIZATIONS:
        raise UserError(
            f"unknown binarization {quoted(binarization)}; {did_you_mean(binarization, BINARIZATIONS)}"
        )
    if seed < 0:
        raise UserError(f"seed {seed}; give 0 or more")
    if image_size is not None and image_size < 1:
        raise UserError(f"image size {image_size}; give 1 or more")
    dataset = read_source(source, image_size)
    if image_size is not None and dataset.shape[1:] != (image_size, image_size):
        height, width = dataset.shape[1:]
        raise UserError(
            f"the images of {quoted(source)} are {height} x {width}, and only CelebA, Omniglot and folders "
            "of image files are resized; leave the image size out"
        )
    dataset = replace(dataset, values=values_of(dataset))
    notes = (*dataset.notes, *oddities(dataset, binarization))
    return binarize(replace(dataset, notes=notes), binarization, seed)


def read_source(source: str, image_size: int | None) -> Dataset:
    """The images of a source as they are: grey ones where it has grey ones. As `load_dataset` otherwise."""
    if source == "mnist":
        return mnist.load()
    if source == "larochelle":
        return larochelle.fetch()
    if source in hub.SOURCES:
        return hub.load(source, image_size)
    path = user_path(source)
    if path.is_dir():
        load = next((load for pattern, load in FOLDERS if any(path.glob(pattern))), image_folder.load)
    elif path.is_file() and path.suffix.lower() in FILES:
        load = FILES[path.suffix.lower()]
    elif path.is_file():
        raise UserError(
            f"{path} is no data set; give an .npz file or a folder of IDX, .amat or image files, or another "
            "form that docs/data.md lists"
        )
    else:
        raise UserError(
            f"no data set, file or folder {quoted(source)}; {did_you_mean(source, NAMES)}, or give a path"
        )
    return load(path, image_size) if load in RESIZING else load(path)
