"""The encoder and the decoder of images."""

import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """``x + conv(silu(conv(silu(x))))`` with 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Encoder(nn.Module):
    """Images [B, C, H, W] to an embedding [B, features]: strided convolutions, then dense layers."""

    def __init__(self, shape: tuple[int, int, int], features: int, channels: int = 64) -> None:
        super().__init__()
        image_channels, height, width = shape
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * image_channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 2, stride=2),
            Residual(2 * channels),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * (height // 4) * (width // 4), features),
            nn.SiLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Decoder(nn.Module):
    """Latent codes [N, D] to logits [N, C, H, W]: dense, then transposed convolutions."""

    def __init__(
        self, dimension: int, shape: tuple[int, int, int], channels: int = 64, hidden: int = 256
    ) -> None:
        super().__init__()
        image_channels, height, width = shape
        self.layers = nn.Sequential(
            nn.Linear(dimension, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * channels * (height // 4) * (width // 4)),
            nn.Unflatten(1, (2 * channels, height // 4, width // 4)),
            Residual(2 * channels),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * channels, channels, 2, stride=2),
            nn.SiLU(),
            nn.Conv2d(channels, 4 * image_channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)
