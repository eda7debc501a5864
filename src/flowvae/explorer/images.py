"""Images on their way to the page and back: pictures, the drawing pad's text, uploaded files."""

import base64
import binascii
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowvae.data.images import (
    EIGHT_BIT_MODES,
    MAX_PIXELS,
    flattened,
    most_pixels,
    open_image,
    silent_libtiff,
    turn_upright,
)
from flowvae.errors import UserError

T = TypeVar("T")
PREVIEW = 256
"""largest side of a picture of an upload, in pixels"""


def png(canvas: np.ndarray) -> str:
    """uint8 [height, width, C], C = 1 or 3, as a PNG in a data address."""
    written = io.BytesIO()
    Image.fromarray(canvas.squeeze(2) if canvas.shape[2] == 1 else canvas).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def canvas(images: Tensor, columns: int) -> np.ndarray:
    """Images [N, C, H, W] in [0, 1] row by row, edge to edge; of one channel as ink on paper, 1 is black.

    uint8 [height, width, C]. Places without an image are paper.

    >>> canvas(torch.zeros(5, 1, 8, 8), columns=3).shape
    (16, 24, 1)
    """
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    paper = images.new_full((rows * columns - count, channels, height, width), 0.0 if channels == 1 else 1.0)
    grid = torch.cat([images, paper]).unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    shown = 1 - grid if channels == 1 else grid
    return (shown.clamp(0, 1) * 255).round().byte().numpy()


def to_text(image: Tensor) -> str:
    """An image [C, H, W] in [0, 1] as the drawing pad holds it: base64 of a byte a value, in that order."""
    return base64.b64encode((image.clamp(0, 1) * 255).round().byte().numpy().tobytes()).decode()


def from_text(text: object, shape: tuple[int, int, int], levels: int) -> Tensor:
    """What `to_text` wrote, with as many levels as the model's pixels have.

    Raises:
        UserError: it is something else, or has another size.
    """
    try:
        pixels = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        pixels = b""
    if len(pixels) != math.prod(shape):
        raise UserError("there is no image yet; draw one, upload one, or take a test image")
    values = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).float() / 255
    return (values * (levels - 1)).round().div(levels - 1).view(shape)


def from_file(path: Path, shape: tuple[int, int, int], levels: int) -> Tensor:
    """An uploaded image, [C, H, W] in [0, 1]: turned upright, scaled to fit, centered.

    With one channel, it is ink on paper, whichever of the two is darker: the shade of the border is paper, 0,
    and the contrast is stretched to the full range.

    Raises:
        UserError: if it is empty, not an image, has more than 8 bits per channel, or is larger than what is
            safe to decode.
    """
    channels, height, width = shape

    def fitted(opened: Image.Image) -> Tensor:
        picture = _flattened(opened, channels)
        border = _border_of(picture)
        # As ImageOps.pad does, which leaves no pixel across of an image that is long and thin.
        across = min(width, max(1, round(picture.width / picture.height * height)))
        down = min(height, max(1, round(picture.height / picture.width * width)))
        sheet = Image.new(picture.mode, (width, height), border)
        at = round((width - across) / 2), round((height - down) / 2)
        sheet.paste(picture.resize((across, down), Image.Resampling.BOX), at)
        return _pixels(sheet, levels)

    return _decoded(path, fitted)


def preview(path: Path) -> str:
    """An uploaded image in its own colours, at most PREVIEW pixels wide and high, as a data address.

    Raises:
        UserError: as `from_file`.
    """

    def small(opened: Image.Image) -> str:
        picture = _flattened(opened, 3)
        picture.thumbnail((PREVIEW, PREVIEW))
        return png(np.asarray(picture))

    return _decoded(path, small)


def _decoded(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Apply ``use`` to an image that is safe to decode."""
    if not path.stat().st_size:
        raise UserError("the file is empty; upload a PNG, JPEG, or another image")
    with warnings.catch_warnings(), silent_libtiff():
        warnings.simplefilter("ignore")  # of metadata; sizes are checked here, before anything is decoded
        try:
            with path.open("rb") as file, open_image(file) as opened:
                size, mode, most = opened.size, opened.mode, most_pixels(opened)
                if math.prod(size) <= most and mode in EIGHT_BIT_MODES:
                    return use(opened)
        except Image.DecompressionBombError:
            size, mode, most = None, None, MAX_PIXELS
        except Exception:  # each of Pillow's formats has errors of its own
            raise UserError(
                "the file cannot be read as an image; upload a PNG, JPEG, or another image"
            ) from None
    if mode is not None and mode not in EIGHT_BIT_MODES:
        raise UserError(f"the image has more than 8 bits a pixel (mode {mode}); convert it to 8 bits")
    said = f"{size[0]:,} x {size[1]:,} pixels" if size else "too many pixels"
    raise UserError(f"the image has {said}, more than {most / 2**20:g} megapixels; make it smaller")


def _flattened(picture: Image.Image, channels: int) -> Image.Image:
    """Upright, without transparency, of one or three channels; a JPEG is reduced while it is decoded."""
    picture.draft("L" if channels == 1 else "RGB", (512, 512))
    turn_upright(picture)
    return flattened(picture, channels)


def _border_of(picture: Image.Image) -> int | tuple[int, ...]:
    middle = np.median(_rim(np.asarray(picture)), axis=0)
    return int(middle) if middle.ndim == 0 else tuple(int(value) for value in middle)


def _pixels(picture: Image.Image, levels: int) -> Tensor:
    values = torch.from_numpy(np.array(picture, dtype=np.float32)) / 255
    if values.dim() == 3:
        image = values.permute(2, 0, 1)
    else:
        image = (values - float(np.median(_rim(values.numpy())))).abs().unsqueeze(0)
        image = image / image.max().clamp(min=1e-6) if image.max() > 0.1 else torch.zeros_like(image)
    return (image * (levels - 1)).round() / (levels - 1)


def _rim(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
