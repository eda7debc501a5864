"""What a run is made of: plain, frozen, serializable descriptions, checked when they are made."""

import dataclasses
import types
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from flowvae.errors import UserError, check_range, did_you_mean, quoted

MOST = 2**31 - 1
"""of anything that is counted: products of two of them still fit into the 64 bits of a tensor's size"""
WIDEST, DEEPEST = 2**16, 1000
"""sizes of one layer, and layers of one kind, which are built one after another"""
LARGEST = 10**18
"""of numbers that need not be whole: products of two of them still fit into 32 bits"""
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class DataConfig:
    """Which images."""

    data: str = "mnist"
    """mnist (bundled), cifar10, svhn, celeba, omniglot or fashion-mnist (fetched), or a path: docs/data.md"""
    binarization: Literal["static", "dynamic", "threshold", "none"] = "static"
    """how grey pixels become binary: once with a fixed seed, anew for every batch, at 128, or not at all"""
    image_size: int | None = None
    """side that images of celeba [64], omniglot [28] and of folders [as they are] are resized to"""

    def __post_init__(self) -> None:
        if "\0" in self.data:
            raise UserError(f"data is {quoted(self.data)}; a path has no null characters")
        if self.image_size is not None:
            check_range("image_size", self.image_size, 1, MOST)


@dataclass(frozen=True)
class ModelConfig:
    """Which model."""

    family: Literal["vae", "pixelcnn", "realnvp"] = "vae"
    """an autoencoder; or, without a code, the causal network alone, or Real NVP as a density"""
    posterior: Literal["gaussian", "planar", "realnvp", "iaf"] = "gaussian"
    """family of q(z|x)"""
    transformations: int = 0
    """K, flow transformations after the Gaussian; of the family realnvp, at each scale"""
    flow_of: Literal["code", "noise"] = "code"
    """what the posterior's flow transforms: the Gaussian's code, or its noise, before mean and scale"""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """of the posterior's Gaussian; a full one is a triangular factor from the embedding"""
    code: Literal["vector", "map"] = "vector"
    """what z is: D numbers, or maps at a quarter of the images' sides, with convolutional flows"""
    latent: int = 40
    """D, latent dimensions; of a code that is a map, its channels"""
    features: int = 256
    """width of the encoder's embedding, and of the decoder's first layer"""
    channels: int = 64
    """width of the convolutions at a quarter of the images' sides; half as many at half of them"""
    blocks: int = 1
    """residual blocks at either size, of encoder and of decoder; or of each convolutional conditioner"""
    hidden: int = 128
    """hidden units, or channels, of the flow's conditioners"""
    context: bool = True
    """conditioners see the encoder's embedding"""
    normalization: Literal["none", "weight", "batch", "act"] = "none"
    """normalization inside the conditioners"""
    flow_batch_norm: bool = False
    """batch normalization as a flow after each transformation"""
    bounded: bool = True
    """bound the log scale of affine transformations"""
    prior: Literal["normal", "realnvp", "vamp"] = "normal"
    """p(z): standard normal, one that Real NVP transforms, or the mixture of posteriors of pseudo-inputs"""
    prior_transformations: int = 0
    """Real NVP transformations of the prior"""
    pseudo_inputs: int = 100
    """pseudo-inputs of the vamp prior"""
    likelihood: Literal["bernoulli", "causal", "logistic", "logistic-mixture"] = "bernoulli"
    """p(x|z): of binary pixels, independent or in patches of 2x2, each given those before it; or of 8-bit
    ones, as a discretized logistic or a mixture of them"""
    components: int = 5
    """of a logistic-mixture"""
    causal_channels: int = 64
    """width of the causal network"""
    causal_blocks: int = 4
    """gated blocks of the causal network"""
    causal_dropout: float = 0.0
    """share of the causal network's gated activations that are dropped in training"""
    causal_orders: int = 1
    """orders of the patches, up to 8, that the causal network learns, and whose mixture the likelihood is"""

    def __post_init__(self) -> None:
        for name in (
            "latent",
            "features",
            "channels",
            "hidden",
            "pseudo_inputs",
            "causal_channels",
            "components",
        ):
            check_range(name, getattr(self, name), 1, WIDEST)
        for name in ("blocks", "transformations", "prior_transformations", "causal_blocks"):
            check_range(name, getattr(self, name), 0, DEEPEST)
        if not 0 <= self.causal_dropout < 1:
            raise UserError(f"causal_dropout is {self.causal_dropout}; a share lies in [0, 1)")
        check_range("causal_orders", self.causal_orders, 1, 8)
        if self.family == "vae":
            self._check_autoencoder()
        else:
            self._check_used(_FAMILIES[self.family])
        if self.family == "realnvp":
            _at_least(1, "transformations", self.transformations)

    def _check_used(self, used: frozenset[str]) -> None:
        """A family without a code says so, rather than record what it leaves out."""
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if setting.name not in used and value != setting.default:
                raise UserError(
                    f"{setting.name} is {value}, but the family {self.family} has no such thing; leave it out"
                )

    def _check_autoencoder(self) -> None:
        _at_least(2, "channels", self.channels)  # half as many at half of the images' sides
        if self.posterior == "gaussian" and self.transformations:
            raise UserError("a gaussian posterior has no transformations; choose planar, realnvp or iaf")
        if self.posterior == "gaussian" and self.flow_of == "noise":
            raise UserError(
                "flow_of is noise, and a gaussian posterior has no flow; choose planar, realnvp or iaf"
            )
        if self.posterior != "gaussian":
            _at_least(1, "transformations", self.transformations)
        if self.posterior == "realnvp":
            _at_least(2, "latent", self.latent)
        elif self.normalization != "none" and (self.prior != "realnvp" or self.normalization == "batch"):
            raise UserError(
                f"only the conditioners of realnvp can be normalized, not those of {self.posterior}"
            )
        if self.code == "map":
            self._check_map()
        elif self.posterior == "iaf":
            # Fewer, and some dimensions would see nothing of others.
            _at_least(self.latent - 1, "hidden", self.hidden)
        if self.flow_batch_norm and self.posterior not in ("realnvp", "iaf"):
            raise UserError(
                f"batch norm goes between transformations of realnvp and iaf, not {self.posterior}"
            )
        if self.covariance == "full" and (self.code == "map" or self.prior == "vamp"):
            what = "a code that is a map" if self.code == "map" else "the vamp prior"
            raise UserError(
                f"{what} takes a Gaussian of independent dimensions; choose --covariance diagonal"
            )
        if self.prior == "realnvp":
            _at_least(1, "prior_transformations", self.prior_transformations)
            _at_least(2, "latent", self.latent)
        elif self.prior_transformations:
            raise UserError(f"a {self.prior} prior has no transformations; choose --prior realnvp")

    def _check_map(self) -> None:
        if self.posterior == "iaf":
            raise UserError("iaf transforms vectors; for a code that is a map choose realnvp or planar")
        if self.hidden % 4 and self.posterior == "realnvp":
            raise UserError(f"hidden is {self.hidden}; the conditioners of maps take a multiple of 4")


