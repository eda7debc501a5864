"""Images as uint8 tensors, their sources, and training batches."""

from flowvae.data.batches import steps_per_epoch, training_batch
from flowvae.data.dataset import Dataset, Split, as_float
from flowvae.data.load import load_configured, load_dataset
from flowvae.data.summary import describe

__all__ = [
    "Dataset",
    "Split",
    "as_float",
    "describe",
    "load_configured",
    "load_dataset",
    "steps_per_epoch",
    "training_batch",
]
