"""Systems, that is, kinds of models, with one file each."""

from flowvae.models.autoencoder import VAE
from flowvae.models.base import (
    Bounded,
    Classifying,
    Coded,
    Generating,
    Graphed,
    Inferring,
    Model,
    Sampler,
    Scored,
    Source,
    Update,
)
from flowvae.models.compressible import Compressible, CompressibleWithCode, Normalizing
from flowvae.models.imputation import Completing, Imputation

__all__ = [
    "VAE",
    "Bounded",
    "Classifying",
    "Coded",
    "Completing",
    "Compressible",
    "CompressibleWithCode",
    "Generating",
    "Graphed",
    "Imputation",
    "Inferring",
    "Model",
    "Normalizing",
    "Sampler",
    "Scored",
    "Source",
    "Update",
]
