"""What models share that have a generator of images: its options, and the densities that it defines."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowvae.densities import StandardNormal, gaussian_images
from flowvae.models.base import Generating, Sampler
from flowvae.models.couplings import CodeShape
from flowvae.models.networks import ConvolutionalOptions, NetworkOptions
from flowvae.noise import Noise, normal
from flowvae.parts import WIDEST, Options, ranged


class Generator(nn.Module, Generating, Sampler):
    """Generates images from standard normal codes; p(x|z) is a Gaussian around the image, of any variance.

    Samples of the model are the means of p(x|z). The variance is not learned: it is chosen when the density
    is evaluated (Wu et al. 2017).
    """

    needs_variance = True

    @abstractmethod
    def generate(self) -> Callable[[Tensor], Tensor]:
        """Return the function from standard normal codes [N, D] to images [N, C, H, W]."""

    def sample_codes(
        self, num_codes: int, noise: Noise = None, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor:
        return temperature * normal(noise, (num_codes, self.dimension), next(self.parameters()))

    def code_density(self, labels: Tensor | None = None) -> Distribution:
        return StandardNormal(self.dimension).to(next(self.parameters()))()

    def image_density(
        self, variance: float | None = None, labels: Tensor | None = None
    ) -> Callable[[Tensor], Distribution]:
        assert variance is not None, "the caller asks `needs_variance`"
        generate = self.generate()

        def density(z: Tensor) -> Distribution:
            return gaussian_images(generate(z.flatten(0, 1)).unflatten(0, z.shape[:2]), variance)

        return density

    @torch.no_grad()
    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Generate images from codes [N, D], which ``noise`` draws or is, times ``temperature``."""
        return self.generate()(self.sample_codes(num_images, noise, temperature))


@dataclass(frozen=True)
class GeneratorOptions(Options):
    """Options of a generator, which maps codes to images."""

    latent: int = ranged(64, 1, WIDEST)
    """D, number of latent dimensions"""
    features: int = ranged(256, 1, WIDEST)
    """width of the generator's first layer"""
    networks: NetworkOptions = ConvolutionalOptions()
    """networks of images: convolutional, or dense, which are fully connected"""

    def generator(self, shape: tuple[int, int, int]) -> nn.Module:
        """Build the generator, from codes [N, D] to logits of pixels [N, C, H, W]."""
        return self.networks.decoder(CodeShape(self.latent), self.features, shape[0], shape[1:])
