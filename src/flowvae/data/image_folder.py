"""Directories of image files, all of one size or resized to one.

The subdirectories train and test, optionally valid, are the splits; their names may also be training,
testing, val and validation, in any case. Without them, a tenth each becomes valid and test. Each contains the
images, or one subdirectory per class with images at any depth; the alphabetical order of the classes numbers
the labels. Every page of a file is an image. Files with other suffixes are ignored.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np

from flowvae.config import Marker
from flowvae.data import images
from flowvae.data.arrays import ValueRange
from flowvae.data.dataset import Dataset
from flowvae.data.reading import check_memory, unreadable
from flowvae.data.splits import (
    SPLIT_NAMES,
    hold_out,
    make_dataset,
    make_split,
    shuffled,
    split_at_random,
    split_called,
)
from flowvae.errors import UserError

Listing = list[tuple[Path, str | None]]
"""image files, each with its class; None in a directory without classes"""


def load(
    directory: Path,
    sides: images.Sides | None = None,
    value_range: ValueRange | None = None,
    marker: Marker | None = None,
) -> Dataset:
    """Read the images below ``directory``: one channel if all are grey, otherwise RGB, on white.

    With ``sides`` (height, width) the middle of each is resized to them; without, all must have one size. The
    ends of ``value_range`` become 0 and 255. Pixels with ``marker`` are missing.
    """
    read = partial(_read, directory, sides=sides, value_range=value_range, marker=marker)
    parts = _split_directories(directory)
    if not parts:
        return read({"all": _list_images(directory)})
    if "train" not in parts or ("valid" in parts and "test" not in parts):
        there = " and ".join(parts[split].name for split in SPLIT_NAMES if split in parts)
        missing = "test" if "train" in parts else "train"
        raise UserError(f"{directory} has a directory {there} but no directory {missing}; add it")
    notes = _left_out(directory, parts)
    if "test" not in parts:
        notes = (f"there is no directory test; {parts['train'].name} is split at random", *notes)
        return read({"all": _list_images(parts["train"])}, notes)
    listings = {split: _list_images(path) for split, path in parts.items()}
    return read(listings, notes)


def _read(
    directory: Path,
    listings: dict[str, Listing],
    notes: tuple[str, ...] = (),
    *,
    sides: images.Sides | None,
    value_range: ValueRange | None,
    marker: Marker | None,
) -> Dataset:
    """Read the files of each split, or of "all" images, with channels, image size and classes in common."""
    files = [file for listing in listings.values() for file, _ in listing]
    width, height, channels, pages = _common_form(files, sides, value_range)
    check_memory(directory, sum(pages.values()) * (channels + (marker is not None)) * height * width)
    classes = sorted({name for listing in listings.values() for _, name in listing if name is not None})
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    splits = {}
    for split, listing in listings.items():
        pixels = np.empty((sum(pages[file] for file, _ in listing), channels, height, width), np.uint8)
        observed = None if marker is None else np.empty((len(pixels), 1, height, width), np.bool_)
        labels = []
        for file, name in listing:
            for page, known in images.decode_pages(file, channels, sides, value_range, marker):
                if not known.any():
                    raise UserError(f"{file} has no known pixel; leave it out")
                pixels[len(labels)] = page
                if observed is not None:
                    observed[len(labels)] = known
                labels.append(numbers.get(name))
        of_classes = None if None in labels else np.array(labels)
        splits[split] = make_split(str(directory), pixels, of_classes, observed)
    if several := [file for file in files if pages[file] > 1]:
        notes = (f"{several[0].name} has {pages[several[0]]} pages or frames; each is an image", *notes)
    if "all" in splits:
        train, valid, test = split_at_random(directory, splits["all"])
    elif "valid" in splits:
        train, valid, test = splits["train"], splits["valid"], splits["test"]
    else:  # files are sorted by name, often by class, so those held out are drawn at random
        train, valid = hold_out(directory, shuffled(splits["train"]))
        test = splits["test"]
    return make_dataset(directory, train, valid, test, classes=tuple(classes), notes=notes)


def _entries(directory: Path) -> list[Path]:
    """List the entries of a directory that are not hidden, sorted by name."""
    try:
        return sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(directory, "a directory of images", error.strerror) from error


def _split_directories(directory: Path) -> dict[str, Path]:
    """Return the subdirectories that are named like splits."""
    parts: dict[str, Path] = {}
    for entry in _entries(directory):
        split = split_called(entry.name)
        if split is None or not entry.is_dir():
            continue
        if split in parts:
            raise UserError(
                f"{directory} has the directories {parts[split].name} and {entry.name}, which name the same "
                "split; move the images into one"
            )
        parts[split] = entry
    return {split: parts[split] for split in SPLIT_NAMES if split in parts}


def _left_out(directory: Path, parts: dict[str, Path]) -> tuple[str, ...]:
    """Return a line on other entries beside the splits that could be images."""
    beside = [
        entry.name
        for entry in _entries(directory)
        if entry not in parts.values() and (entry.is_dir() or _is_image(entry))
    ]
    return (f"left out beside the splits: {_few(beside)}",) if beside else ()


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def files_below(directory: Path, splits: bool = True) -> list[Path]:
    """List all image files below a directory, sorted; links are followed where `load` does.

    These are links to splits and classes. ``splits``: whether subdirectories may be splits, in which the
    classes are one level further down.
    """
    found = []
    for entry in _entries(directory):
        if _is_image(entry):
            found.append(entry)
        elif entry.is_dir():
            of_classes = splits and split_called(entry.name) is not None
            found += files_below(entry, splits=False) if of_classes else _files_below(entry)
    return sorted(found)


def _list_images(directory: Path) -> Listing:
    """List image files, sorted by name; those of a class at any depth."""
    entries = _entries(directory)
    directly = [entry for entry in entries if _is_image(entry)]
    in_classes = [(file, entry.name) for entry in entries if entry.is_dir() for file in _files_below(entry)]
    if directly and in_classes:
        raise UserError(
            f"{directory} has images ({directly[0].name}) beside directories of images ({in_classes[0][1]}); "
            "put all of them into class directories, or none"
        )
    if not directly and not in_classes:
        raise UserError(
            f"{directory} contains no images; add files that end in {', '.join(sorted(images.SUFFIXES))}"
        )
    for file, _ in in_classes:
        inside = file.relative_to(directory).parts[1:-1]
        if split := next((part for part in inside if split_called(part)), None):
            above = directory.joinpath(*file.relative_to(directory).parts[: 1 + inside.index(split)])
            raise UserError(
                f"{directory} has the directory {split} below {above.relative_to(directory)}; give {above}, "
                "or put the directories of splits at the top"
            )
    return [*((file, None) for file in directly), *in_classes]


def _files_below(directory: Path) -> list[Path]:
    """List image files at any depth, sorted; links to directories are not followed further down."""

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename, "a directory of images", error.strerror)

    found = []
    for place, below, names in os.walk(directory, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [file for name in names if _is_image(file := Path(place, name))]
    return sorted(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".") and path.is_file()


def _common_form(
    files: list[Path], sides: images.Sides | None, value_range: ValueRange | None
) -> tuple[int, int, int, dict[Path, int]]:
    """Return (width, height, channels, number of pages by file) of all files, without decoding pixels."""
    forms = {file: images.read_headers(file, value_range) for file in files}
    channels = max(page[2] for pages in forms.values() for page in pages)
    counts = {file: len(pages) for file, pages in forms.items()}
    if sides is not None:
        return sides[1], sides[0], channels, counts
    first = forms[files[0]][0]
    for file, pages in forms.items():
        for page in pages:
            if page[:2] != first[:2]:
                raise UserError(
                    f"{files[0]} has {first[0]} x {first[1]} pixels but {file} has {page[0]} x {page[1]}; "
                    "resize all images to one size by --image-size"
                )
    return first[0], first[1], channels, counts
