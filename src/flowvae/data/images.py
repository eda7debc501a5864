"""One image file to pixels: checked, cropped, brought to a size."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from flowvae.data.reading import unreadable
from flowvae.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""what is read, whatever a file is called; others Pillow hands to programs, such as EPS to Ghostscript"""
GREY_MODES = {"1", "L", "LA"}
EIGHT_BIT_MODES = GREY_MODES | {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}
LYING = {5, 6, 7, 8}
"""The orientations of EXIF in which width and height change places."""
MAX_PIXELS = 64 * 2**20
"""The most pixels of one image; a small file can claim far more than memory holds."""
MAX_METADATA = 2**16
"""the most bytes of EXIF data, which are what fits into one segment of a JPEG"""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what is wrong is said by the error, and once

Box = tuple[int, int, int, int]
"""left, top, right, bottom"""


def centred_square(width: int, height: int) -> Box:
    """The largest square in the middle.

    >>> centred_square(178, 218)
    (0, 20, 178, 198)
    """
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def read_headers(file: Path) -> list[tuple[int, int, int]]:
    """(width, height, channels) of every page or frame once upright: 1 channel where it is grey, otherwise 3.

    Nothing is decoded but a PNG, in which the orientation may follow the pixels, and the frames of an
    animation before the last.
    """
    headers = []
    with _opened(file, file) as image:
        for page in _pages(image, file):
            width, height = page.size
            # Pillow gives the sides of a TIFF as they are once it is upright.
            if page.format != "TIFF" and _orientation(page) in LYING:
                width, height = height, width
            headers.append((width, height, 1 if page.mode in GREY_MODES else 3))
    return headers


def decode(
    file: Path | IO[bytes],
    channels: int,
    *,
    where: object = None,
    size: tuple[int, int] | None = None,
    box: Box | None = None,
    side: int | None = None,
) -> np.ndarray:
    """The pixels of the upright image, uint8 [C, H, W]: grey where ``channels`` is 1, opaque RGB if 3.

    What is transparent shows white (see `opaque`). Of several pages the first is decoded.

    Args:
        file: a path or an open file.
        channels: 1 or 3.
        where: names the image in errors; the path by default.
        size: (width, height) that it must have.
        box: what is cut out, before anything else.
        side: the side of the square that the rest is resized to, where it is not that already. A rest that
            is no square is cut to the one in its middle. The filter is Pillow's bilinear one, which averages
            over the area that becomes one pixel.
    """
    where = where or file
    with _opened(file, where) as image:
        if size is not None and image.size != size:
            raise UserError(
                f"{where} has {_sides(image.size)} pixels, not {_sides(size)}; get the published file"
            )
        with _readable(where):
            turn_upright(image)
            return _as_array(image, channels, box, side)


def decode_pages(file: Path, channels: int, side: int | None = None) -> Iterator[np.ndarray]:
    """Every page or frame of a file, each as `decode` has it."""
    with _opened(file, file) as image:
        for page in _pages(image, file):
            with _readable(file):
                # A copy: to turn the file's own image would move its later pages.
                upright = page.copy() if getattr(page, "n_frames", 1) > 1 else page
                turn_upright(upright)
                pixels = _as_array(upright, channels, None, side)
            yield pixels


def opaque(image: Image.Image) -> Image.Image:
    """The image on white: what is transparent has colours that nobody has seen."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _as_array(image: Image.Image, channels: int, box: Box | None, side: int | None) -> np.ndarray:
    pixels = opaque(image).convert("L" if channels == 1 else "RGB")
    if box is not None:
        pixels = pixels.crop(box)
    if side is not None and pixels.size != (side, side):
        pixels = pixels.resize((side, side), Image.Resampling.BILINEAR, box=centred_square(*pixels.size))
    array = np.asarray(pixels)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


@contextmanager
def _readable(where: object) -> Iterator[None]:
    """Errors of Pillow inside are those of the file."""
    try:
        yield
    except Exception as error:  # each of Pillow's formats has errors of its own
        raise unreadable(where, "an image", error) from error


def _pages(image: Image.Image, where: object) -> Iterator[Image.Image]:
    """The same image at every page or frame, one after the other, each checked as the first was."""
    with _readable(where):
        count = getattr(image, "n_frames", 1)
    for number in range(count):
        if number:
            with _readable(where):
                image.seek(number)
            _check_form(image, where)
        yield image


def open_image(file: IO[bytes]) -> Image.Image:
    """Pillow's image of a file of one of FORMATS, not decoded yet."""
    return Image.open(_Rationed(file), formats=FORMATS)  # pyright: ignore[reportArgumentType]


class _Rationed:
    """A file that can be read four times over and no more, and that has one part of EXIF data.

    Pillow keeps a copy of what every tag of a TIFF file or of EXIF data points to, and thousands of tags can
    point to the same bytes: a megabyte would become gigabytes. EXIF data is joined from any number of parts.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self._left = 4 * file.seek(0, os.SEEK_END) + 2**16  # more than a tiny file has is asked for, too
        self._parts = 0
        file.seek(0)

    def read(self, count: int = -1, /) -> bytes:
        data = self._file.read(count)
        self._left -= len(data)
        self._parts += data.startswith(b"Exif\0\0")
        if self._left < 0 or self._parts > 1:
            raise ValueError("its metadata is larger than the file")
        return data


def turn_upright(image: Image.Image) -> None:
    """In place, as a camera notes it beside the pixels."""
    if _orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)


def _orientation(image: Image.Image) -> int:
    """As EXIF numbers them; 1, which is upright, where nothing is noted that can be read."""
    metadata = image.info.get("exif") or image.info.get("Raw profile type exif", "")
    if len(metadata) > MAX_METADATA:
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # what is wrong with a file's metadata does not concern its pixels
        return 1


@contextmanager
def _opened(file: Path | IO[bytes], where: object) -> Iterator[Image.Image]:
    with warnings.catch_warnings(), ExitStack() as stack:
        # What is wrong with a file's metadata does not concern its pixels, and what does is an error.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = open_image(stack.enter_context(file.open("rb")) if isinstance(file, Path) else file)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large(where) from error
        except Exception as error:  # each of Pillow's formats has errors of its own
            raise unreadable(where, "an image", "damaged, or no image at all") from error
        with image:
            _check_form(image, where)
            yield image


def _check_form(image: Image.Image, where: object) -> None:
    if math.prod(image.size) > MAX_PIXELS:
        raise _too_large(where)
    if image.mode not in EIGHT_BIT_MODES:
        raise UserError(f"{where} has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits")


def _too_large(where: object) -> UserError:
    return UserError(f"{where} has more than {MAX_PIXELS / 2**20:g} megapixels; make it smaller or remove it")


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
