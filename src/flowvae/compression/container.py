"""The file of compressed images: a header, and blocks of words with checksums."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowvae.data.reading import read_bytes
from flowvae.errors import UserError

MAGIC = b"flowvae compressed images 3\n"
LENGTH, CHECKSUM, WORD = 4, 16, 4
"""bytes of the header's length, of a checksum and of a word"""
LARGEST_BLOCK = 10_000
"""images of a block"""
LONGEST_NAMES = 1 << 25
"""bytes of a header without its blocks, which are mostly names: a million of 30 characters"""
LONGEST_HEADER = LONGEST_NAMES + (1 << 20)
"""bytes that a header may have when it is unpacked: parsed, it takes up to 30 times as much memory"""


@dataclass(frozen=True)
class Block:
    """Images that were compressed together."""

    words: NDArray[np.uint32]
    images: int
    initial_words: int
    """number of words that are the random ones from which the first codes were chosen"""
    checksum: str
    """of the images"""


@dataclass(frozen=True)
class Header:
    """What is needed to decompress, beside the run."""

    run: str
    """directory of the run, as it was given"""
    weights: str
    """checksum of the run's options and weights"""
    shape: tuple[int, int, int]
    levels: int
    samples: int
    """S, number of codes per image"""
    names: list[str] | str
    """names of the images; of a whole split, that of the split; of a file without splits, nothing"""
    images: int
    """number of images"""
    checksum: str
    """of all images"""
    probe: str
    """checksum of some images that were compressed as a test"""
    machine: str
    """what the probabilities were computed by"""


def checksum(content: bytes) -> str:
    """Return 128 bits of SHA-256, as text."""
    return hashlib.sha256(content).hexdigest()[: 2 * CHECKSUM]


def packed(header: Header, blocks: Sequence[Block]) -> bytes:
    """Return the contents of a file; with fewer images than the header says, it is unfinished.

    Raises:
        UserError: if the names are so long that the file could not be read.
    """
    contents = [block.words.astype("<u4").tobytes() for block in blocks]
    described = [
        [block.images, len(block.words), block.initial_words, checksum(content), block.checksum]
        for block, content in zip(blocks, contents, strict=True)
    ]
    told = json.dumps({**asdict(header), "blocks": described})
    if len(told) - len(json.dumps(described)) > LONGEST_NAMES:
        raise UserError(
            f"the names of {header.images:,} images take more than {LONGEST_NAMES / 2**20:g} MiB; compress "
            "the images in several parts"
        )
    text = zlib.compress(told.encode(), 9)
    start = MAGIC + len(text).to_bytes(LENGTH, "little") + text
    return start + bytes.fromhex(checksum(start)) + b"".join(contents)


def read(path: Path) -> tuple[Header, list[Block]]:
    """Read a file of compressed images.

    Raises:
        UserError: if it is not one, or is damaged or unfinished.
    """
    content = bytes(read_bytes(path, "compressed images"))
    header, blocks = unpacked(path, content)
    if sum(block.images for block in blocks) != header.images:
        raise UserError(f"{path} is unfinished; compress the images again")
    return header, blocks


def unpacked(path: Path, content: bytes) -> tuple[Header, list[Block]]:
    """Return the header and the blocks of the contents of a file, which may be unfinished.

    Raises:
        UserError: if the file at ``path`` is not one of compressed images, or is damaged.
    """
    if not content.startswith(MAGIC):
        raise UserError(f"{path} has no compressed images of this version; give a file of flowvae compress")
    damaged = UserError(f"{path} is damaged or cut off: a checksum differs; copy it again")
    begin = len(MAGIC) + LENGTH
    end = begin + int.from_bytes(content[len(MAGIC) : begin], "little")
    if bytes.fromhex(checksum(content[:end])) != content[end : end + CHECKSUM]:
        raise damaged
    blocks: list[Block] = []
    place = end + CHECKSUM
    try:
        text = zlib.decompressobj().decompress(content[begin:end], LONGEST_HEADER + 1)
        if len(text) > LONGEST_HEADER:
            raise UserError(
                f"{path} has a header of more than {LONGEST_HEADER / 2**20:g} MiB; compress the images "
                "again, in several parts"
            )
        values = json.loads(text)
        for images, size, initial, of_words, of_images in values.pop("blocks"):
            if not all(type(number) is int and number >= 0 for number in (images, size, initial)):
                raise damaged
            words = content[place : place + WORD * size]
            if checksum(words) != of_words or not 0 < images <= LARGEST_BLOCK or not any(words[-WORD:]):
                raise damaged  # the coder's words never end in zero
            blocks.append(Block(np.frombuffer(words, "<u4").astype(np.uint32), images, initial, of_images))
            place += WORD * size
        header = Header(**{**values, "shape": tuple(values["shape"])})
        valid = _is_valid(header)
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise damaged from None
    if place != len(content) or not valid:
        raise damaged
    return header, blocks


def _is_valid(header: Header) -> bool:
    """Whether the values have their types, and numbers are in their ranges."""
    texts = header.run, header.weights, header.checksum, header.probe, header.machine
    counts = *header.shape, header.samples, header.images, header.levels - 1
    names = [header.names] if isinstance(header.names, str) else header.names
    return (
        all(isinstance(text, str) for text in (*texts, *names))
        and len(header.shape) == 3
        and all(type(count) is int and count > 0 for count in counts)
        and (isinstance(header.names, str) or len(names) == header.images)
    )
