"""The bundled MNIST: all 70,000 images and labels, 8 bit. MNIST.md describes its origin."""

import hashlib
import io
from pathlib import Path

from flowvae.data import npz
from flowvae.data.dataset import Dataset
from flowvae.data.reading import read_bytes
from flowvae.errors import UserError

PATH = Path(__file__).with_name("mnist.npz")
SHA256 = "e5b8dca30d58a1317e267ceb243edaf48f92b7072f3697cc577370dae57fdf2c"


def load() -> Dataset:
    """Train: the first 50,000 of the original 60,000; valid: the last 10,000 of them; test: the original."""
    data = read_bytes(PATH, "the bundled MNIST")
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(f"{PATH} is not the bundled MNIST: its sha256 is wrong; install flowvae again")
    return npz.load_open(io.BytesIO(data), PATH)
