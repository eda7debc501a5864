"""PixelRNN: a causal network of convolutional LSTMs on its own."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import nn

from flowvae.batch import DataSpec
from flowvae.config import Config, System, TrainingConfig
from flowvae.models.causal import causal_network, check_dropout
from flowvae.models.causal_density import CausalDensity
from flowvae.models.labels import classes_of
from flowvae.networks import DiagonalLSTM, PointwiseBlock, RowLSTM
from flowvae.networks.causal import CausalBlock
from flowvae.networks.orders import ORDERS
from flowvae.parts import DEEPEST, WIDEST, Part, ranged, training_only


@dataclass(frozen=True)
class RecurrenceOptions(Part):
    """A kind of LSTM. To add one, subclass this class and implement `block`."""

    @abstractmethod
    def block(self, channels: int, dropout: float) -> CausalBlock:
        """Build a layer."""


@dataclass(frozen=True)
class RowOptions(RecurrenceOptions):
    """From row to row; a pixel depends on a triangle above it."""

    name = "row"

    def block(self, channels: int, dropout: float) -> CausalBlock:
        return RowLSTM(channels, dropout)


@dataclass(frozen=True)
class DiagonalOptions(RecurrenceOptions):
    """From diagonal to diagonal, in two directions; a pixel depends on all pixels before it."""

    name = "diagonal"

    def block(self, channels: int, dropout: float) -> CausalBlock:
        return DiagonalLSTM(channels, dropout)


@dataclass(frozen=True)
class PixelRNNOptions(System):
    """Convolutional LSTMs over the pixels of images (van den Oord et al. 2016)."""

    name = "pixelrnn"

    recurrence: RowOptions | DiagonalOptions = DiagonalOptions()
    """direction of the LSTMs: from row to row, or from diagonal to diagonal, in two directions"""
    layers: int = ranged(4, 0, DEEPEST)
    """number of layers, each an LSTM with a residual connection"""
    channels: int = ranged(128, 1, WIDEST)
    """number of channels between layers; the states of an LSTM have half as many"""
    dropout: float = training_only(0.0)
    """dropout probability of the states"""
    orders: int = ranged(1, 1, ORDERS)
    """number of pixel orders, 1 to 32, that the network learns and the likelihood averages over"""
    patch: int = ranged(2, 1, 2)
    """side of the patches that are modelled in sequence, in pixels; 1 for single pixels"""
    components: int = ranged(5, 1, WIDEST)
    """number of discretized logistics in the mixture of each pixel; no effect on binary pixels"""
    labels: bool = False
    """make the density that of images given their labels, p(x|y), for data with labels"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dropout("dropout", self.dropout)

    def build(self, data: DataSpec) -> CausalDensity:
        channels = self.channels
        blocks = [self.recurrence.block(channels, self.dropout) for _ in range(self.layers)]
        network = causal_network(
            data,
            channels,
            [*blocks, PointwiseBlock(channels)],
            channels,
            self.orders,
            self.components,
            self.patch,
        )
        nn.init.zeros_(network.last.weight)  # starts as independent pixels
        return CausalDensity(network, classes_of(data) if self.labels else 0)

    def describe(self) -> str:
        orders = "1 order" if self.orders == 1 else f"{self.orders} orders"
        what = "pixels" if self.patch == 1 else "patches"
        given = "; given labels" if self.labels else ""
        return f"{self.recurrence.name} LSTM, {self.layers} layers, {orders} of the {what}{given}"


_TRAINING = TrainingConfig(
    batch_size=64,
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=0.01,
    gradient_clipping=50.0,
    minutes=180.0,
)

PRESETS: dict[str, Config] = {
    "pixelrnn-row": Config(model=PixelRNNOptions(RowOptions(), dropout=0.1, orders=4), training=_TRAINING),
    "pixelrnn-diagonal": Config(
        model=PixelRNNOptions(DiagonalOptions(), dropout=0.1, orders=4), training=_TRAINING
    ),
}
