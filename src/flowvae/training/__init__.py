"""Training: loop, checkpoints, weight averaging, progress display."""

from flowvae.training.loop import train

__all__ = ["train"]
