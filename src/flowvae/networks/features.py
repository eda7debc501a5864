"""A small classifier of images of 28 x 28 pixels, whose features compare sets of images."""

from torch import Tensor, nn


class FeatureNetwork(nn.Module):
    """Convolutions from an image of 28 x 28 pixels to 64 features, and a linear map from these to classes."""

    shape = (1, 28, 28)
    features = 64

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        widths = [(1, 32, 1), (32, 32, 2), (32, 64, 1), (64, 64, 2), (64, 64, 1), (64, 64, 2)]
        layers: list[nn.Module] = []
        for inputs, outputs, stride in widths:
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, self.features))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(self.features, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Compute features [N, 64] of images [N, 1, 28, 28] in [0, 1]; of mean variance 1."""
        return self.body(images)

    def classify(self, features: Tensor) -> Tensor:
        """Compute log q(y|x) [N, classes] from features."""
        return self.head(features).log_softmax(1)
