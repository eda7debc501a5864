"""Write the published static MNIST with labels, which its files lack.

    python scripts/label_larochelle.py SOURCE OUTPUT

SOURCE is larochelle, or a path of it that --data takes; OUTPUT is an .npz file. The binary images are draws
from the grey levels of MNIST, in another order. Each gets the label of the MNIST image that it is the most
probable draw of: training and validation images among the 60,000 for training, test images among the 10,000.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowvae.data.load import read_source
from flowvae.errors import UserError
from flowvae.runs import replacing

AT_ONCE = 500
SURE = 1e-4  # a black or white pixel is hardly ever drawn the other way


def most_probable(binary: Tensor, grey: Tensor) -> Tensor:
    """Return which of the grey images [M, ...] each of the binary ones [N, ...] was drawn from, int64 [N]."""
    probability = (grey.flatten(1).float() / 255).clamp(SURE, 1 - SURE)
    logits, offsets = probability.logit().t(), (1 - probability).log().sum(1)
    parts = binary.flatten(1).float().split(AT_ONCE)
    return torch.cat([(part @ logits + offsets).argmax(1) for part in parts])


def main(source: str, output: Path) -> None:
    if output.suffix != ".npz" or output.exists():
        raise UserError(f"{output} exists, or does not end in .npz; give another name")
    binary, grey = read_source(source), read_source("mnist")
    assert grey.train.labels is not None
    assert grey.valid.labels is not None
    assert grey.test.labels is not None
    training = torch.cat([grey.train.images, grey.valid.images])
    of_training = torch.cat([grey.train.labels, grey.valid.labels])
    arrays = {}
    for name, split in (("train", binary.train), ("valid", binary.valid), ("test", binary.test)):
        images, labels = (grey.test.images, grey.test.labels) if name == "test" else (training, of_training)
        arrays[name] = split.images.numpy()
        arrays[f"{name}_labels"] = labels[most_probable(split.images, images)].numpy()
    with replacing(output) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    print(f"{output}: {', '.join(f'{name} {array.shape}' for name, array in arrays.items())}")


if __name__ == "__main__":
    try:
        if len(sys.argv) != 3:
            raise UserError("give SOURCE and OUTPUT")
        main(sys.argv[1], Path(sys.argv[2]))
    except (UserError, OSError) as error:
        sys.exit(f"label_larochelle.py: {error}")
