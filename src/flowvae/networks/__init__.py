"""Dense, convolutional and causal networks: encoders, decoders, conditioners."""

from flowvae.networks.causal import CausalNetwork
from flowvae.networks.convolutional import Decoder, Encoder, Upsampler
from flowvae.networks.dense import Dense
from flowvae.networks.masked import MaskedDense

__all__ = ["CausalNetwork", "Decoder", "Dense", "Encoder", "MaskedDense", "Upsampler"]
