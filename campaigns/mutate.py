"""Valid files with a few mistakes in them, which a seed determines: bytes, and what containers hold."""

import functools
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from flowvae.compression.container import CHECKSUM, LENGTH, MAGIC, checksum

Files = dict[str, bytes | str]
"""contents by path; a text is the target of a symbolic link"""

EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
)
NUMBERS = (b"0", b"-1", b"1.5", b"1e400", b"-1e308", b"nan", b"NaN", b"Infinity", b"9" * 30, b"9" * 5000)
LONG = "x" * 100_000
WORDS = ("", " ", "-", ".", "..", "/", "/etc/passwd", "a\0b", "\ud800", "é\u202e", "none", "nan", "\n", LONG)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 1.5, -0.5, 1e308, 5e-324, 2**31, 2**53 + 1, 2**63, 10**18, 10**400),
    *(float("nan"), float("inf"), [], {}, [[1]], [1, 2, 3], {"a": 1}, [None], [""], *WORDS),
)
NAMES = ("x", "a b", "é.png", ".hidden", "-", "x" * 255, "con", "a\nb", "\udcff", "train", "test", "0.png")
DEVICES = ("/dev/zero", "/dev/null", "/etc/passwd", "missing", ".", "/proc/self/mem")
FIFO = "fifo"
"""target that stands for a named pipe"""


def hostile(random: Random) -> Any:
    """Draw a value that JSON or Python can hold, of any type and size."""
    if random.random() < 0.1:
        return [hostile(random) for _ in range(random.randrange(4))]
    if random.random() < 0.1:
        return {random.choice(WORDS): hostile(random) for _ in range(random.randrange(3))}
    if random.random() < 0.2:
        return random.choice((1, -1)) * random.getrandbits(random.choice((3, 8, 16, 33, 64, 90)))
    return random.choice(VALUES)


