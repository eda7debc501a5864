"""What is fuzzed: readers of files, each with small valid files of every form that it takes."""

import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import scipy.io
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # whose files are these

from data_files import random_images, write_amat_folder, write_idx_folder, write_images
from published_files import (
    character,
    colour_images,
    write_chardata,
    write_cifar10,
    write_cifar10_archive,
    write_cifar10_png,
    write_svhn,
)

from flowvae.data import load_dataset

Read = Callable[[Path, Random | None], None]
"""reads the files of a case in a directory, with options that are drawn; with None, the usual ones"""


@dataclass(frozen=True)
class Reader:
    """A reader of files, and what is tried of it."""

    name: str
    seeds: Sequence[dict[str, bytes]]
    """valid files, by path in the directory of a case"""
    read: Read
    """what is tried"""
    tokens: Sequence[bytes] = ()
    """of the format"""
    share: float = 1.0
    """of the cases, compared with other readers"""
    refused: Sequence[dict[str, bytes]] = ()
    """files that the usual options refuse"""
    damaged: Sequence[str] | None = None
    """names of the files that are damaged; None for all"""
    writes: bool = False
    """whether it may write among the files"""
    places: Sequence[str] = ()
    """other directories that it may write to"""
    quiet: bool = True
    """whether it prints nothing; otherwise it prints no warnings and tracebacks"""


@contextmanager
def made() -> Iterator[tuple[Path, dict[str, bytes]]]:
    """Yield a directory, and a dictionary that has its files afterwards."""
    with tempfile.TemporaryDirectory() as name:
        files: dict[str, bytes] = {}
        yield Path(name), files
        for path in sorted(Path(name).rglob("*")):
            if path.is_file():
                files[str(path.relative_to(name))] = path.read_bytes()


def data(place: str, binarization: str = "none") -> Read:
    """The reader of the data set at a path, with options that are drawn."""

    def read(folder: Path, random: Random | None) -> None:
        chosen = {} if random is None else dict(random.sample(OPTIONS, random.choice((0, 0, 0, 1, 2))))
        dataset = load_dataset(str(folder / place), **{"binarization": binarization, **chosen})
        assert all(len(split.images) for split in (dataset.train, dataset.valid, dataset.test))

    return read


OPTIONS = [
    ("binarization", "static"),
    ("binarization", "threshold"),
    ("binarization", "dynamic"),
    ("image_size", 8),
    ("image_size", "4x6"),
    ("value_range", (0.0, 1.0)),
    ("value_range", (0.0, 65535.0)),
    ("value_range", (-1e308, 1e308)),
    ("grey", True),
    ("missing", "nan"),
    ("missing", "alpha"),
    ("missing", "0"),
    ("missing", "255,0,255"),
    ("hide", 0.5),
    ("hide", "3x3"),
]

GREY, COLOUR = random_images(12, 8, 8), random_images(12, 8, 8, 3)


def npz() -> Reader:
    labels = np.arange(12) % 3
    arrays: list[dict[str, np.ndarray]] = [
        {"train": GREY, "valid": GREY, "test": GREY, "train_labels": labels},
        {"x_train": COLOUR, "x_test": COLOUR, "y_train": labels[:, None], "y_test": labels[:, None]},
        {"images": GREY / 255, "labels": np.eye(3)[labels], "observed": GREY > 9},
        {"train": GREY.reshape(12, 64), "test": np.packbits(GREY.reshape(12, 64) > 99, axis=1)},
        {"imgs": GREY, "train_idx": np.arange(6), "valid_idx": np.arange(6, 9), "test_idx": np.arange(9, 12)},
        {"data": GREY.astype(np.float16), "names": np.array(["a", "b"])},
    ]
    seeds = []
    for number, each in enumerate(arrays):
        with made() as (folder, files):
            (np.savez_compressed if number % 2 else np.savez)(folder / "set.npz", allow_pickle=False, **each)
        seeds.append(files)
    return Reader("npz", seeds, data("set.npz"), NPY_TOKENS, 2.0)


NPY_TOKENS = (
    *(
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x02\x00",
        b"\x93NUMPY\x03\x00",
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"PK\x03\x04",
    ),
    *(
        b"'|u1'",
        b"'|O'",
        b"'<f2'",
        b"'<f16'",
        b"'<c16'",
        b"'<M8[s]'",
        b"'|V8'",
        b"'<U9999999'",
        b"'|S0'",
        b"'|b1'",
    ),
    *(
        b"True",
        b"False",
        b"(",
        b")",
        b",",
        b"(9999999999, 8, 8)",
        b"(0,)",
        b"()",
        b"(-1, 8)",
        b"[('a', '<f4')]",
    ),
    *(b"'shape'", b"'descr'", b"__import__('os')", b"1e9", b"1" * 400, b"(" * 90, b"\0", b"\n"),
)


