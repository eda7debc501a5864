"""Dense, convolutional and causal networks: encoders, decoders, conditioners."""

from flowvae.networks.causal import CausalNetwork, GatedBlock
from flowvae.networks.convolutional import Decoder, Downsampler, Encoder, MapCode, Upsampler, VectorCode
from flowvae.networks.convolutional_conditioner import ConvolutionalConditioner
from flowvae.networks.dense import Dense
from flowvae.networks.masked import MaskedDense

__all__ = [
    "CausalNetwork",
    "ConvolutionalConditioner",
    "Decoder",
    "Dense",
    "Downsampler",
    "Encoder",
    "GatedBlock",
    "MapCode",
    "MaskedDense",
    "Upsampler",
    "VectorCode",
]