_FAMILIES = {
    "pixelcnn": frozenset({"family", "causal_channels", "causal_blocks", "causal_dropout", "causal_orders"}),
    "realnvp": frozenset(
        {"family", "transformations", "hidden", "blocks", "normalization", "flow_batch_norm", "bounded"}
    ),
}
"""What models without a code take of a `ModelConfig`."""


@dataclass(frozen=True)
class TrainingConfig:
    """How it is trained. Training ends with the first budget that is used up."""

    epochs: int | None = None
    """budget in passes over the training images"""
    steps: int | None = None
    """budget in optimizer steps"""
    minutes: float | None = None
    """budget in minutes, validation included [10 where no budget is given]"""
    batch_size: int = 128
    """images a step, over all processes"""
    objective: Literal["elbo", "importance-weighted"] = "elbo"
    """what is maximized; validation follows it"""
    samples: int = 1
    """S, posterior samples an image in training"""
    path_derivative: bool = True
    """of the ELBO: the gradient takes log q(z|x) through z alone, which is less noisy; not with batch norm"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for the kernels of convolutions and AdamW for the rest, or AdamW for all"""
    learning_rate: float = 3e-3
    """highest rate of the optimizer; it rises in a line, then falls as a cosine to the end of the budget"""
    learning_rate_warm_up: int = 200
    """steps until the highest rate"""
    weight_decay: float = 0.1
    """decoupled weight decay, of all parameters"""
    kl_warm_up: int = 500
    """steps over which the weight of log p(z) - log q(z|x), the KL term, rises from 0 to 1"""
    free_bits: float = 0.0
    """nats of KL that cost nothing"""
    gradient_clipping: float = 200.0
    """largest norm of the gradient"""
    averaging: float = 0.999
    """decay of the average of weights used for evaluation"""
    validation_images: int = 2000
    """validation images, drawn at random, the same for every seed, that are scored after every epoch"""
    compile: bool = False
    """torch.compile the training step: a minute first, then up to a tenth faster"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the networks' products; log-determinants and log densities are never less than float32"""
    gradient_checkpointing: bool = False
    """compute a chain's transformations twice, and keep only what lies between them: for deep chains"""
    start_from: str | None = None
    """folder of a run of the same model, whose weights are those to begin with"""
    track: Literal["tensorboard", "wandb", "trackio", "mlflow", "none"] = "tensorboard"
    """where metrics go beside metrics.jsonl; all but tensorboard want their package installed"""
    seed: int = 0
    """of weights, batches and noise"""

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "minutes"):
            budget = getattr(self, name)
            if budget is not None:
                _positive(name, budget, LARGEST if name == "minutes" else MOST)
        for name in ("batch_size", "samples", "validation_images"):
            check_range(name, getattr(self, name), 1, MOST)
        for name in ("learning_rate_warm_up", "kl_warm_up"):
            check_range(name, getattr(self, name), 0, MOST)
        for name in ("free_bits", "weight_decay"):
            check_range(name, getattr(self, name), 0, LARGEST)
        for name in ("learning_rate", "gradient_clipping"):
            _positive(name, getattr(self, name), LARGEST)
        check_range("seed", self.seed, 0, LARGEST_SEED)
        if self.start_from is not None and "\0" in self.start_from:
            raise UserError(f"start_from is {quoted(self.start_from)}; a path has no null characters")
        if self.free_bits and self.objective != "elbo":
            raise UserError(f"free_bits belong to the ELBO; the objective is {self.objective}")
        if not 0 <= self.averaging < 1:
            raise UserError(f"averaging is {self.averaging}; a decay lies in [0, 1)")

    def with_budget(
        self, *, epochs: int | None = None, steps: int | None = None, minutes: float | None = None
    ) -> "TrainingConfig":
        """The same with this budget in place of its own."""
        return dataclasses.replace(self, epochs=epochs, steps=steps, minutes=minutes)


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        batch_norm = self.model.normalization == "batch" or self.model.flow_batch_norm
        if self.training.gradient_checkpointing and batch_norm:
            raise UserError(
                "gradient_checkpointing computes twice what moves the statistics of batch norm; choose "
                "--normalization weight or act"
            )


