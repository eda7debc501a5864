"""One door to all sources: what a path is decides how it is read."""

from collections.abc import Callable
from pathlib import Path

from flowvae.data import idx, image_folder, larochelle, mnist, npz
from flowvae.data.binarization import BINARIZATIONS, binarize
from flowvae.data.dataset import Dataset
from flowvae.errors import UserError, nearest

NAMED: dict[str, Callable[[], Dataset]] = {"mnist": mnist.load}
FILES: dict[str, Callable[[Path], Dataset]] = {".npz": npz.load}
# A folder is what the first pattern that matches one of its files says.
FOLDERS: list[tuple[str, Callable[[Path], Dataset]]] = [
    ("*-idx?-ubyte*", idx.load),
    ("*.amat", larochelle.load),
    ("*", image_folder.load),
]


def load_dataset(source: str = "mnist", binarization: str = "static", seed: int = 0) -> Dataset:
    """Load "mnist", an .npz file, or a folder of IDX files, of Larochelle's text files or of images.

    ``binarization``: "static", "dynamic", "threshold" or "none"; ``seed`` is that of the frozen draws
    (see ``flowvae.data.binarization``). The splits do not depend on it. Images that are binary already are
    static as they are. Raises UserError for whatever cannot be loaded.
    """
    if binarization not in BINARIZATIONS:
        raise UserError(f"unknown binarization {binarization}; {nearest(binarization, BINARIZATIONS)}")
    if seed < 0:
        raise UserError(f"seed {seed}; give 0 or more")
    return binarize(_load_source(source), binarization, seed)


def _load_source(source: str) -> Dataset:
    if source in NAMED:
        return NAMED[source]()
    path = Path(source).expanduser()
    if path.is_dir():
        load_folder = next((load for pattern, load in FOLDERS if any(path.glob(pattern))), image_folder.load)
        return load_folder(path)
    if path.is_file():
        if path.suffix.lower() not in FILES:
            raise UserError(
                f"{path} is no data set; give an .npz file or a folder of IDX, .amat or image files"
            )
        return FILES[path.suffix.lower()](path)
    raise UserError(f"no data set, file or folder {source}; {nearest(source, NAMED)}, or give a path")
