"""PixelCNN: a causal convolutional network on its own."""

from dataclasses import dataclass

from flowvae.batch import DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.models.causal import CausalOptions
from flowvae.models.causal_density import CausalDensity
from flowvae.models.labels import classes_of


@dataclass(frozen=True)
class PixelCNNOptions(CausalOptions, System):
    """A causal network without a code: an autoregressive density of binary or 8-bit images."""

    name = "pixelcnn"

    labels: bool = False
    """make the density that of images given their labels, p(x|y), for data with labels"""

    def build(self, data: DataSpec) -> CausalDensity:
        network = self.network(data, self.causal_channels)
        return CausalDensity(network, classes_of(data) if self.labels else 0)

    def describe(self) -> str:
        orders = "1 order" if self.causal_orders == 1 else f"{self.causal_orders} orders"
        given = "; given labels" if self.labels else ""
        return f"causal network without a code, {orders} of the patches{given}"


PRESETS: dict[str, Config] = {
    "pixelcnn": Config(
        model=PixelCNNOptions(causal_dropout=0.15, causal_orders=4),
        training=TrainingConfig(batch_size=64, learning_rate=2e-3, weight_decay=0.01, minutes=60.0),
    ),
    "pixelcnn-cifar10": Config(
        DataConfig("cifar10", "none"),
        PixelCNNOptions(causal_channels=128, causal_blocks=8),
        TrainingConfig(
            batch_size=32, learning_rate=5e-3, weight_decay=0.01, minutes=360.0, validation_images=1000
        ),
    ),
}
