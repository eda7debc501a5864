"""What a run is made of: plain, frozen descriptions, checked when they are made."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowvae.errors import UserError, check_range, quoted
from flowvae.parts import LARGEST, LARGEST_SEED, MOST, check_positive, names, revised

if TYPE_CHECKING:
    from flowvae.batch import DataSpec
    from flowvae.models.base import Model

BUDGETS = {"epochs", "steps", "minutes"}


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how their pixels become binary."""

    data: str = "mnist"
    """data set: mnist (bundled), cifar10, svhn, celeba, omniglot or fashion-mnist (downloaded), or a path"""
    binarization: Literal["static", "dynamic", "threshold", "none"] = "static"
    """how grey pixels become binary: drawn once, drawn anew for every batch, cut at 128, or not at all"""
    image_size: int | None = None
    """side in pixels to which images of celeba [64], omniglot [28] and directories [unchanged] are resized"""

    def __post_init__(self) -> None:
        if "\0" in self.data:
            raise UserError(f"data is {quoted(self.data)}; a path has no null characters")
        if self.image_size is not None:
            check_range("image_size", self.image_size, 1, MOST)


class System(ABC):
    """A kind of model: a frozen dataclass of its options, that builds the model they describe.

    To add a system, write one file in `flowvae.models` with

    - its options: a frozen dataclass that subclasses this class, has a ``name``, and ``build``s the model;
    - its module: a `flowvae.models.base.Model`, with what it can do as further base classes from there;
    - ``PRESETS``, its named experiments;

    and a line in `flowvae.models.registry`. Options that only some choice of a part has are a
    `flowvae.parts.Part` each.
    """

    name: ClassVar[str]
    """what config.json calls it"""

    @abstractmethod
    def build(self, data: "DataSpec") -> "Model":
        """The model for such data, initialized from torch's generator.

        Raises:
            UserError: it cannot be built for them.
        """

    @abstractmethod
    def describe(self) -> str:
        """What the model is, in a few words, as the list of presets and the model card have it."""


@dataclass(frozen=True)
class TrainingConfig:
    """Budget, optimizer and records. Training ends when the first budget is used up."""

    epochs: int | None = None
    """budget in passes over the training images"""
    steps: int | None = None
    """budget in optimizer steps"""
    minutes: float | None = None
    """budget in minutes, validation included [10 where no budget is given]"""
    batch_size: int = 128
    """images per step, over all processes"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for convolution kernels and AdamW for all other parameters, or AdamW for all"""
    beta1: float = 0.9
    """decay of AdamW's running mean of gradients; 0 suits adversarial training"""
    learning_rate: float = 3e-3
    """highest learning rate; it rises linearly, then falls as a cosine until the budget ends"""
    learning_rate_warm_up: int = 200
    """steps until the learning rate is at its highest"""
    weight_decay: float = 0.1
    """decoupled weight decay of all parameters"""
    gradient_clipping: float = 200.0
    """largest norm of the gradient of a player; a longer one is scaled down to it"""
    averaging: float = 0.999
    """decay of the running average of the weights, which is what is evaluated"""
    validation_images: int = 2000
    """number of random validation images scored after every epoch, the same for every seed"""
    compile: bool = False
    """compile the training step with torch.compile: takes a minute, then up to a tenth faster"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """number format of the networks' products; log-determinants and log densities stay in float32 or wider"""
    gradient_checkpointing: bool = False
    """recompute a chain's transformations in the backward pass instead of storing them: saves memory"""
    start_from: str | None = None
    """directory of a run of the same model whose weights to start from"""
    track: Literal["tensorboard", "wandb", "trackio", "mlflow", "none"] = "tensorboard"
    """where metrics go besides metrics.jsonl; all but tensorboard need their package installed"""
    seed: int = 0
    """random seed for weights, batches and noise"""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "minutes"):
            budget = getattr(self, name)
            if budget is not None:
                check_positive(name, budget, LARGEST if name == "minutes" else MOST)
        for name in ("batch_size", "validation_images"):
            check_range(name, getattr(self, name), 1, MOST)
        check_range("learning_rate_warm_up", self.learning_rate_warm_up, 0, MOST)
        check_range("weight_decay", self.weight_decay, 0, LARGEST)
        for name in ("learning_rate", "gradient_clipping"):
            check_positive(name, getattr(self, name), LARGEST)
        check_range("seed", self.seed, 0, LARGEST_SEED)
        if self.start_from is not None and "\0" in self.start_from:
            raise UserError(f"start_from is {quoted(self.start_from)}; a path has no null characters")
        for name in ("averaging", "beta1"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; a decay lies in [0, 1)")

    def with_budget(
        self, *, epochs: int | None = None, steps: int | None = None, minutes: float | None = None
    ) -> "TrainingConfig":
        """The same with this budget in place of its own."""
        return dataclasses.replace(self, epochs=epochs, steps=steps, minutes=minutes)


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    model: System | None = None
    """None where the model is a module of the caller's own"""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def revised(self, **options: Any) -> "Config":
        """The same with other values of options, whichever of the three parts they belong to.

        A budget takes the place of all budgets.

        Raises:
            UserError: no such option, or a value that it cannot have.

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
