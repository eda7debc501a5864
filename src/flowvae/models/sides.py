"""Which sizes of images networks take."""

from flowvae.errors import UserError


def check_sides(shape: tuple[int, int, int], divisor: int) -> None:
    """Make sure that ``divisor`` divides the sides of images of ``shape`` (C, H, W).

    Raises:
        UserError: it does not.
    """
    _, height, width = shape
    if height % divisor or width % divisor:
        raise UserError(f"images are {height} x {width}; height and width must be multiples of {divisor}")
