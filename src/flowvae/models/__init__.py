"""Systems, one file each."""

from flowvae.models.dequantized import DequantizedDensity
from flowvae.models.exact import ExactDensity
from flowvae.models.pixel_cnn import PixelCNN
from flowvae.models.real_nvp import RealNVPDensity
from flowvae.models.vae import VAE

Model = VAE | ExactDensity | DequantizedDensity
"""What can be trained and scored: all give `LogDensities` when called."""

__all__ = ["VAE", "DequantizedDensity", "ExactDensity", "Model", "PixelCNN", "RealNVPDensity"]
