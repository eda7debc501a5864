"""Arrays in MATLAB's .mat files, as SVHN and Omniglot were published. Needs SciPy."""

import math
from pathlib import Path

import numpy as np

from flowvae.data.reading import check_memory, unreadable
from flowvae.errors import UserError

KIND = "a .mat file"


def read_mat(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays of numbers called ``names``; their sizes are checked before anything is decoded."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise UserError(f"{path} is read with SciPy; pip install 'flowvae[data]'") from error
    try:
        shapes = {name: shape for name, shape, _ in whosmat(path)}
        missing = [name for name in names if name not in shapes]
        if missing:
            raise UserError(
                f"{path} has no {' and no '.join(missing)} among its arrays "
                f"({', '.join(sorted(shapes)) or 'none'}); get the published file"
            )
        # At most 8 bytes a number, whatever its type.
        check_memory(path, sum(8 * math.prod(shapes[name]) for name in names))
        arrays = [loadmat(path, variable_names=list(names))[name] for name in names]
    except UserError:
        raise
    except Exception as error:  # SciPy has a dozen ways to say that bytes are wrong
        raise unreadable(path, KIND, error) from error
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise unreadable(path, KIND, f"its {name} is no array of numbers")
    return arrays
