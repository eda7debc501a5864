"""Training: the loop, its checkpoints, the averaging of weights, the progress display."""

from flowvae.training.loop import train

__all__ = ["train"]
