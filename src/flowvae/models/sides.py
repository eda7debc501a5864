"""The image sizes that networks accept."""

from flowvae.errors import UserError


def check_sides(shape: tuple[int, int, int], divisor: int) -> None:
    """Check that height and width of images of ``shape`` (C, H, W) are multiples of ``divisor``.

    Raises:
        UserError: if they are not.
    """
    _, height, width = shape
    if height % divisor or width % divisor:
        nearest = "x".join(str(max(divisor, round(side / divisor) * divisor)) for side in (height, width))
        raise UserError(
            f"images are {height} x {width}; height and width must be multiples of {divisor}: resize them, "
            f"image files by --image-size {nearest}"
        )