def mutated(
    content: bytes, random: Random, tokens: Sequence[bytes] = (), others: Sequence[bytes] = ()
) -> bytes:
    """Make one to four changes to bytes; ``tokens`` are of the format, ``others`` other files of it."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        place = random.randrange(len(data) + 1)
        if random.random() < 0.5:  # headers are at the beginning
            place = min(place, random.choice((8, 32, 128)))
        end = min(len(data), place + random.choice((1, 2, 4, 8, 16, 100, 1000)))
        change = random.randrange(11)
        if change == 0 and place < len(data):
            data[place] ^= 1 << random.randrange(8)
        elif change == 1:
            data[place:end] = random.randbytes(end - place)
        elif change == 2:
            del data[place:]
        elif change == 3:
            del data[place:end]
        elif change == 4:
            data[place:place] = random.randbytes(random.choice((1, 2, 4, 16, 512)))
        elif change == 5:
            data[place:place] = data[place:end] * random.choice((1, 2, 50))
        elif change == 6:
            width = random.choice((1, 2, 4, 8))
            number = random.choice(EXTREMES) % 256**width
            data[place : place + width] = number.to_bytes(width, random.choice(("little", "big")))
        elif change == 7 and tokens:
            token = random.choice(tokens)
            data[place : place + random.choice((0, len(token)))] = token
        elif change == 8 and others:
            other = random.choice(others)
            data[place:] = other[random.randrange(len(other) + 1) :]
        elif change == 9:
            place = data.find(random.choice(b"0123456789"), place)
            if place >= 0:
                stop = place
                while stop < len(data) and data[stop : stop + 1].isdigit():
                    stop += 1
                data[place:stop] = random.choice(NUMBERS)
        elif change == 10:
            data[place:end] = bytes((random.choice((0, 0xFF)),)) * (end - place)
    return bytes(data)


def mutated_inside(content: bytes, random: Random, change: Callable[[bytes], bytes]) -> bytes:
    """Change what a container holds, so that its checksums and lengths are right; other files as they are.

    Containers are gzip, zip, PNG, safetensors, tar, files of compressed images, and JSON.
    """
    try:
        if content.startswith(b"\x1f\x8b"):
            return gzip.compress(mutated_inside(gzip.decompress(content), random, change), 1)
        if content.startswith(b"PK"):
            return _zip(content, random, change)
        if content.startswith(b"\x89PNG"):
            return _png(content, random, change)
        if content.startswith(MAGIC):
            return _compressed(content, random, change)
        if content[257:262] == b"ustar":
            return _tar(change(content))
        if content[8:10] == b'{"':
            return _safetensors(content, random)
        if content[:1] in b"{[" and content:
            return _json(content, random)
    except Exception:  # it is damaged in another way already
        pass
    return change(content)


def _zip(content: bytes, random: Random, change: Callable[[bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = random.choice(list(members))
    if random.random() < 0.2:
        members[random.choice((*NAMES, name + "x", name * 2))] = members.pop(name)
    else:
        members[name] = mutated_inside(members[name], random, change)
    packed = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, member in members.items():
            archive.writestr(name.encode(errors="replace").decode(), member)
    return packed.getvalue()


def _png(content: bytes, random: Random, change: Callable[[bytes], bytes]) -> bytes:
    """Change one chunk, or its place, and write its length and checksum."""
    chunks, place = [], 8
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    which = random.randrange(len(chunks))
    kind, body = chunks[which]
    if random.random() < 0.2:
        chunks.insert(
            random.randrange(len(chunks)), (random.choice((b"PLTE", b"tRNS", b"eXIf", b"acTL", kind)), body)
        )
    elif kind == b"IDAT" and random.random() < 0.5:
        chunks[which] = (kind, zlib.compress(change(zlib.decompress(body))))
    else:
        chunks[which] = (kind, change(body))
    packed = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return content[:8] + packed


def _tar(content: bytes) -> bytes:
    """Write the checksums of all headers."""
    data = bytearray(content)
    for place in range(0, len(data) - 511, 512):
        if data[place + 257 : place + 262] == b"ustar":
            data[place + 148 : place + 156] = b" " * 8
            data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
    return bytes(data)


def _safetensors(content: bytes, random: Random) -> bytes:
    (length,) = struct.unpack_from("<Q", content)
    header = _json(content[8 : 8 + length], random)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _compressed(content: bytes, random: Random, change: Callable[[bytes], bytes]) -> bytes:
    begin = len(MAGIC) + LENGTH
    end = begin + int.from_bytes(content[len(MAGIC) : begin], "little")
    text = zlib.decompress(content[begin:end])
    if random.random() < 0.5:
        header = json.loads(text)
        words = change(content[end + CHECKSUM :])
        header["blocks"][0][1], header["blocks"][0][3] = len(words) // 4, checksum(words)
        text = json.dumps(header).encode()
    else:
        words, text = content[end + CHECKSUM :], _json(text, random)
    packed = zlib.compress(text)
    start = MAGIC + len(packed).to_bytes(LENGTH, "little") + packed
    return start + bytes.fromhex(checksum(start)) + words


def _json(content: bytes, random: Random) -> bytes:
    """Change some values of JSON, or of lines of it."""
    lines = content.splitlines() if b"}\n{" in content else [content]
    which = random.randrange(len(lines))
    values = json.loads(lines[which])
    for _ in range(random.choice((1, 1, 2, 3))):
        values = changed(values, random)
    lines[which] = json.dumps(values).encode()
    if random.random() < 0.02:
        lines[which] = lines[which].replace(b"1", random.choice((b"[" * 100_000, b"1" + b"0" * 5000)), 1)
    return b"\n".join(lines)


def changed(values: Any, random: Random) -> Any:
    """Return nested values with one other: replaced, removed, repeated or renamed, at any depth."""
    if not isinstance(values, dict | list) or not values or random.random() < 0.05:
        return hostile(random)
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    key, change = random.choice(keys), random.random()
    made: Any = dict(values) if isinstance(values, dict) else list(values)
    if change < 0.1:
        del made[key]
    elif change < 0.2 and isinstance(made, dict):
        made[random.choice((*WORDS, *map(str, keys)))] = made.pop(key)
    elif change < 0.2:
        made += made * random.choice((1, 100))
    else:
        made[key] = changed(made[key], random) if isinstance(made[key], dict | list) else hostile(random)
    return made


def mutated_files(files: Mapping[str, bytes], random: Random, tokens: Sequence[bytes] = ()) -> Files:
    """Change one or two files of a directory: their bytes, what they hold, their kind or their name."""
    made: Files = dict(files)
    if not made:
        return made
    others = [other for other in files.values() if other]
    change = functools.partial(mutated, random=random, tokens=tokens, others=others)
    for _ in range(random.choice((1, 1, 1, 2))):
        name = random.choice(list(made))
        content = made[name]
        kind = random.random()
        if isinstance(content, str):
            continue
        if kind < 0.5:
            made[name] = mutated_inside(content, random, change)
        elif kind < 0.93:
            made[name] = change(content)
        elif kind < 0.94:
            made[name] = b""
        elif kind < 0.95 and len(made) > 1:
            del made[name]
        elif kind < 0.96:
            del made[name]
            made[f"{name}/inside"] = content
        elif kind < 0.97:
            made[name] = random.choice(others or [b""])
        elif kind < 0.99:
            made[name] = random.choice((*DEVICES, FIFO))
        else:
            parent = name.rpartition("/")[0]
            made[f"{parent}/{random.choice(NAMES)}".lstrip("/")] = made.pop(name)
    return made
