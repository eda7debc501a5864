"""The graphs of an autoencoder: encoder, decoder and sampler, which take their noise as an input."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flowvae.batch import labelled
from flowvae.models.base import Graph

if TYPE_CHECKING:
    from flowvae.models.autoencoder import VAE


def autoencoder_graphs(vae: "VAE", shape: tuple[int, int, int]) -> dict[str, Graph]:
    """Return the graphs that `VAE.graphs` describes, of images [C, H, W] of this shape."""
    device = next(vae.parameters()).device
    images = torch.zeros(3, *shape, device=device)
    labels = {"labels": torch.zeros(3, dtype=torch.int64, device=device)} if vae.conditional else {}
    noise = torch.zeros(2, 3, vae.dimension, device=device)
    codes, each = {0: "S", 1: "B"}, {0: "B"}
    free = (each,) * len(labels)
    return {
        "encoder": Graph(
            _Encoder(vae),
            {"images": images, "noise": noise, **labels},
            (each, codes, *free),
            ["z", "log_posterior"],
        ),
        "decoder": Graph(_Decoder(vae), {"z": noise, **labels}, (codes, *free), ["images"]),
        "sampler": Graph(_Sampler(vae), {"noise": noise[0], **labels}, (each, *free), ["images"]),
    }


class _PartOfVAE(nn.Module):
    def __init__(self, vae: "VAE") -> None:
        super().__init__()
        self.vae = vae


class _Encoder(_PartOfVAE):
    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.vae.posterior(self.vae.features(images, **labelled(labels)), noise.shape[0], noise)


class _Decoder(_PartOfVAE):
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.vae.likelihood.images(self.vae.with_label(z, labels))


class _Sampler(_PartOfVAE):
    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        codes = self.vae.prior.sample(noise.shape[0], noise, **labelled(labels))
        return self.vae.likelihood.images(self.vae.with_label(codes.unsqueeze(0), labels))[0]
