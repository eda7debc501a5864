"""Noise as a pure function of a seed and a position, such as a step."""

import numpy as np
import torch


def seed_everything(seed: int, *place: int) -> None:
    """Seed torch's generator from the seed and a position, if any.

    ``spawn_key`` keeps the positions of a seed distinct from each other and from the seed alone; a plain list
    would not, since NumPy pads it with zeros.
    """
    (mixed,) = np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed))
