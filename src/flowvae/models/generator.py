"""The options of a convolutional generator, shared by models that use one."""

from dataclasses import dataclass

from flowvae.errors import check_range
from flowvae.models.sides import check_sides
from flowvae.networks import Decoder, VectorCode
from flowvae.networks.convolutional import STRIDE
from flowvae.parts import DEEPEST, WIDEST


@dataclass(frozen=True)
class GeneratorOptions:
    """Options of a generator, which maps codes to images."""

    latent: int = 64
    """D, number of latent dimensions"""
    features: int = 256
    """width of the generator's first layer"""
    channels: int = 64
    """number of channels of the convolutions at quarter resolution; at half resolution, half as many"""
    blocks: int = 1
    """number of residual blocks per resolution"""

    def __post_init__(self) -> None:
        check_range("latent", self.latent, 1, WIDEST)
        check_range("features", self.features, 1, WIDEST)
        check_range("channels", self.channels, 2, WIDEST)  # half as many at half resolution
        check_range("blocks", self.blocks, 0, DEEPEST)

    def generator(self, shape: tuple[int, int, int]) -> Decoder:
        """Build the generator, from codes [N, D] to logits of pixels [N, C, H, W].

        Raises:
            UserError: if height or width is not a multiple of 4.
        """
        check_sides(shape, STRIDE)
        code = VectorCode(self.latent, shape[1:], self.features, self.channels)
        return Decoder(code, shape[0], self.blocks)
