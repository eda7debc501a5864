"""Distributions of images as tables of probabilities, value by value."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from torch import Tensor

Choose = Callable[[Tensor], Tensor]
"""from probabilities [N, n, values] of the next n values of N images to these values, int64 [N, n]"""


class Tabulated(ABC):
    """A distribution of images as the probabilities of values, each given the values before it.

    Values are levels of pixels, or of patches of them. Images are int64 [N, C, H, W], of levels from 0 on.
    """

    @abstractmethod
    def walk(self, choose: Choose) -> Tensor:
        """Ask for all values, in portions, each given those before it; return the images they make up."""

    @abstractmethod
    def values(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the portions of values [N, n] that make up given images."""
