"""Systems, one file each."""

from flowvae.models.vae import VAE

__all__ = ["VAE"]
