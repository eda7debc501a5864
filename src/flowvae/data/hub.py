"""Published data sets from the Hugging Face hub, downloaded once, with pinned names and revisions."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from flowvae.data import celeba, cifar10, images, omniglot, svhn
from flowvae.data.cache import cached_array
from flowvae.data.dataset import Dataset, Split
from flowvae.data.splits import hold_out, make_dataset, make_split, split_at_random
from flowvae.errors import UserError

Decode = Callable[[IO[bytes], object, int], np.ndarray]
"""(file, its name in errors, side) -> uint8 [C, side, side]"""


@dataclass(frozen=True)
class Source:
    """The location of a data set on the hub, and its expected content.

    Attributes:
        repository: name of the repository.
        revision: hash of the commit, or its beginning.
        files: Parquet files of each split.
        counts: number of images in each split.
        channels: 1 or 3.
        side: side of the square images in pixels; for those that are resized, the default.
        decode: function from a row's image file to its pixels.
        local: description of the local files that --data takes instead.
        resized: whether images can be resized to another side.
        image: name of the column of images.
        label: name of the column of labels, if there is one.
        held_out: share of train that becomes valid if no valid split is published.
    """

    repository: str
    revision: str
    files: dict[str, str]
    counts: dict[str, int]
    channels: int
    side: int
    decode: Decode
    local: str
    resized: bool = False
    image: str = "image"
    label: str | None = "label"
    held_out: Fraction = Fraction(1, 6)


def _files(directory: str, *splits: str) -> dict[str, str]:
    return {split: f"{directory}/{split}-*.parquet" for split in splits}


def _grey(file: IO[bytes], where: object, side: int) -> np.ndarray:
    return images.decode(file, 1, where=where, size=(side, side))


def _colour(file: IO[bytes], where: object, side: int) -> np.ndarray:
    return images.decode(file, 3, where=where, size=(side, side))


SOURCES = {
    "cifar10": Source(
        "uoft-cs/cifar10",
        "0b2714987fa478483af9968de7c934580d0bb9a2",
        _files("plain_text", "train", "test"),
        {"train": 50_000, "test": 10_000},
        channels=3,
        side=32,
        decode=_colour,
        image="img",
        held_out=cifar10.HELD_OUT,
        local="the directory cifar-10-batches-bin or the file cifar-10-binary.tar.gz",
    ),
    "svhn": Source(
        "ufldl-stanford/svhn",
        "f9e1717",
        _files("cropped_digits", "train", "test"),
        {"train": 73_257, "test": 26_032},
        channels=3,
        side=32,
        decode=_colour,
        held_out=svhn.HELD_OUT,
        local="a directory with train_32x32.mat and test_32x32.mat",
    ),
    "celeba": Source(
        "flwrlabs/celeba",
        "2d738f56e0e7f925ea36ae7c808ea925264aacec",
        _files("img_align+identity+attr", "train", "valid", "test"),
        {"train": 162_770, "valid": 19_867, "test": 19_962},
        channels=3,
        side=celeba.IMAGE_SIZE,
        decode=celeba.face,
        resized=True,
        label=None,
        local="a directory with img_align_celeba and list_eval_partition.txt",
    ),
    "omniglot": Source(
        "GATE-engine/omniglot",
        "887fdcc",
        _files("data", "full"),
        {"full": 32_460},
        channels=1,
        side=omniglot.IMAGE_SIZE,
        decode=omniglot.drawing,
        resized=True,
        local="a directory with images_background and images_evaluation, or the file chardata.mat",
    ),
    "fashion-mnist": Source(
        "zalando-datasets/fashion_mnist",
        "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
        _files("fashion_mnist", "train", "test"),
        {"train": 60_000, "test": 10_000},
        channels=1,
        side=28,
        decode=_grey,
        local="the directory of its IDX files, as installed by Debian's package dataset-fashion-mnist",
    ),
}


def load(name: str, image_size: int | None = None) -> Dataset:
    """Load the data set ``name`` of SOURCES, from the cache or else from the hub.

    The splits are the published ones; if there is no valid split, it is held out as for local files.
    ``image_size`` is used by sources that are resized.
    """
    source = SOURCES[name]
    side = image_size if image_size and source.resized else source.side
    splits = {split: _load_split(name, split, side) for split in source.files}
    where = Path(name)
    if "full" in splits:
        return make_dataset(where, *split_at_random(where, splits["full"]))
    train = splits["train"]
    train, valid = (train, splits["valid"]) if "valid" in splits else hold_out(where, train, source.held_out)
    return make_dataset(where, train, valid, splits["test"])


def _load_split(name: str, split: str, side: int) -> Split:
    """Load one split. Images and labels are cached separately; the hub is only used if one is missing."""
    source, count = SOURCES[name], SOURCES[name].counts[split]
    key = f"{name}-{split}-{side}-{source.revision[:7]}"

    def decoded() -> Iterator[np.ndarray]:
        for number, row in enumerate(_rows(name, split)):
            where = f"image {number} of {split} in {source.repository}"
            yield source.decode(io.BytesIO(row[source.image]["bytes"]), where, side)

    def numbers() -> Iterable[int]:
        return _rows(name, split)[source.label]

    pixels = cached_array(key, (count, source.channels, side, side), np.uint8, decoded)
    labels = cached_array(f"{key}-labels", (count,), np.int64, numbers) if source.label else None
    return make_split(f"{source.repository} ({split})", pixels, labels)


def _rows(name: str, split: str) -> Any:
    """Return the rows of a split, a ``datasets.Dataset`` with encoded images, and check their number."""
    source = SOURCES[name]
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{name} is downloaded with Hugging Face datasets; pip install 'flowvae[data]', or give --data "
            f"{source.local}"
        ) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        files = {split: f"{_place(source)}/{source.files[split]}"}
        rows = datasets.load_dataset("parquet", data_files=files, split=split)
        rows = rows.cast_column(source.image, datasets.Image(decode=False))
    except Exception as error:  # datasets, the hub's client and Arrow have many kinds of errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{name} cannot be downloaded from the Hugging Face hub ({reason}); to use local files, give "
            f"--data {source.local}"
        ) from error
    if len(rows) != source.counts[split]:
        raise UserError(
            f"{split} of {source.repository} has {len(rows):,} images, not {source.counts[split]:,}; "
            f"give --data {source.local}"
        )
    return rows


def _place(source: Source) -> str:
    """Return the address of the pinned commit; fails fast, without retries, if the hub is not reachable."""
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(source.repository, timeout=10).sha or ""
    if not commit.startswith(source.revision):  # there are newer ones
        commits = HfApi().list_repo_commits(source.repository, repo_type="dataset")
        hashes = [entry.commit_id for entry in commits if entry.commit_id.startswith(source.revision)]
        if not hashes:
            raise LookupError(f"{source.repository} has no commit {source.revision}")
        commit = hashes[0]
    return f"hf://datasets/{source.repository}@{commit}"
