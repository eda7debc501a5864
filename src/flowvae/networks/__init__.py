"""Dense, convolutional and causal networks: encoders, decoders, conditioners."""

from flowvae.networks.convolutional import Decoder, Encoder
from flowvae.networks.dense import Dense
from flowvae.networks.masked import MaskedDense

__all__ = ["Decoder", "Dense", "Encoder", "MaskedDense"]
