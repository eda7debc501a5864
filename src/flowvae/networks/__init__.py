"""Dense, convolutional and causal networks: encoders, decoders, conditioners."""

from flowvae.networks.causal import CausalNetwork, GatedBlock, PointwiseBlock
from flowvae.networks.convolutional import Decoder, Downsampler, Encoder, MapCode, Upsampler, VectorCode
from flowvae.networks.convolutional_conditioner import ConvolutionalConditioner
from flowvae.networks.convolutional_lstm import DiagonalLSTM, RowLSTM
from flowvae.networks.dense import Dense
from flowvae.networks.fully_connected import DenseDecoder, DenseEncoder
from flowvae.networks.masked import MaskedDense

__all__ = [
    "CausalNetwork",
    "ConvolutionalConditioner",
    "Decoder",
    "Dense",
    "DenseDecoder",
    "DenseEncoder",
    "DiagonalLSTM",
    "Downsampler",
    "Encoder",
    "GatedBlock",
    "MapCode",
    "MaskedDense",
    "PointwiseBlock",
    "RowLSTM",
    "Upsampler",
    "VectorCode",
]
