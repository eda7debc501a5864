"""The options of a convolutional generator, shared by models that use one."""

from dataclasses import dataclass

from flowvae.networks import Decoder, VectorCode
from flowvae.parts import DEEPEST, WIDEST, Options, ranged


@dataclass(frozen=True)
class GeneratorOptions(Options):
    """Options of a generator, which maps codes to images."""

    latent: int = ranged(64, 1, WIDEST)
    """D, number of latent dimensions"""
    features: int = ranged(256, 1, WIDEST)
    """width of the generator's first layer"""
    channels: int = ranged(64, 2, WIDEST)
    """number of channels of the convolutions at quarter resolution; at half resolution, half as many"""
    blocks: int = ranged(1, 0, DEEPEST)
    """number of residual blocks per resolution"""

    def generator(self, shape: tuple[int, int, int]) -> Decoder:
        """Build the generator, from codes [N, D] to logits of pixels [N, C, H, W]."""
        code = VectorCode(self.latent, shape[1:], self.features, self.channels)
        return Decoder(code, shape[0], self.blocks, shape[1:])
