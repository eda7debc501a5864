"""Arrays of numbers as images and labels: accepted forms, and lossless conversion to 8 bits."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flowvae.config import Marker
from flowvae.data.reading import check_memory
from flowvae.errors import UserError

ValueRange = tuple[float, float]
"""values of a source that become 0 and 255"""
NUMBERS = "biuf"
"""kinds of NumPy types"""
AT_ONCE = 2**22
"""number of values that are converted at a time"""
ROUNDING = {2: 0.13, 4: 1e-3, 8: 1e-3}
"""largest distance of 255 x from a whole number where x is k / 255, by the number of bytes of x"""


def as_images(path: Path, where: str, array: np.ndarray) -> np.ndarray:
    """Return [N, C, H, W] of the same type from an array of one of these forms:

    - [N, H, W], [N, C, H, W] or [N, H, W, C], with C = 1 or 3
    - [N, side * side]: flat square images
    - [N, ceil(side * side / 8)]: the same, binary, packed eight pixels to a byte by ``np.packbits(axis=1)``,
      which become uint8
    """
    if array.ndim == 2:
        return _unflatten(path, where, array)
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    raise UserError(
        f"{where} has shape {array.shape}; give [N, H, W], or [N, C, H, W] or [N, H, W, C] with C = 1 or 3, "
        "or flat or packed square images"
    )


def as_observed(path: Path, where: str, mask: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return which pixels of ``images`` [N, C, H, W] are known, bool of the same shape or [N, 1, H, W].

    ``mask``: zeros and ones of any type, in a form of `as_images`; one channel may stand for all.

    Raises:
        UserError: if it has other values, or does not fit the images.
    """
    if mask.dtype != np.uint8:  # which may be packed bits
        mask = _converted(mask, lambda part: np.where((part == 0) | (part == 1), part, 2))
    known = as_images(path, where, mask)
    if known.max(initial=0) > 1:
        raise UserError(f"{where} has values other than 0 and 1; save True where a pixel is known")
    if known.shape not in (images.shape, (len(images), 1, *images.shape[2:])):
        raise UserError(
            f"{where} has shape {mask.shape}, which does not fit the {len(images)} images of shape "
            f"{images.shape[1:]} (channels, height, width); give one value per pixel"
        )
    return known.view(np.bool_)


def are_marked(images: np.ndarray, marker: Marker) -> np.ndarray:
    """Return which of the pixels [N, C, H, W] are marked as missing, bool [N, C, H, W] or [N, 1, H, W].

    NaN is one channel of a pixel; a value is that of all its channels. No array is transparent.

    >>> are_marked(np.array([[[[7, 8]], [[7, 7]], [[7, 7]]]]), (7.0,)).tolist()
    [[[[True, False]]]]
    """
    if marker == "alpha":
        return np.zeros((len(images), 1, *images.shape[2:]), bool)
    if marker == "nan":
        return np.isnan(images)
    return (images == np.array(marker).reshape(-1, 1, 1)).all(1, keepdims=True)