def to_dict(config: Config) -> dict[str, Any]:
    """A JSON-able form; `from_dict` undoes it."""
    return dataclasses.asdict(config)


T = TypeVar("T")


def from_dict(kind: type[T], values: Any) -> T:
    """The configuration ``kind`` from the form that `to_dict` gives.

    Raises:
        UserError: an unknown name (with the nearest known one), a value of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} is {quoted(values)}; expected names and values")
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise UserError(f"{kind.__name__} has no {quoted(name)}; {did_you_mean(str(name), hints)}")
    return kind(**{name: _checked(hints[name], name, value) for name, value in values.items()})


def _checked(hint: Any, name: str, value: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value)  # type: ignore[arg-type]  # a class, not an instance
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise UserError(f"{name} is {quoted(value)}; {did_you_mean(str(value), allowed)}")
        return value
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and type(value) is int and abs(value) <= 2**53:  # a float holds it exactly
        value = float(value)
    if type(value) not in kinds:  # `isinstance` would take True for an int
        names = ("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise UserError(f"{name} is {quoted(value)}; expected {' or '.join(names)}")
    return value


def _at_least(lowest: int, name: str, value: float) -> None:
    if not value >= lowest:  # as is nan
        raise UserError(f"{name} is {value}; it must be at least {lowest}")


def _positive(name: str, value: float, highest: float) -> None:
    if not 0 < value <= highest:  # as is nan
        raise UserError(f"{name} is {quoted(value)}; it must be larger than 0, and at most {highest:,}")
