"""What a model needs so that images are compressed with it."""

from abc import ABC, abstractmethod

from torch import Tensor

from flowvae.densities import Tabulated
from flowvae.flows import MonotoneStep, Step


class Compressible(ABC):
    """A model by which images with discrete levels are compressed without loss: see `flowvae.compression`.

    An image has one of several orders of its pixels, at random, and a code as well if the model is a
    `CompressibleWithCode`.
    """

    pixel_orders: int = 1
    """number of orders of the pixels, all equally probable"""

    def order_probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities of orders for images [B, C, H, W], [B, orders]; by default, all equal."""
        return images.new_full((len(images), self.pixel_orders), 1 / self.pixel_orders)

    @abstractmethod
    def pixels(self, codes: Tensor, orders: Tensor) -> Tabulated:
        """Return the distribution of images given their codes [B, D] and orders, int64 [B].

        D is 0 without codes.

        Raises:
            UserError: if it cannot be compressed.
        """


class CompressibleWithCode(Compressible):
    """A model with a code of D numbers, by which images are compressed: see `flowvae.compression`."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """D, number of latent dimensions"""

    @abstractmethod
    def to_codes(self, images: Tensor) -> list[Step]:
        """Return the map from standard normal noise to codes [1, B, D] of images [B, C, H, W].

        Raises:
            UserError: if codes cannot be compressed.
        """

    @abstractmethod
    def from_codes(self) -> list[Step]:
        """Return a map from codes [1, B, D] of the prior to standard normal noise.

        Raises:
            UserError: as in `to_codes`.
        """

    @abstractmethod
    def log_weights(self, images: Tensor, codes: Tensor, orders: Tensor) -> Tensor:
        """Compute ``log p(x, z) - log q(z|x)`` [S, B] of images [B, C, H, W], in nats.

        ``codes`` are [S, B, D], and ``orders`` int64 [S, B].
        """


class Normalizing(ABC):
    """A continuous density of values in (0, 1), by a map to standard normal noise, that compresses images.

    A pixel of level k of L stands for the interval [k, k + 1) / L of values: see `flowvae.compression`.
    """

    value_shape: tuple[int, int, int]
    """(C, H, W) of the values, with padding"""

    image_sides: tuple[int, int]
    """(H, W) of the images, the upper left part of the values"""

    @abstractmethod
    def to_real(self) -> MonotoneStep:
        """Return the map of values [1, B, C, H, W], each by itself, to real numbers."""

    @abstractmethod
    def from_noise(self) -> list[Step]:
        """Return the map from standard normal noise to these numbers, both [1, B, C, H, W]."""
