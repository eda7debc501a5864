"""Systems, one file each."""

from flowvae.models.exact import ExactDensity
from flowvae.models.pixel_cnn import PixelCNN
from flowvae.models.vae import VAE

Model = VAE | ExactDensity
"""What can be trained and scored: both give `LogDensities` when called."""

__all__ = ["VAE", "ExactDensity", "Model", "PixelCNN"]
