"""The contract between a model and the training loop, and the capabilities that a model may have."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowvae.batch import Batch, Given, labelled
from flowvae.densities import LogDensities
from flowvae.errors import UserError, check_some, did_you_mean, quoted
from flowvae.noise import Noise, integers

NO_MISSING = (
    "pixels are missing, which this model does not support; choose an autoencoder, pixelcnn or pixelrnn"
)


def check_tensor(name: str, values: object) -> None:
    """Check that the argument ``name`` is a tensor.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise UserError(f"a {kind} is given as {name}; give a tensor, such as torch.tensor({name})")


def check_observed(observed: Tensor, images: Tensor) -> None:
    """Check that the mask of known pixels is a bool tensor of the shape of the images.

    Raises:
        UserError: if it is not.
    """
    check_tensor("observed", observed)
    if observed.shape != images.shape or observed.dtype != torch.bool:
        raise UserError(
            f"observed is {observed.dtype} {list(observed.shape)}; give bool {list(images.shape)}"
        )


class Update(NamedTuple):
    """A loss for one step of one player's optimizer."""

    player: str
    loss: Tensor
    """scalar that the player's parameters minimize"""
    shown: Mapping[str, Tensor]
    """scalars for metrics.jsonl and the display, most important first"""


MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Source(NamedTuple):
    """A run that a part of a new model takes its weights from."""

    run: str
    """its directory"""
    system: str
    """the system that it must have"""
    options: Mapping[str, Any]
    """those of its model's options on which the shapes of the weights depend, with the values of the part"""


