"""Arrays in MATLAB's .mat files, as SVHN and Omniglot were published. Needs SciPy."""

import math
from pathlib import Path

import numpy as np

from flowvae.data.reading import check_memory, unreadable
from flowvae.errors import UserError

KIND = "a .mat file"
WIDTHS = (8, 16, 32, 64)
NUMBERS = {"double", "single", "logical", *(f"{kind}{width}" for kind in ("int", "uint") for width in WIDTHS)}


def read_mat(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The arrays of numbers called ``names``; their sizes are checked before anything is decoded."""
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise UserError(f"{path} is read with SciPy; pip install 'flowvae[data]'") from error
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(
                f"{path} has no {' and no '.join(missing)} among its arrays "
                f"({', '.join(sorted(found)) or 'none'}); get the published file"
            )
        for name in names:
            if found[name][1] not in NUMBERS:  # a cell may hold more than its shape tells
                raise unreadable(path, KIND, f"its {name} is no array of numbers")
        # At most 8 bytes a number, whatever its type.
        check_memory(path, sum(8 * math.prod(found[name][0]) for name in names))
        arrays = [loadmat(path, variable_names=list(names))[name] for name in names]
    except UserError:
        raise
    except Exception as error:  # SciPy has a dozen ways to say that bytes are wrong
        raise unreadable(path, KIND, error) from error
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise unreadable(path, KIND, f"its {name} is no array of numbers")
    return arrays
