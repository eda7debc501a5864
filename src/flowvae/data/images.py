"""Image files to pixels: checked, cropped and resized."""

import ctypes
import functools
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from flowvae.config import Marker
from flowvae.data.arrays import AT_ONCE, ValueRange, are_marked, to_255
from flowvae.data.reading import open_file, unreadable
from flowvae.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""formats that are read, whatever the name of a file; for some others Pillow starts programs (Ghostscript)"""
GREY_MODES = {"1", "L", "LA"}
EIGHT_BIT_MODES = GREY_MODES | {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"}
DEEP_MODES = {"I;16", "I;16B", "I;16L", "I", "F"}
DEEP_COLOUR = "more than 8 bits"
"""key of an image's ``info`` that marks colour with more than 8 bits per channel, of which Pillow keeps 8"""
LYING = {5, 6, 7, 8}
"""orientations of EXIF in which width and height are swapped"""
MAX_PIXELS = 64 * 2**20
"""largest number of pixels of one image; a small file can claim more than fits in memory"""
ANIMATED = {"GIF", "WEBP"}
"""formats of which Pillow keeps four copies while it decodes, as of an animated PNG; they may have half as
many pixels"""
MAX_COMPRESSED = 10_000
"""largest number of compressed pages of a TIFF file; libtiff looks for each from the first on"""
MAX_METADATA = 2**16
"""largest number of bytes of EXIF data, which fit into one segment of a JPEG"""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # errors report what is wrong, once

Box = tuple[int, int, int, int]
"""left, top, right, bottom"""
Sides = tuple[int, int]
"""height, width"""