class Model(nn.Module, ABC):
    """A module that a run can train, validate, average and resume.

    To write your own, define the losses of a batch (``updates``) and the numbers that the model is judged by
    (``validate``, ``best``). Further capabilities are the base classes below; commands and the explorer check
    for them.

    In training, torch's generator is seeded from (seed, step) before each step, and with a constant before
    each validation. The caller's generator is left unchanged.
    """

    best: str
    """name of the validation number that chooses the weights to keep; lower is better"""

    levels: int | None = None
    """number of values, evenly spaced from 0 to 1, that a pixel takes; None if any"""

    margin: float = 0.0
    """how far below 0 or above 1 a pixel may be, as in images that a model of continuous pixels draws"""

    image_shape: tuple[int, int, int] | None = None
    """(C, H, W) of the images that the model was built for; None if unknown"""

    draws_weights: bool = False
    """whether training draws weights from a posterior: a run then averages none and keeps the last"""

    conditional: bool = False
    """whether the model is one of images given their labels, p(x|y)"""

    classes: int = 0
    """number of classes, if the model has any"""

    accepts_missing: bool = False
    """whether pixels of images may be missing"""

    def given(self, batch: Batch) -> Given:
        """Return the arguments besides images that this model takes: ``labels``, ``observed``, or none.

        Raises:
            UserError: if pixels are missing, and the model does not accept that.
        """
        found = Given()
        if self.conditional and batch.labels is not None:
            found["labels"] = batch.labels
        if batch.observed is not None:
            if not self.accepts_missing:
                raise UserError(NO_MISSING)
            found["observed"] = batch.observed
        return found

    def check(self, images: Tensor, **given: Unpack[Given]) -> None:
        """Check that images are [B, C, H, W], of the model's shape, type and levels, and in [0, 1].

        There must be one. Pixels may be outside by `margin`, and of half precision inside autocast.

        And that ``observed`` is bool of the same shape, if pixels may be missing, and that there are labels
        if the model is conditional: see `check_labels`.

        A model that states neither shape nor levels, such as one with a likelihood of your own, takes any
        images. Methods that take images call it, except for those that training uses: ``updates``,
        ``validate`` and ``forward``.

        Raises:
            UserError: if they are not.
        """
        for name in given.keys() - Given.__annotations__.keys():
            raise UserError(f"a model takes no {quoted(name)}; {did_you_mean(name, Given.__annotations__)}")
        observed = given.get("observed")
        check_tensor("images", images)
        check_some(images)
        images = images.detach()
        self.check_labels(given.get("labels"), len(images))
        if observed is not None and not self.accepts_missing:
            raise UserError(NO_MISSING)
        if observed is not None:
            check_observed(observed, images)
        shape, sides = self.image_shape, tuple(images.shape)
        if shape is None and self.levels is None:
            return
        if shape is not None and (len(sides) != 4 or sides[1:] != shape):
            expected = ", ".join(map(str, ("B", *shape)))
            raise UserError(f"images have the shape {list(sides)}; give the model images [{expected}]")
        if not images.is_floating_point():
            raise UserError(f"images are {images.dtype}; give floats from 0 to 1, such as bytes / 255")
        self._check_type("images", images)
        lowest, highest = (float(end) for end in images.aminmax())
        if not -self.margin <= lowest <= highest <= 1 + self.margin:  # nor with NaN
            raise UserError(f"images have values from {lowest:g} to {highest:g}; scale them to 0 to 1")
        if self.levels is None:
            return
        steps = self.levels - 1
        between = float((images * steps - (images * steps).round()).abs().max())
        if between > max(1e-3, steps * torch.finfo(images.dtype).eps):
            way = "binarize them, for example with torch.bernoulli(images)"
            if self.levels > 2:
                way = f"round them: (images * {steps}).round() / {steps}"
            values = "0 and 1" if self.levels == 2 else f"the {self.levels} levels k / {steps}"
            raise UserError(f"images have values other than {values}, which the model's pixels take; {way}")

    def check_codes(self, codes: Tensor, dimension: int) -> None:
        """Check that codes are [B, D], and of the type of the weights, or of another one inside autocast.

        Raises:
            UserError: if they are not.
        """
        check_tensor("codes", codes)
        if codes.ndim != 2 or codes.shape[1] != dimension:
            raise UserError(f"codes have the shape {list(codes.shape)}; the model decodes [B, {dimension}]")
        self._check_type("codes", codes)

    def _check_type(self, name: str, values: Tensor) -> None:
        weights = next(self.parameters(), values).dtype
        cast = torch.is_autocast_enabled(values.device.type) and torch.float64 not in (values.dtype, weights)
        if values.dtype != weights and not cast:
            raise UserError(
                f"{name} are {values.dtype}, and the model's weights {weights}; give {name}.to({weights})"
            )

    def check_labels(self, labels: Tensor | None, number: int) -> None:
        """Check that there are ``number`` labels of the model's classes; none if it is not conditional.

        Raises:
            UserError: if they are not.
        """
        if labels is None and not self.conditional:
            return
        if not self.conditional:
            raise UserError("labels are given, and the model is not conditional on them; omit them")
        if labels is None:
            raise UserError(self._no_labels())
        if not isinstance(labels, Tensor):
            raise UserError(f"labels are a {type(labels).__name__}; give a tensor of torch.int64")
        if labels.dtype != torch.int64:
            raise UserError(f"labels are {labels.dtype}; give torch.int64, such as labels.to(torch.int64)")
        if tuple(labels.shape) != (number,):
            raise UserError(f"labels have the shape {list(labels.shape)}; give one per image, [{number}]")
        if number and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            outside = int(labels.min() if labels.min() < 0 else labels.max())
            raise UserError(f"a label is {outside}; the model has the classes 0 to {self.classes - 1}")

    def _no_labels(self) -> str:
        return (
            f"the model is conditional, p(x|y), and labels are missing; give labels 0 to {self.classes - 1}"
        )

    def labels_to_sample(
        self, number: int, labels: Tensor | None, noise: Noise, like: Tensor
    ) -> Tensor | None:
        """Return the labels of ``number`` samples: those given, or else drawn uniformly from the classes.

        They are on the device of ``like``; None if the model is not conditional.

        Raises:
            UserError: as in `check_labels`.
        """
        if labels is None and self.conditional:
            generator = noise if isinstance(noise, torch.Generator) else None
            return integers(generator, self.classes, (number,), like)
        self.check_labels(labels, number)
        return None if labels is None else labels.to(like.device)

    def players(self) -> dict[str, nn.Module]:
        """Return the parts that have an optimizer each; by default, the whole model is one."""
        return {"model": self}

    def optimizers(self) -> dict[str, MakeOptimizer]:
        """Return the model's own optimizers for some of its players; the others use that of the run."""
        return {}

    @abstractmethod
    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        """Yield the losses of one step, in order; each optimizer steps before the next loss is computed.

        Expensive computations should go through a player's ``forward``, which ``torch.compile`` compiles.
        """

    @abstractmethod
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Compute numbers per image, [B] each, in ``eval()`` mode; lower is better."""

    def initialize(self, images: Tensor) -> None:
        """Initialize from data, from training images [N, C, H, W]; by default, do nothing.

        The images are a random choice of at most 10,000. Missing pixels have the mean of the known values.
        """

    def initialize_each(self, batches: Iterator[Batch]) -> None:
        """Initialize what exists per training image, from all of them; by default, do nothing.

        Called after `initialize`. The batches are in the order of the split, and are read only when
        requested. Under dynamic binarization they contain intensities, and missing pixels have the mean of
        the known values.
        """

    def check_steps(self, steps: int) -> None:
        """Check that a training of so many steps is enough; by default, any is.

        Called before it, unless the budget is in minutes alone, and after it, for a warning.

        Raises:
            UserError: if it is not.
        """

    def sources(self) -> Mapping[str, Source]:
        """Return the runs that parts take their weights from before training, by the parts' names."""
        return {}

    def after_step(self) -> None:
        """Finish a step, for example by projecting parameters; by default, do nothing."""


