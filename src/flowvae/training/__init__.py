"""Training: loop, checkpoints, weight averaging, progress display."""

from flowvae.training.callbacks import Callback, TrainingProgress
from flowvae.training.loop import train
from flowvae.training.repeated import train_or_resume

__all__ = ["Callback", "TrainingProgress", "train", "train_or_resume"]
