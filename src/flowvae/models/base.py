"""What a model is to the loop that trains it, and what it may be able to do besides."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.batch import Batch
from flowvae.densities import LogDensities
from flowvae.noise import Noise


class Update(NamedTuple):
    """One step of one player's optimizer."""

    player: str
    loss: Tensor
    """a scalar, to be minimized by that player's parameters"""
    shown: Mapping[str, Tensor]
    """scalars for metrics.jsonl and the display, the most telling first"""


MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Model(nn.Module, ABC):
    """A module that a run can train, validate, average and resume.

    To make one of your own: say how a batch becomes losses (``updates``), and by which numbers the model is
    judged (``validate``, ``best``). What it can do besides is one of the base classes below: all that ask for
    it take the model as it is.

    While it is trained, torch's generator is seeded from (seed, step) before each step, and the same way
    before each validation. The caller's generator is left as it was.
    """

    best: str
    """the validation number that chooses the weights that are kept; lower is better"""

    levels: int | None = None
    """how many values, evenly from 0 to 1, a pixel takes; None where it does not matter"""

    def players(self) -> dict[str, nn.Module]:
        """The parts that have an optimizer each; by default the whole model is one."""
        return {"model": self}

    def optimizers(self) -> dict[str, MakeOptimizer]:
        """Optimizers of the model's own for some of its players; all others get that of the run."""
        return {}

    @abstractmethod
    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        """The losses of one step, in order; each player's parameters have moved before the next is asked for.

        What is hot goes through the ``forward`` of a player, which is what ``torch.compile`` compiles.
        """

    @abstractmethod
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Numbers of each image, [B] each, in ``eval()`` mode; lower is better."""

    def initialize(self, images: Tensor) -> None:
        """Initialize from training images [N, C, H, W] what starts from data; by default nothing.

        They are a random choice of up to 10,000, and are not said to be which.
        """

    def initialize_each(self, batches: Iterator[Batch]) -> None:
        """Initialize what there is of every training image, from all of them; by default nothing.

        Called after `initialize`. The batches come in the order of the split; what is not asked for is not
        read. Images that are binarized anew for every batch come as intensities.
        """

    def after_step(self) -> None:
        """What a step ends with, such as a projection of parameters; by default nothing."""


class Sampler(ABC):
    """Makes images up."""

    draws: bool = True
    """whether its samples are draws from p(x), or the means of p(x|z) for drawn codes"""

    @abstractmethod
    def sample(self, num_images: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Images [N, C, H, W].

        Args:
            num_images: N.
            noise: a generator to draw from, or None for torch's own.
            temperature: factor of the codes' distance from the mean of the prior; 1 is the model itself.

        Raises:
            UserError: a temperature other than 1, where there is no code to apply it to.
        """


class Scored(ABC):
    """Gives log p(x) exactly."""

    @abstractmethod
    def log_prob(self, images: Tensor) -> Tensor:
        """log p(x) in nats for images [B, C, H, W], [B]."""


class Bounded(ABC):
    """Gives lower bounds on log p(x) by samples of what it does not see: a code, or noise."""

    @abstractmethod
    def draws_for(self, images: Tensor, noise: Noise = None) -> Callable[[int], LogDensities | Tensor]:
        """What gives, for images [B, C, H, W] and asked for n, the log densities at n samples of each.

        What depends on an image alone is computed once. Where there is no code whose parts could be told
        apart, the log weights ``log p(x, u) / q(u|x)`` alone, [n, B].
        """


class Coded(ABC):
    """Has a code for every image, and an image for every code."""

    pixel_noise: tuple[int, ...] | None = None
    """shape of the uniform noise by which ``decode`` draws an image; None where it gives a mean"""

    @abstractmethod
    def center(self, images: Tensor) -> Tensor:
        """One code for each of the images [B, C, H, W], without noise, [B, D]."""

    @abstractmethod
    def decode(self, codes: Tensor, noise: Noise = None) -> Tensor:
        """Images [B, C, H, W] for codes [B, D]: means of p(x|z), or draws.

        ``noise``: uniform, [B, *pixel_noise], or a generator to draw it from.
        """

    @abstractmethod
    def path(self, first: Tensor, second: Tensor, steps: int) -> Tensor:
        """Codes [B, steps, D] on the way between images [B, C, H, W]."""

    def reconstruct(self, images: Tensor, noise: Noise = None) -> Tensor:
        """The images that the codes of images [B, C, H, W] belong to."""
        return self.decode(self.center(images), noise)


class Inferring(Coded, Bounded):
    """Has a distribution of codes for each image, and one of all codes."""

    dimension: int
    """D"""

    @abstractmethod
    def encode(self, images: Tensor, num_samples: int = 1, noise: Noise = None) -> Tensor:
        """Draws z [S, B, D] from q(z|x)."""

    @abstractmethod
    def unroll(
        self, images: Tensor, num_samples: int = 1, noise: Noise = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Draws before and after each transformation of the posterior, with log q(z|x): [S, B, D], [S, B]."""

    @abstractmethod
    def sample_codes(self, num_codes: int, noise: Noise = None, temperature: float = 1.0) -> Tensor:
        """Draws [N, D] from the prior p(z); ``temperature`` as in `Sampler.sample`."""


class Completions(NamedTuple):
    """Images whose hidden pixels a model filled in."""

    images: Tensor
    """[N, C, H, W]: known pixels as they were, the others at their mean given the code"""
    effective_samples: Tensor
    """[N]: how many of each chain's last candidates carry the weight, from 1 to their number"""


class Completing(ABC):
    """Fills in hidden pixels."""

    @abstractmethod
    def complete(
        self,
        image: Tensor,
        known: Tensor,
        count: int,
        sweeps: int = 20,
        candidates: int = 8,
        noise: Noise = None,
    ) -> Completions:
        """``count`` independent completions of an image [C, H, W] of which the pixels ``known`` are given."""


class Graph(NamedTuple):
    """A part of a model as a graph that draws nothing."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """examples, with sizes of 2 and more where a size is free"""
    free: tuple[dict[int, str], ...]
    """of each input, its axes whose sizes are free, with the names of these sizes"""
    outputs: list[str]


class Graphed(ABC):
    """Can be written as graphs that run where there is no PyTorch."""

    @abstractmethod
    def graphs(self, shape: tuple[int, int, int]) -> dict[str, Graph]:
        """The graphs by name, for images of ``shape`` (C, H, W)."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in ``eval()`` mode; each of its modules is left in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def log_mean_exp(values: Tensor) -> Tensor:
    """The logarithm of the mean of ``exp(values)`` over the first axis."""
    return values.logsumexp(0) - math.log(len(values))