class Sampler(ABC):
    """A model that draws samples."""

    draws: bool = True
    """whether samples are draws from p(x), rather than means of p(x|z) for drawn codes"""

    draws_pixels: bool = False
    """whether `draw` draws the pixels of images of which samples are the means"""

    @abstractmethod
    def sample(
        self,
        num_images: int,
        noise: Noise = None,
        temperature: float = 1.0,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draw images [N, C, H, W].

        Args:
            num_images: N.
            noise: a generator to draw from, or None for torch's own.
            temperature: factor on the codes' distance from the mean of the prior; 1 samples the model itself.
            labels: classes of the images, int64 [N], if the model is conditional; by default, they are drawn,
                each with the same probability.

        Raises:
            UserError: for a temperature other than 1, if the model has no code.
        """

    def draw(self, num_images: int, labels: Tensor | None = None) -> Tensor:
        """Draw images [N, C, H, W] from p(x), with their pixels, from torch's own generator.

        By default, `sample`. A model whose samples are means of a distribution p(x|z) overrides it, and
        ``draws_pixels``. ``labels`` as in `sample`.
        """
        return self.sample(num_images, **labelled(labels))


class Scored(ABC):
    """A model with an exact log p(x)."""

    @abstractmethod
    def log_prob(self, images: Tensor, **given: Unpack[Given]) -> Tensor:
        """Compute log p(x) in nats, [B], for images [B, C, H, W]; or of ``observed`` pixels only."""


class Bounded(ABC):
    """A model with lower bounds on log p(x), from samples of a latent variable: a code, or noise."""

    @abstractmethod
    def draws_for(
        self, images: Tensor, noise: Noise = None, **given: Unpack[Given]
    ) -> Callable[[int], LogDensities | Tensor]:
        """Return a function of n: the log densities at n samples for each of the images [B, C, H, W].

        Likelihoods are those of the ``observed`` pixels, bool [B, C, H, W]; by default, of all. What depends
        on the image only is computed once. A model without a code returns just the log weights
        ``log p(x, u) / q(u|x)``, [n, B].
        """


class Classifying(ABC):
    """A model that predicts the class of an image."""

    classes: int

    @abstractmethod
    def classify(self, images: Tensor) -> Tensor:
        """Compute log q(y|x) of each class, [B, classes], for images [B, C, H, W]."""


class Coded(ABC):
    """A model with a code for every image, and an image for every code."""

    pixel_noise: tuple[int, ...] | None = None
    """shape of the uniform noise by which ``decode`` draws an image; None if it returns means"""

    @abstractmethod
    def center(self, images: Tensor, **given: Unpack[Given]) -> Tensor:
        """Encode images [B, C, H, W] without noise: one code each, [B, D]."""

    @abstractmethod
    def decode(self, codes: Tensor, noise: Noise = None, labels: Tensor | None = None) -> Tensor:
        """Decode codes [B, D] to images [B, C, H, W]: means of p(x|z), or draws.

        ``noise``: uniform, [B, *pixel_noise], or a generator to draw it from; ``labels``: int64 [B], if the
        model is conditional.
        """

    @abstractmethod
    def path(
        self, first: Tensor, second: Tensor, steps: int, given: tuple[Given, Given] | None = None
    ) -> Tensor:
        """Interpolate between images [B, C, H, W]: codes [B, steps, D].

        ``given``: what the model takes besides the first and besides the second images.
        """

    def reconstruct(self, images: Tensor, noise: Noise = None, **given: Unpack[Given]) -> Tensor:
        """Encode images [B, C, H, W] and decode their codes."""
        return self.decode(self.center(images, **given), noise, **labelled(given.get("labels")))


class Generating(ABC):
    """A model of codes and of images given their code, p(z) and p(x|z), both differentiable in z."""

    dimension: int
    """D, number of latent dimensions"""

    needs_variance: bool = False
    """whether p(x|z) is a Gaussian around a generated image, with a variance that the caller chooses"""

    @abstractmethod
    def sample_codes(
        self,
        num_codes: int,
        noise: Noise = None,
        temperature: float = 1.0,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draw codes [N, D] from the prior p(z); from p(z|y) for ``labels`` [N] if the model is conditional.

        ``temperature`` as in `Sampler.sample`.
        """

    @abstractmethod
    def code_density(self, labels: Tensor | None = None) -> Distribution:
        """Return p(z), batch shape []; for ``labels`` of a conditional model p(z|y), batch shape [B]."""

    @abstractmethod
    def image_density(
        self, variance: float | None = None, labels: Tensor | None = None
    ) -> Callable[[Tensor], Distribution]:
        """Return a function from codes z [S, B, D] to p(x|z), batch shape [S, B], event shape [C, H, W].

        Args:
            variance: of each pixel, if the model `needs_variance`.
            labels: int64 [B], if the model is conditional.

        Raises:
            UserError: if log p(x|z) is random, or cannot be differentiated.
        """


class Inferring(Coded, Bounded, Generating):
    """A model with a posterior over the codes of an image, and a prior over codes."""

    @abstractmethod
    def posterior_density(self, images: Tensor, **given: Unpack[Given]) -> Callable[[Tensor], Tensor]:
        """Return log q(z|x) of images [B, C, H, W] as a function of any codes z [S, B, D], values [S, B].

        Raises:
            NotInvertibleError: here or in the function, if only draws have a known density.
        """

    @abstractmethod
    def encode(
        self, images: Tensor, num_samples: int = 1, noise: Noise = None, **given: Unpack[Given]
    ) -> Tensor:
        """Draw z [S, B, D] from q(z|x)."""

    @abstractmethod
    def unroll(
        self, images: Tensor, num_samples: int = 1, noise: Noise = None, **given: Unpack[Given]
    ) -> list[tuple[Tensor, Tensor]]:
        """Draw z and its log density before and after each transformation: pairs [S, B, D], [S, B]."""


class Graph(NamedTuple):
    """A part of a model as a deterministic graph."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """example inputs, with at least 2 entries along each dynamic axis"""
    free: tuple[dict[int, str], ...]
    """dynamic axes of each input, with the names of their sizes"""
    outputs: list[str]


class Graphed(ABC):
    """A model that can be exported as graphs, which run without PyTorch."""

    @abstractmethod
    def graphs(self, shape: tuple[int, int, int]) -> dict[str, Graph]:
        """Return the graphs by name, for images of ``shape`` (C, H, W)."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into ``eval()`` mode, and restore the mode of each module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
