"""A folder of image files, all of one size.

Either with sub-folders train and test (and valid), or without: then 80 per cent become train and 10 each
valid and test. In each place the images lie directly, or in one sub-folder a class, whose names in
alphabetical order are the labels. Files with other endings are left alone.
"""

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from flowvae.data.dataset import Dataset, Split
from flowvae.data.reading import check_memory, unreadable
from flowvae.data.splits import hold_out, make_dataset, make_split, shuffled, split_at_random
from flowvae.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
VALID_NAMES = ("valid", "val", "validation")
GREY_MODES = {"1", "L", "LA"}
EIGHT_BIT_MODES = GREY_MODES | {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}
MAX_PIXELS = 64 * 2**20
"""The most pixels of one image; a small file can claim far more than memory holds."""


def load(folder: Path) -> Dataset:
    """The images below ``folder``: one channel where all are grey, otherwise RGB without transparency."""
    with warnings.catch_warnings():
        # What is wrong with a file's metadata does not concern its pixels, and what does is an error.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _load(folder)


def _load(folder: Path) -> Dataset:
    if not (folder / "train").is_dir():
        train, valid, test = split_at_random(folder, _read_parts([folder])[0])
        return make_dataset(folder, train, valid, test)
    if not (folder / "test").is_dir():
        raise UserError(f"{folder} has a folder train but no folder test; add it, or use one folder for all")
    valid_folders = [folder / name for name in VALID_NAMES if (folder / name).is_dir()][:1]
    train, test, *held_out = _read_parts([folder / "train", folder / "test", *valid_folders])
    # Files lie sorted by name, often by class: what is held out has to be drawn at random.
    train, valid = (train, held_out[0]) if held_out else hold_out(folder, shuffled(train))
    return make_dataset(folder, train, valid, test)


def _read_parts(folders: list[Path]) -> list[Split]:
    """One split a folder, with channels, image size and classes in common."""
    listings = [_list_images(folder) for folder in folders]
    files = [file for listing in listings for file, _ in listing]
    width, height, channels = _common_form(files)
    check_memory(folders[0], len(files) * channels * height * width)
    classes = sorted({name for listing in listings for _, name in listing if name is not None})
    numbers = {name: number for number, name in enumerate(classes)}
    splits = []
    for folder, listing in zip(folders, listings, strict=True):
        images = np.empty((len(listing), channels, height, width), np.uint8)
        for position, (file, _) in enumerate(listing):
            images[position] = _decode(file, channels)
        labels = [numbers[name] for _, name in listing if name is not None]
        splits.append(make_split(str(folder), images, np.array(labels) if labels else None))
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
            f"{folder} holds no images; put files into it that end in {', '.join(sorted(SUFFIXES))}"
        )
    return [*((file, None) for file in directly), *in_classes]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _common_form(files: list[Path]) -> tuple[int, int, int]:
    """(width, height, channels) of all files, from their headers: nothing is decoded yet."""
    forms = [_read_header(file) for file in files]
    first = forms[0]
    for file, form in zip(files, forms, strict=True):
        if form[:2] != first[:2]:
            raise UserError(
                f"{files[0]} has {first[0]} x {first[1]} pixels but {file} has {form[0]} x {form[1]}; "
                "bring all images to one size"
            )
    return first[0], first[1], max(channels for _, _, channels in forms)


def _read_header(path: Path) -> tuple[int, int, int]:
    with _opened(path) as image:
        if math.prod(image.size) > MAX_PIXELS:
            raise _too_large(path)
        if image.mode not in EIGHT_BIT_MODES:
            raise UserError(f"{path} has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits")
        return *image.size, 1 if image.mode in GREY_MODES else 3


def _decode(path: Path, channels: int) -> np.ndarray:
    """uint8 [C, H, W]"""
    with _opened(path) as image:
        try:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        except Exception as error:  # each of Pillow's formats has errors of its own
            raise unreadable(path, "an image", error) from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(path) from error
    except Exception as error:  # each of Pillow's formats has errors of its own
        raise unreadable(path, "an image", "damaged, or no image at all") from error


def _too_large(path: Path) -> UserError:
    return UserError(f"{path} has more than {MAX_PIXELS / 2**20:g} megapixels; make it smaller or remove it")
