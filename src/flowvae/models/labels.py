"""Checks of labels that the systems which use them share."""

from flowvae.batch import DataSpec
from flowvae.errors import UserError


def classes_of(data: DataSpec) -> int:
    """Return the number of classes of the training images.

    Raises:
        UserError: if there are fewer than two.
    """
    if data.classes < 2:
        what = "no labels" if data.classes == 0 else "a single class"
        raise UserError(f"the training images have {what}; choose data with labels of several classes")
    return data.classes