def covered(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return images [N, C, H, W] with a known value in place of all values that are not known."""
    if not images.size:
        return images
    first = np.broadcast_to(known, images.shape).argmax()
    return np.where(known, images, images.flat[first] if known.any() else 0)


def can_be_images(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is most likely images: of a form of `as_images` that is not flat."""
    return len(shape) == 3 or (len(shape) == 4 and (shape[1] in (1, 3) or shape[3] in (1, 3)))


def _unflatten(path: Path, where: str, array: np.ndarray) -> np.ndarray:
    """[N, 1, side, side] from [N, side * side] pixels or [N, ceil(side * side / 8)] packed bytes.

    A few lengths fit two forms (25 bytes: 5 x 5 pixels, or 14 x 14 bits) and are refused.
    """
    count, length = array.shape
    flat_sides = [math.isqrt(length)] if math.isqrt(length) ** 2 == length else []
    largest = math.isqrt(8 * length)
    packed_sides = [side for side in (largest - 1, largest) if math.ceil(side * side / 8) == length]
    if len(flat_sides + packed_sides) != 1:
        fitting = "more than one" if flat_sides + packed_sides else "no"
        raise UserError(
            f"{where} has rows of {length} bytes, which fit {fitting} square image, flat or packed; "
            "give [N, H, W]"
        )
    if flat_sides:
        return array.reshape(count, 1, *2 * flat_sides)
    side = packed_sides[0]
    array = as_bytes({where: array})[where]
    check_memory(path, count * side * side)
    padding = 8 * length - side * side
    if np.any(array[:, -1] & (2**padding - 1)):
        raise UserError(f"{where} has rows of {length} bytes, but they are not packed bits; give [N, H, W]")
    return np.unpackbits(array, axis=1, count=side * side).reshape(count, 1, side, side)


def as_bytes(arrays: dict[str, np.ndarray], value_range: ValueRange | None = None) -> dict[str, np.ndarray]:
    """Convert arrays to uint8: scaled by ``value_range``, or losslessly without it.

    Lossless are whole numbers from 0 to 255, and k / 255 for such numbers, as floats; one of the two must
    hold for all arrays, so that a split of black and white images has the meaning of the others. The keys of
    ``arrays`` name them in errors.

    Raises:
        UserError: if a value is NaN or infinite, outside the range, or not an 8-bit level.
    """
    if value_range is not None:
        ends = value_range
        return {
            where: _converted(array, lambda part, where=where: np.rint(to_255(where, part, ends)))
            for where, array in arrays.items()
        }
    for where, array in arrays.items():
        for part in _parts(array):
            check_finite(where, part)
    if all(array.dtype in (np.uint8, np.bool_) for array in arrays.values()):
        return {where: array.view(np.uint8) for where, array in arrays.items()}
    if all(_are_levels(array, 1) for array in arrays.values()):
        return {where: _converted(array, lambda part: part) for where, array in arrays.items()}
    if all(_are_levels(array, 255) for array in arrays.values()):
        return {where: _converted(array, lambda part: np.rint(255 * part)) for where, array in arrays.items()}
    where, array = next(pair for pair in arrays.items() if not _are_levels(pair[1], 1))
    low, high = (float(end(array)) for end in (np.min, np.max))
    raise UserError(
        f"{where} has type {array.dtype} and values from {low:g} to {high:g}, which are not 8-bit levels; "
        "save 0 to 255 as uint8, or give the darkest and the brightest possible value, such as "
        f"--value-range {low:g} {high:g}"
    )


def check_finite(where: object, values: np.ndarray) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        UserError: if one is.
    """
    if np.isnan(values).any():
        raise UserError(
            f"{where} has values that are NaN; give --missing nan if they mark missing pixels, otherwise "
            "replace them"
        )
    if not np.isfinite(values).all():
        raise UserError(f"{where} has values that are infinite; replace them, or leave images out")


@np.errstate(over="ignore")  # an end of the range may be infinite in the type of the values
def to_255(where: object, values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Scale values so that the ends of ``value_range`` become 0 and 255, in float64.

    Raises:
        UserError: if one is outside, or not finite.
    """
    check_finite(where, values)
    low, high = value_range
    outside = values[(values < low) | (values > high)]
    if outside.size:
        raise UserError(
            f"{where} has the value {float(outside[0]):g}; --value-range {low:g} {high:g} must contain all "
            "values"
        )
    return (values.astype(np.float64) - low) * 255 / (high - low)


@np.errstate(over="ignore", invalid="ignore")  # what is infinite, and then no number, is no level
def _are_levels(array: np.ndarray, factor: int) -> bool:
    """Whether the array holds k / factor for whole k from 0 to 255, up to the rounding of its type."""
    allowed = ROUNDING.get(array.dtype.itemsize, 1e-3) if factor > 1 else 0
    for part in _parts(array):
        levels = part.astype(np.float64) * factor
        nearest = np.rint(levels)
        if not ((np.abs(levels - nearest) <= allowed) & (nearest >= 0) & (nearest <= 255)).all():
            return False
    return True


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    array = np.atleast_1d(array)
    step = max(1, AT_ONCE * len(array) // max(1, array.size))
    return (array[start : start + step] for start in range(0, len(array), step))


def _converted(array: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply ``convert`` to each part; return uint8."""
    result = np.empty(array.shape, np.uint8)
    for part, into in zip(_parts(array), _parts(result), strict=True):
        into[...] = convert(part)
    return result


def as_classes(labels: np.ndarray) -> np.ndarray | None:
    """Return labels as integers [N], or None if they are not classes.

    Classes are whole numbers [N] or [N, 1] of any type, or rows [N, K] with a single 1.

    >>> as_classes(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])).tolist()
    [1, 0]
    """
    if labels.ndim == 0 or labels.dtype.kind not in NUMBERS:
        return None
    if labels.size == len(labels):
        flat = labels.reshape(-1)
        whole = np.isfinite(flat).all() and (flat == np.rint(flat)).all() and (np.abs(flat) < 2**31).all()
        return flat.astype(np.int64) if whole else None
    if labels.ndim == 2 and np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all():
        return labels.argmax(1)
    return None
