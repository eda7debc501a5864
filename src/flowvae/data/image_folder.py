"""A folder of image files, all of one size, or brought to one.

Either with sub-folders train and test (and valid), or without: then a tenth each become valid and test. They
may also be called training, testing, val and validation, in whatever case. In each place the images lie
directly, or in one sub-folder a class, at any depth; the names of the classes in alphabetical order are the
labels. Every page of a file is an image. Files with other endings are left alone.
"""

import os
from pathlib import Path

import numpy as np

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
"""image files, each with its class, or None in a folder without classes"""


def load(folder: Path, sides: images.Sides | None = None, value_range: ValueRange | None = None) -> Dataset:
    """The images below ``folder``: one channel where all are grey, otherwise RGB, on white.

    With ``sides`` (height, width) the middle of each is resized to them; without, all must be of one size and
    stay as they are. The ends of ``value_range`` become 0 and 255.
    """
    parts = _split_folders(folder)
    if not parts:
        return _read(folder, {"all": _list_images(folder)}, sides, value_range, ())
    if "train" not in parts or ("valid" in parts and "test" not in parts):
        there = " and ".join(parts[split].name for split in SPLIT_NAMES if split in parts)
        missing = "test" if "train" in parts else "train"
        raise UserError(f"{folder} has a folder {there} but no folder {missing}; add it")
    notes = _left_out(folder, parts)
    if "test" not in parts:
        notes = (f"there is no folder test: {parts['train'].name} is split at random", *notes)
        return _read(folder, {"all": _list_images(parts["train"])}, sides, value_range, notes)
    listings = {split: _list_images(path) for split, path in parts.items()}
    return _read(folder, listings, sides, value_range, notes)


def _read(
    folder: Path,
    listings: dict[str, Listing],
    sides: images.Sides | None,
    value_range: ValueRange | None,
    notes: tuple[str, ...],
) -> Dataset:
    """The files of each split, or of "all" images, with channels, image size and classes in common."""
    files = [file for listing in listings.values() for file, _ in listing]
    width, height, channels, pages = _common_form(files, sides, value_range)
    check_memory(folder, sum(pages.values()) * channels * height * width)
    classes = sorted({name for listing in listings.values() for _, name in listing if name is not None})
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    splits = {}
    for split, listing in listings.items():
        pixels = np.empty((sum(pages[file] for file, _ in listing), channels, height, width), np.uint8)
        labels = []
        for file, name in listing:
            for page in images.decode_pages(file, channels, sides, value_range):
                pixels[len(labels)] = page
                labels.append(numbers.get(name))
        splits[split] = make_split(str(folder), pixels, None if None in labels else np.array(labels))
    if several := [file for file in files if pages[file] > 1]:
        notes = (f"{several[0].name} has {pages[several[0]]} pages or frames; each is an image", *notes)
    if "all" in splits:
        train, valid, test = split_at_random(folder, splits["all"])
    elif "valid" in splits:
        train, valid, test = splits["train"], splits["valid"], splits["test"]
    else:  # files lie sorted by name, often by class: what is held out has to be drawn at random
        train, valid = hold_out(folder, shuffled(splits["train"]))
        test = splits["test"]
    return make_dataset(folder, train, valid, test, classes=tuple(classes), notes=notes)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden, sorted by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, "a folder of images", error.strerror) from error


def _split_folders(folder: Path) -> dict[str, Path]:
    """The sub-folders that are called as splits are."""
    parts: dict[str, Path] = {}
    for entry in _entries(folder):
        split = split_called(entry.name)
        if split is None or not entry.is_dir():
            continue
        if split in parts:
            raise UserError(
                f"{folder} has the folders {parts[split].name} and {entry.name}, which mean the same split; "
                "put the images into one"
            )
        parts[split] = entry
    return {split: parts[split] for split in SPLIT_NAMES if split in parts}


def _left_out(folder: Path, parts: dict[str, Path]) -> tuple[str, ...]:
    """A line on what lies beside the folders of splits, where that could be images."""
    beside = [
        entry.name
        for entry in _entries(folder)
        if entry not in parts.values() and (entry.is_dir() or _is_image(entry))
    ]
    return (f"left out beside the splits: {_few(beside)}",) if beside else ()


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def _list_images(folder: Path) -> Listing:
    """Image files, sorted by name, in folders of classes also those further down."""
    entries = _entries(folder)
    directly = [entry for entry in entries if _is_image(entry)]
    in_classes = [(file, entry.name) for entry in entries if entry.is_dir() for file in _files_below(entry)]
    if directly and in_classes:
        raise UserError(
            f"{folder} holds images ({directly[0].name}) beside folders of images ({in_classes[0][1]}); "
            "put all of them in class folders, or none"
        )
    if not directly and not in_classes:
        raise UserError(
            f"{folder} holds no images; put files into it that end in {', '.join(sorted(images.SUFFIXES))}"
        )
    for file, _ in in_classes:
        inside = file.relative_to(folder).parts[1:-1]
        if split := next((part for part in inside if split_called(part)), None):
            above = folder.joinpath(*file.relative_to(folder).parts[: 1 + inside.index(split)])
            raise UserError(
                f"{folder} has the folder {split} below {above.relative_to(folder)}; give {above}, or put "
                "the folders of splits at the top"
            )
    return [*((file, None) for file in directly), *in_classes]


def _files_below(folder: Path) -> list[Path]:
    """Image files at any depth, sorted; links to folders are not followed further down."""

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename, "a folder of images", error.strerror)

    found = []
    for place, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [file for name in names if _is_image(file := Path(place, name))]
    return sorted(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".") and path.is_file()


def _common_form(
    files: list[Path], sides: images.Sides | None, value_range: ValueRange | None
) -> tuple[int, int, int, dict[Path, int]]:
    """(width, height, channels, number of pages by file) of all files: pixels are not decoded yet."""
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
                    "bring all images to one size, as --image-size does"
                )
    return first[0], first[1], channels, counts