def centred(width: int, height: int, sides: Sides) -> Box:
    """Return the largest centred box with the proportions of ``sides``.

    >>> centred(178, 218, (64, 64)), centred(178, 218, (28, 44))
    ((0, 20, 178, 198), (0, 52, 178, 165))
    """
    tall, wide = sides
    inner_width = min(width, max(1, height * wide // tall))
    inner_height = min(height, max(1, width * tall // wide))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def read_headers(file: Path, value_range: ValueRange | None = None) -> list[tuple[int, int, int]]:
    """Return (width, height, channels) of every page or frame, upright: 1 channel if it is grey, otherwise 3.

    Only a PNG, in which the orientation may follow the pixels, and the frames of an animation before the
    last are decoded.
    """
    headers = []
    with _opened(file, file, value_range) as (image, source):
        for page in _pages(image, source, file, value_range):
            width, height = page.size
            # Pillow returns the sides of a TIFF as if it were upright.
            if page.format != "TIFF" and _orientation(page) in LYING:
                width, height = height, width
            headers.append((width, height, 1 if page.mode in GREY_MODES | DEEP_MODES else 3))
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
    """Decode the upright image, uint8 [C, H, W]: grey if ``channels`` is 1, opaque RGB if 3.

    Transparent pixels are composited on white (see `opaque`). Only the first of several pages is decoded.

    Args:
        file: a path or an open file.
        channels: 1 or 3.
        where: names the image in errors; the path by default.
        size: (width, height) that it must have.
        box: part that is cropped first.
        side: side of the square that the crop is resized to, from the centred square in it. The filter is
            Pillow's bilinear one, which averages over the area that becomes one pixel.
    """
    where = where or file
    with _opened(file, where) as (image, _):
        if size is not None and image.size != size:
            raise UserError(
                f"{where} has {_sides(image.size)} pixels, not {_sides(size)}; get the published file"
            )
        with _readable(where):
            turn_upright(image)
            part = image if box is None else image.crop(box)
            return _as_array(_resized(flattened(part, channels), None if side is None else (side, side)))


def decode_pages(
    file: Path,
    channels: int,
    sides: Sides | None = None,
    value_range: ValueRange | None = None,
    marker: Marker | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every page or frame of a file, decoded as by `decode`, and which pixels are known.

    The latter is bool [1, H, W]. Pixels that are not known are 0.

    Args:
        file: the path.
        channels: 1 or 3.
        sides: (height, width) to resize to. A resized pixel is known if all pixels that it averages are.
        value_range: values that become 0 and 255; with it, pixels may have more than 8 bits.
        marker: what marks missing pixels: pixels that are not fully opaque, or have a value before scaling.
    """
    with _opened(file, file, value_range) as (image, source):
        for page in _pages(image, source, file, value_range):
            with _readable(file):
                # A copy: turning the file's own image would affect its later pages.
                turned = getattr(page, "n_frames", 1) > 1 and _orientation(page) != 1
                upright = page.copy() if turned else page
                turn_upright(upright)
                if value_range is None or upright.info[DEEP_COLOUR]:
                    pixels = _as_array(_resized(flattened(upright, channels), sides))
                else:
                    layers = (
                        _resized(_scaled(upright, file, channels, number, value_range, marker), sides)
                        for number in range(channels)
                    )
                    pixels = np.concatenate([_as_array(layer) for layer in layers])
                if marker is None:
                    known = np.ones((1, *pixels.shape[1:]), np.bool_)
                else:
                    known = _are_known(upright, marker, sides)
            yield pixels * known, known


def _are_known(image: Image.Image, marker: Marker, sides: Sides | None) -> np.ndarray:
    """Return which pixels of the image resized average no missing one, bool [1, H, W]."""

    def missing(tile: Image.Image) -> Image.Image:
        return Image.fromarray(_are_marked(tile, marker).astype(np.float32))

    share = _resized(_converted(image, "F", missing), sides)
    return _as_array(share, np.ceil) == 0


def _are_marked(image: Image.Image, marker: Marker | None) -> np.ndarray:
    """Return which pixels are missing, bool [H, W]."""
    if marker is None or (marker == "alpha" and not image.has_transparency_data):
        return np.zeros(image.size[::-1], bool)
    if marker == "alpha":
        return np.asarray(image.convert("RGBA").getchannel("A")) < 255
    if image.mode in EIGHT_BIT_MODES:
        image = opaque(image).convert("L" if image.mode in GREY_MODES else "RGB")
    values = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    return np.any(are_marked(values[None], marker), (0, 1))


def opaque(image: Image.Image) -> Image.Image:
    """Composite the image on white: the colours of transparent pixels are arbitrary."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def flattened(image: Image.Image, channels: int) -> Image.Image:
    """Return the image without transparency: grey if ``channels`` is 1, RGB if 3."""
    mode = "L" if channels == 1 else "RGB"
    return _converted(image, mode, lambda tile: opaque(tile).convert(mode))


def _scaled(
    image: Image.Image,
    where: object,
    channels: int,
    number: int,
    value_range: ValueRange,
    marker: Marker | None,
) -> Image.Image:
    """Return one of the channels with any number of bits, scaled; missing pixels may have any value."""

    def scale(tile: Image.Image) -> Image.Image:
        band = flattened(tile, channels).getchannel(number) if tile.mode in EIGHT_BIT_MODES else tile
        known = np.where(_are_marked(tile, marker), value_range[0], np.asarray(band))
        return Image.fromarray(to_255(where, known, value_range).astype(np.float32))

    return _converted(image, "F", scale)


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield parts of the image, each with its left and top: several copies of all could be gigabytes."""
    width, height = image.size
    if width * height <= AT_ONCE:
        yield 0, 0, image
        return
    wide, tall = min(width, AT_ONCE), max(1, AT_ONCE // width)
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            yield left, top, image.crop((left, top, min(left + wide, width), min(top + tall, height)))


def _converted(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return the image with every part converted."""
    image.load()  # before there is more in memory
    result = Image.new(mode, image.size)
    for left, top, tile in _tiles(image):
        result.paste(convert(tile), (left, top))
    return result


def _as_array(image: Image.Image, whole: np.ufunc = np.rint) -> np.ndarray:
    """Return uint8 [C, H, W]; numbers that are not whole become so, by default the nearest."""
    result = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for left, top, tile in _tiles(image):
        part = np.s_[top : top + tile.height, left : left + tile.width]
        values = np.atleast_3d(np.asarray(tile))
        result[part] = whole(values) if tile.mode == "F" else values
    return result.transpose(2, 0, 1)


def _resized(image: Image.Image, sides: Sides | None) -> Image.Image:
    if sides is None or image.size == (sides[1], sides[0]):
        return image
    return image.resize((sides[1], sides[0]), Image.Resampling.BILINEAR, box=centred(*image.size, sides))


@contextmanager
def _readable(where: object) -> Iterator[None]:
    """Turn errors of Pillow into those of the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each of Pillow's formats has errors of its own
        raise unreadable(where, "an image", error) from error


def _pages(
    image: Image.Image, source: "_Rationed", where: object, value_range: ValueRange | None
) -> Iterator[Image.Image]:
    """Yield the same image at every page or frame in turn, each checked like the first."""
    with _readable(where):
        # The other images in the JPEG file of a camera, an MPO, are previews or other views of the first.
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    for number in range(count):
        source.renew()
        if number:
            with _readable(where):
                image.seek(number)
            if number >= MAX_COMPRESSED and any(tile[0] == "libtiff" for tile in getattr(image, "tile", ())):
                raise UserError(
                    f"{where} has more than {MAX_COMPRESSED:,} compressed pages; make several files of it"
                )
            _check_form(image, where, value_range)
        yield image


@functools.cache
def _handlers() -> tuple[Callable[[int | None], int | None], ...]:
    """Return libtiff's functions that set, and return, what prints its errors and warnings."""
    library = ctypes.CDLL(Image.core.__file__)
    try:
        setters = library.TIFFSetErrorHandler, library.TIFFSetWarningHandler
    except AttributeError:  # Pillow was built without it, or with it inside
        return ()
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return setters


@contextmanager
def silent_libtiff() -> Iterator[None]:
    """Keep libtiff from printing errors, which Pillow raises as well, and warnings."""
    before = [(setter, setter(None)) for setter in _handlers()]
    try:
        yield
    finally:
        for setter, handler in before:
            if handler:  # otherwise another thread has it, and restores it
                setter(handler)


def open_image(file: IO[bytes]) -> Image.Image:
    """Open a file of one of FORMATS with Pillow, without decoding it."""
    return _open_rationed(_Rationed(file))


def _open_rationed(source: "_Rationed") -> Image.Image:
    return Image.open(source, formats=FORMATS)  # pyright: ignore[reportArgumentType]


class _Rationed:
    """A file that can be read at most four times over for a page, with at most one part of EXIF data.

    Pillow keeps a copy of what every tag of a TIFF file or of EXIF data points to, and thousands of tags can
    point to the same bytes: a megabyte would become gigabytes. EXIF data is joined from any number of parts.
    It keeps those of one page at a time, and reads those of all once to count the pages, as if of one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
            self.fileno = file.fileno  # without it, Pillow copies the whole file for each compressed page
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.renew()

    def renew(self) -> None:
        """Grant what one page may take."""
        self._left = 4 * self._size + 2**16  # Pillow also asks for more than a tiny file has
        self._parts = 0

    def read(self, count: int = -1, /) -> bytes:
        data = self._file.read(count)
        self._left -= len(data)
        self._parts += data.startswith(b"Exif\0\0")
        if self._left < 0 or self._parts > 1:
            raise ValueError("its metadata is larger than the file")
        return data


def turn_upright(image: Image.Image) -> None:
    """Turn the image upright in place, by the orientation in its metadata."""
    if _orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)


def _orientation(image: Image.Image) -> int:
    """Return the orientation as in EXIF; 1, which is upright, if there is none that can be read."""
    metadata = image.info.get("exif") or image.info.get("Raw profile type exif", "")
    if len(metadata) > MAX_METADATA:
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata does not matter to the pixels
        return 1


@contextmanager
def _opened(
    file: Path | IO[bytes], where: object, value_range: ValueRange | None = None
) -> Iterator[tuple[Image.Image, _Rationed]]:
    """Open an image, checked, with the file that Pillow reads it from."""
    with warnings.catch_warnings(), silent_libtiff(), ExitStack() as stack:
        # Damaged metadata does not matter to the pixels, and damaged pixels are an error.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            source = _Rationed(stack.enter_context(open_file(file)) if isinstance(file, Path) else file)
            image = _open_rationed(source)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large(where) from error
        except Exception as error:  # each of Pillow's formats has errors of its own
            raise unreadable(where, "an image", "damaged, or not an image") from error
        with image:
            _check_form(image, where, value_range)
            yield image, source


def _largest_of_colour(image: Image.Image) -> int:
    """Return the largest value that colours have in the file, of an image that is not decoded yet."""
    codings = [tile[3] for tile in getattr(image, "tile", ())]
    if image.format in ("PNG", "TIFF"):
        return 65535 if any(";16" in str(coding) for coding in codings) else 255
    if image.format == "PPM":  # mode and largest value, which becomes 255; the mode alone if it is 255
        return max((coding[1] for coding in codings if isinstance(coding, tuple)), default=255)
    return 255


def _check_form(image: Image.Image, where: object, value_range: ValueRange | None) -> None:
    if math.prod(image.size) > most_pixels(image):
        raise _too_large(where, most_pixels(image))
    largest = _largest_of_colour(image) if image.mode in EIGHT_BIT_MODES else 255
    image.info[DEEP_COLOUR] = largest > 255
    if image.info[DEEP_COLOUR]:
        if value_range != (0, largest):
            raise UserError(
                f"{where} has {largest.bit_length()} bits per channel, of which only the upper 8 can be "
                f"read; give --value-range 0 {largest} to read them, or convert it to 8 bits"
            )
    elif image.mode not in EIGHT_BIT_MODES and (value_range is None or image.mode not in DEEP_MODES):
        said = f"{where} has more than 8 bits per pixel (mode {image.mode}"
        if image.mode not in DEEP_MODES:
            raise UserError(f"{said}); convert it to 8 bits")
        with _readable(where):
            largest = image.getextrema()[1]
        raise UserError(
            f"{said}, values up to {largest:g}); convert it to 8 bits, or give the darkest and the brightest "
            "value of the whole set, such as --value-range 0 65535"
        )


def most_pixels(image: Image.Image) -> int:
    """Return the largest number of pixels of an image of its format."""
    several = image.format in ANIMATED or (image.format == "PNG" and getattr(image, "is_animated", False))
    return MAX_PIXELS // 2 if several else MAX_PIXELS


def _too_large(where: object, most: int = MAX_PIXELS) -> UserError:
    return UserError(f"{where} has more than {most / 2**20:g} megapixels; make it smaller or remove it")


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