def npy() -> Reader:
    seeds = []
    for array in (GREY, COLOUR / 255, GREY.astype(">i4"), np.asfortranarray(GREY.astype("<f4"))):
        with made() as (folder, files):
            np.save(folder / "set.npy", array)
        seeds.append(files)
    return Reader("npy", seeds, data("set.npy"), NPY_TOKENS)


def idx() -> Reader:
    seeds = []
    for ending in ("", ".gz"):
        with made() as (folder, files):
            write_idx_folder(folder, GREY, GREY[:4], ending)
        seeds.append(files)
    tokens = (
        b"\0\0\x08\x03",
        b"\0\0\x0d\x03",
        b"\0\0\x08\xff",
        b"\x1f\x8b\x08",
        b"\x7f\xff\xff\xff",
        b"\xff" * 4,
    )
    return Reader("idx", seeds, data(""), tokens)


def images() -> Reader:
    """Directories of image files: every format, with classes and splits, of several pages, turned, deep."""
    seeds = []
    for ending in (".png", ".jpg", ".bmp", ".gif", ".webp", ".tif", ".ppm"):
        with made() as (folder, files):
            write_images(folder, (COLOUR if ending in (".ppm", ".jpg") else GREY)[:4], ending)
        seeds.append(files)
    with made() as (folder, files):
        for place in ("train/cats", "train/dogs", "test/cats", "test/dogs"):
            write_images(folder / place, COLOUR[:3])
    seeds.append(files)
    with made() as (folder, files):
        pages = [Image.fromarray(image) for image in GREY[:4]]
        clear = [Image.fromarray(np.dstack([image, image[:, :, :1]])) for image in COLOUR[:3]]
        pages[0].save(folder / "0.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
        pages[0].save(folder / "1.gif", save_all=True, append_images=pages[1:])
        clear[0].save(folder / "2.webp", save_all=True, append_images=clear[1:], lossless=True)
        clear[0].save(folder / "3.png", save_all=True, append_images=clear[1:])
        for compression in ("jpeg", "tiff_adobe_deflate", "packbits", "group4"):
            page = pages[0].convert("1") if compression == "group4" else pages[0]
            page.save(folder / f"{compression}.tif", compression=compression)
    seeds.append(files)
    with made() as (folder, files):
        turned = Image.Exif()
        turned[0x0112] = 6
        for name in ("0.jpg", "1.png", "2.webp", "3.tif"):
            Image.fromarray(COLOUR[0]).save(folder / name, exif=turned)
        for mode in ("1", "LA", "P", "CMYK", "RGBA"):
            image = Image.fromarray(COLOUR[0]).convert(mode)
            image.save(folder / f"{mode}.tif")
            if mode != "CMYK":
                image.save(folder / f"{mode}.png")
    seeds.append(files)
    with made() as (folder, deep):
        for number, image in enumerate(GREY[:3]):
            Image.fromarray(image.astype(np.uint16) * 257).save(folder / f"{number}.png")
            Image.fromarray(image.astype(np.float32)).save(folder / f"{number}.tif")
    return Reader("images", seeds, data(""), IMAGE_TOKENS, 4.0, refused=[deep])


IMAGE_TOKENS = (
    *(
        b"\x89PNG\r\n\x1a\n",
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"iCCP",
        b"zTXt",
        b"iTXt",
        b"eXIf",
        b"acTL",
        b"fcTL",
        b"fdAT",
    ),
    *(
        b"\xff\xd8",
        b"\xff\xe1",
        b"\xff\xee",
        b"\xff\xc0",
        b"\xff\xc2",
        b"\xff\xda",
        b"Exif\0\0",
        b"Adobe",
        b"JFIF\0",
    ),
    *(
        b"II*\0",
        b"MM\0*",
        b"\x01\x01\x03\0",
        b"\x11\x01\x04\0",
        b"\x16\x01\x03\0",
        b"\x03\x01\x03\0",
        b"\x12\x01\x03\0",
    ),
    *(
        b"GIF87a",
        b"GIF89a",
        b"\x21\xf9\x04",
        b"\x21\xff",
        b"RIFF",
        b"WEBP",
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ANMF",
        b"ANIM",
    ),
    *(
        b"BM",
        b"P1\n",
        b"P4\n",
        b"P6\n",
        b"Pf\n",
        b"P7\n",
        b"P0CMYK\n",
        b"PyCMYK\n",
        b"99999 99999\n",
        b"65535\n",
    ),
)


def published() -> Iterator[Reader]:
    """The published forms of MNIST, CIFAR-10, SVHN, CelebA and Omniglot."""
    few, colour = random_images(4, 28, 28), colour_images(10)
    with made() as (folder, amat):
        binary = (few > 127).astype(np.uint8)
        write_amat_folder(folder, binary, binary[:2], binary[:2])
    yield Reader(
        "amat", [amat], data("", "static"), (b"0 1", b"\r\n", b"2", b"\t", b"\0", b"-1", b"1.0"), 0.5
    )

    with made() as (folder, binary):
        write_cifar10(folder, colour[:5], colour[:1])
    yield Reader("cifar10", [binary], data(""), (b"\x0a", b"\xff"), 0.5)
    with made() as (folder, archive), tempfile.TemporaryDirectory() as source:
        write_cifar10_archive(folder / "set.tar.gz", write_cifar10(Path(source), colour[:5], colour[:1]))
    tokens = (
        b"ustar\0",
        b"ustar  \0",
        b"0",
        b"L",
        b"K",
        b"x",
        b"g",
        b"S",
        b"\x80" + b"\xff" * 11,
        b"77777777777\0",
        b"-0001\0",
    )
    yield Reader(
        "tar.gz", [archive], data("set.tar.gz"), (*tokens, b"\x1f\x8b\x08", b"data_batch_1.bin"), 0.5
    )
    with made() as (folder, sheets):
        write_cifar10_png(folder, colour[:5], colour[:1])
    yield Reader("cifar10-png", [sheets], data(""), (*IMAGE_TOKENS, b"[[", b"1e9", b"null"), 0.5)

    with made() as (folder, svhn):
        write_svhn(folder, colour[:3], colour[:2])
    with made() as (folder, plain):
        for name in ("train", "test"):
            arrays = {"X": colour[:3].transpose(2, 3, 1, 0), "y": np.array([[10], [1], [2]], np.uint8)}
            scipy.io.savemat(folder / f"{name}_32x32.mat", arrays)
    tokens = tuple(bytes((kind, 0, 0, 0)) for kind in (*range(1, 20), 0xFF))
    yield Reader("svhn", [svhn, plain], data(""), (*tokens, b"\0\x01IM", b"\x01\0MI", b"X", b"y"), 0.7)
    with made() as (folder, compressed):
        write_chardata(folder / "chardata.mat", few, few[:2])
    with made() as (folder, plain):
        arrays = scipy.io.loadmat(io.BytesIO(compressed["chardata.mat"]))
        named = {name: array for name, array in arrays.items() if not name.startswith("_")}
        scipy.io.savemat(folder / "chardata.mat", named)
    yield Reader("chardata", [compressed, plain], data("chardata.mat"), (*tokens, b"data", b"target"), 0.5)

    with made() as (folder, celeba):
        (folder / "img_align_celeba").mkdir()
        for number in range(4):
            path = folder / "img_align_celeba" / f"{number:06}.jpg"
            Image.new("RGB", (178, 218), (60 * number, 9, 9)).save(path)
        lines = [f"{number:06}.jpg {split}\n" for number, split in enumerate((0, 0, 1, 2))]
        (folder / "list_eval_partition.txt").write_text("".join(lines))
    yield Reader(
        "celeba", [celeba], data(""), (*IMAGE_TOKENS, b"../", b"/", b" 3\n", b"\0", b"000001.jpg 0\n"), 0.5
    )

    drawn = {
        f"A/c{place}/{place:04}_{number:02}.png": character(place) for place in (0, 1) for number in (1, 2)
    }
    with made() as (folder, plain):
        for part in ("background", "evaluation"):
            for name, image in drawn.items():
                path = folder / f"images_{part}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    zipped = {}
    for part in ("background", "evaluation"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in drawn:
                archive.writestr(f"images_{part}/{name}", plain[f"images_{part}/{name}"])
        zipped[f"images_{part}.zip"] = packed.getvalue()
    tokens = (
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"PK\x06\x06",
        b"PK\x06\x07",
        b"PK\x03\x04",
        b"../",
        b"\x08\0",
        b"\x0c\0",
        b"\x0e\0",
    )
    yield Reader("omniglot", [plain, zipped], data(""), (*IMAGE_TOKENS, *tokens), 0.7)


def readers() -> list[Reader]:
    """All readers."""
    return [npz(), npy(), idx(), images(), *published()]
