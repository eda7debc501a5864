"""A folder of image files, all of one size, or brought to one.

Either with sub-folders train and test (and valid), or without: then 80 per cent become train and 10 each
valid and test. In each place the images lie directly, or in one sub-folder a class, whose names in
alphabetical order are the labels. Files with other endings are left alone.
"""

from pathlib import Path

import numpy as np

from flowvae.data import images
from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import check_memory, unreadable
from flowvae.data.splits import hold_out, make_dataset, make_split, shuffled, split_at_random
from flowvae.errors import UserError

VALID_NAMES = ("valid", "val", "validation")


def load(folder: Path, image_size: int | None = None) -> Dataset:
    """The images below ``folder``: one channel where all are grey, otherwise RGB without transparency.

    With ``image_size`` the square in the middle of each is resized to that side; without, all must be of one
    size and stay as they are.
    """
    if not (folder / "train").is_dir():
        train, valid, test = split_at_random(folder, _read_parts([folder], image_size)[0])
        return make_dataset(folder, train, valid, test)
    if not (folder / "test").is_dir():
        raise UserError(f"{folder} has a folder train but no folder test; add it, or use one folder for all")
    valid_folders = [folder / name for name in VALID_NAMES if (folder / name).is_dir()][:1]
    train, test, *held_out = _read_parts([folder / "train", folder / "test", *valid_folders], image_size)
    # Files lie sorted by name, often by class: what is held out has to be drawn at random.
    train, valid = (train, held_out[0]) if held_out else hold_out(folder, shuffled(train))
    return make_dataset(folder, train, valid, test)


def _read_parts(folders: list[Path], image_size: int | None) -> list[Split]:
    """One split a folder, with channels, image size and classes in common."""
    listings = [_list_images(folder) for folder in folders]
    files = [file for listing in listings for file, _ in listing]
    width, height, channels = _common_form(files, image_size)
    check_memory(folders[0], len(files) * channels * height * width)
    classes = sorted({name for listing in listings for _, name in listing if name is not None})
    numbers = {name: number for number, name in enumerate(classes)}
    splits = []
    for folder, listing in zip(folders, listings, strict=True):
        pixels = np.empty((len(listing), channels, height, width), np.uint8)
        for position, (file, _) in enumerate(listing):
            pixels[position] = images.decode(file, channels, side=image_size)
        labels = [numbers[name] for _, name in listing if name is not None]
        splits.append(make_split(str(folder), pixels, np.array(labels) if labels else None))
    return splits


def _list_images(folder: Path) -> list[tuple[Path, str | None]]:
    """Image files with their class (None in a folder without classes), sorted by name."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        classes = [entry for entry in entries if entry.is_dir()]
        in_classes = [(file, entry.name) for entry in classes for file in sorted(entry.iterdir())]
    except OSError as error:
        raise unreadable(folder, "a folder of images", error.strerror) from error
    in_classes = [(file, name) for file, name in in_classes if _is_image(file)]
    directly = [entry for entry in entries if _is_image(entry)]
    if directly and in_classes:
        raise UserError(
            f"{folder} holds images ({directly[0].name}) beside folders of images ({in_classes[0][1]}); "
            "put all of them in class folders, or none"
        )
    if not directly and not in_classes:
        raise UserError(
            f"{folder} holds no images; put files into it that end in {', '.join(sorted(images.SUFFIXES))}"
        )
    return [*((file, None) for file in directly), *in_classes]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".") and path.is_file()


def _common_form(files: list[Path], image_size: int | None) -> tuple[int, int, int]:
    """(width, height, channels) of all files, from their headers: nothing is decoded yet."""
    forms = [images.read_header(file) for file in files]
    channels = max(channels for _, _, channels in forms)
    if image_size is not None:
        return image_size, image_size, channels
    first = forms[0]
    for file, form in zip(files, forms, strict=True):
        if form[:2] != first[:2]:
            raise UserError(
                f"{files[0]} has {first[0]} x {first[1]} pixels but {file} has {form[0]} x {form[1]}; "
                "bring all images to one size, as --image-size does"
            )
    return first[0], first[1], channels
