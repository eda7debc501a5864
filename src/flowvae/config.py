"""The configuration of a run: frozen dataclasses, checked when they are created."""

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowvae.errors import UserError, check_range, quoted
from flowvae.parts import LARGEST, LARGEST_SEED, MOST, Options, check_positive, names, ranged, revised

if TYPE_CHECKING:
    from flowvae.batch import DataSpec
    from flowvae.models.base import Model

Marker = Literal["nan", "alpha"] | tuple[float, ...]
"""what marks missing pixels: NaN, transparency, or a value of each channel or of all"""
BUDGETS = {"epochs", "steps", "minutes"}


@dataclass(frozen=True)
class DataConfig(Options):
    """The images, and the binarization of their pixels."""

    data: str = "mnist"
    """data set: mnist (bundled), cifar10, svhn, celeba, omniglot or fashion-mnist (downloaded), or a path"""
    binarization: Literal["static", "dynamic", "threshold", "none"] = "static"
    """binarization of grey pixels: drawn once, redrawn for every batch, thresholded at 128, or none"""
    image_size: int | str | None = None
    """side in pixels, or HEIGHTxWIDTH, to resize images to [64 for celeba, 28 for omniglot, else none]"""
    value_range: tuple[float, float] | None = None
    """values that become black and white, in arrays and directories [0 255, or 0 1 for floats k / 255]"""
    grey: bool = False
    """convert images of three channels to one"""
    missing: str | None = None
    """what marks missing pixels: nan, alpha, or a value or colour such as 128 or 255,0,255"""
    hide: float | str | None = None
    """pixels to hide: the probability of each, or HEIGHTxWIDTH of a rectangle at a random place"""
    training_images: int | None = None
    """number of training images to use, the first ones [all]"""
    train_on_validation: bool = False
    """add the validation images to the training images, for comparisons with models that had both"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "\0" in self.data:
            raise UserError(f"data is {quoted(self.data)}; a path cannot contain null characters")
        if self.image_size is not None:
            height, width = sides_of(self.image_size)
            if height == width:  # however it was written, it is the same
                object.__setattr__(self, "image_size", height)
        if self.value_range is not None:
            check_value_range(self.value_range)
        if self.missing is not None:
            marker_of(self.missing)
        if self.hide is not None and isinstance(hidden := hidden_of(self.hide), float):
            object.__setattr__(self, "hide", hidden)
        if self.training_images is not None:
            check_range("training_images", self.training_images, 1, MOST)

    @property
    def marker(self) -> Marker | None:
        """What marks missing pixels; None if nothing does."""
        return None if self.missing is None else marker_of(self.missing)


def sides_of(image_size: int | str) -> tuple[int, int]:
    """Return (height, width).

    >>> sides_of(32), sides_of("30x45")
    ((32, 32), (30, 45))

    Raises:
        UserError: if it is neither a side nor HEIGHTxWIDTH.
    """
    words = str(image_size).lower().split("x")
    if not (len(words) in (1, 2) and all(re.fullmatch("[0-9]{1,9}", word) for word in words)):
        raise UserError(f"image_size is {quoted(image_size)}; give a side, or HEIGHTxWIDTH such as 32x48")
    height, width = int(words[0]), int(words[-1])
    for side in (height, width):
        check_range("image_size", side, 1, MOST)
    return height, width


def marker_of(missing: str) -> Marker:
    """Return what marks missing pixels: a name, or the value of each channel.

    >>> marker_of("NaN"), marker_of("128"), marker_of("255,0,255")
    ('nan', (128.0,), (255.0, 0.0, 255.0))

    Raises:
        UserError: if it is nothing of this.
    """
    text = missing.lower()
    if text == "nan" or text == "alpha":
        return text
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise UserError(
            f"missing is {quoted(missing)}; give nan, alpha, a value such as 128, or a colour such as "
            "255,0,255"
        )
    return values


def hidden_of(hide: float | str) -> float | tuple[int, int]:
    """Return the probability with which each pixel is hidden, or (height, width) of a hidden rectangle.

    >>> hidden_of("0.25"), hidden_of("14x10")
    (0.25, (14, 10))

    Raises:
        UserError: if it is neither.
    """
    text = str(hide).lower()
    if re.fullmatch("[0-9]{1,9}x[0-9]{1,9}", text):
        height, width = map(int, text.split("x"))
        if height and width:
            return height, width
    try:
        if 0 < float(text) < 1:
            return float(text)
    except ValueError:
        pass
    raise UserError(
        f"hide is {quoted(hide)}; give a probability between 0 and 1, or HEIGHTxWIDTH such as 14x14"
    )


def check_value_range(value_range: tuple[float, float]) -> None:
    """Check that a range of values is not empty.

    Raises:
        UserError: if it is.
    """
    low, high = value_range
    if not -LARGEST <= low < high <= LARGEST:
        raise UserError(f"value_range is {low:g} {high:g}; give the darkest value, then the brightest")


class System(Options, ABC):
    """A kind of model: a frozen dataclass of options that builds the model they describe.

    To add a system, write one file in `flowvae.models` with

    - its options: a frozen dataclass that subclasses this class, has a ``name``, and ``build``s the model;
    - its module: a `flowvae.models.base.Model`, with a further base class from there for each capability;
    - ``PRESETS``, its named experiments;

    and add a line to `flowvae.models.registry`. Put options that belong to one choice of a part into a
    `flowvae.parts.Part`.
    """

    name: ClassVar[str]
    """name of the system in config.json"""

    @abstractmethod
    def build(self, data: "DataSpec") -> "Model":
        """Build the model for this data, initialized from torch's generator.

        Raises:
            UserError: if the model does not support this data.
        """

    @abstractmethod
    def describe(self) -> str:
        """Describe the model in a few words, for the list of presets and the model card."""


@dataclass(frozen=True)
class TrainingConfig(Options):
    """Budget, optimizer and tracking. Training ends when the first of the budgets is used up."""

    epochs: int | None = None
    """budget in epochs, passes over the training images"""
    steps: int | None = None
    """budget in optimizer steps"""
    minutes: float | None = None
    """budget in minutes, validation included [10 if no budget is given]"""
    batch_size: int = ranged(128, 1, MOST)
    """number of images per step, over all processes"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for convolution kernels and AdamW for all other parameters, or AdamW for all"""
    beta1: float = 0.9
    """decay of AdamW's running mean of gradients; 0 suits adversarial training"""
    learning_rate: float = 3e-3
    """highest learning rate, reached by linear warm-up and followed by cosine decay to 0"""
    learning_rate_warm_up: int = ranged(200, 0, MOST)
    """number of steps of linear warm-up"""
    weight_decay: float = ranged(0.1, 0, LARGEST)
    """decoupled weight decay of all parameters"""
    gradient_clipping: float = 200.0
    """largest gradient norm per optimizer; larger gradients are scaled down to it"""
    averaging: float = 0.999
    """decay of the exponential moving average of the weights, which is what is evaluated and saved"""
    patience: float = ranged(0.5, 0, LARGEST)
    """steps to wait for a better validation before dropout rises, or training ends, as a fraction of those up
    to the best one, and at least 500 and three validations; 0 to wait for ever"""
    validation_images: int = ranged(2000, 1, MOST)
    """number of random validation images, the same for every seed, scored after every epoch, or after so many
    that more images have been trained on"""
    compile: bool = False
    """compile the model with torch.compile: takes about a minute, then training is up to 10% faster"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """precision of the networks and of Muon's products; log-determinants and log densities stay float32 or
    wider"""
    gradient_accumulation: int = ranged(1, 1, MOST)
    """number of portions of a batch that are computed one after the other, to save memory; the result is the
    same"""
    gradient_checkpointing: bool = False
    """recompute flow transformations in the backward pass instead of storing them, to save memory"""
    start_from: str | None = None
    """directory of a run of the same model, or of one with fewer orders, to take the initial weights from"""
    track: Literal["tensorboard", "wandb", "trackio", "mlflow", "none"] = "tensorboard"
    """tracker for the metrics besides metrics.jsonl; all but tensorboard need their package installed"""
    seed: int = ranged(0, 0, LARGEST_SEED)
    """random seed for weights, batches and noise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "steps", "minutes"):
            budget = getattr(self, name)
            if budget is not None:
                check_positive(name, budget, LARGEST if name == "minutes" else MOST)
        for name in ("learning_rate", "gradient_clipping"):
            check_positive(name, getattr(self, name), LARGEST)
        if self.start_from is not None and "\0" in self.start_from:
            raise UserError(f"start_from is {quoted(self.start_from)}; a path cannot contain null characters")
        for name in ("averaging", "beta1"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")

    def with_budget(
        self, *, epochs: int | None = None, steps: int | None = None, minutes: float | None = None
    ) -> "TrainingConfig":
        """Return a copy with this budget in place of its own."""
        return dataclasses.replace(self, epochs=epochs, steps=steps, minutes=minutes)


@dataclass(frozen=True)
class Config:
    """An experiment: data, model and training."""

    data: DataConfig = field(default_factory=DataConfig)
    model: System | None = None
    """None if the model is a module of your own"""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def revised(self, **options: Any) -> "Config":
        """Return a copy with other values of options of data, model or training.

        A new budget replaces all budgets.

        Raises:
            UserError: if there is no such option, or a value is invalid.

        >>> from flowvae.models.registry import preset
        >>> config = preset("realnvp-5").revised(posterior="iaf", latent=10, steps=100)
        >>> config.model.posterior.transformations, config.training.steps
        (5, 100)
        """
        training = self.training.with_budget() if BUDGETS & options.keys() else self.training
        mine = {part: {} for part in ("data", "training", "model")}
        for name, value in options.items():
            part = "data" if name in names(DataConfig) else "training" if name in names(training) else "model"
            mine[part][name] = value
        if self.model is None and mine["model"]:
            raise UserError(f"no option {min(mine['model'])}; the model is not one of flowvae's systems")
        return Config(
            revised(self.data, mine["data"]),
            self.model and revised(self.model, mine["model"]),
            revised(training, mine["training"]),
        )
