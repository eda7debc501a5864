"""Noise as a pure function of a seed and a place."""

import numpy as np
import torch


def seed_everything(seed: int, *place: int) -> None:
    """Seed torch's generator, so that noise is a pure function of the seed and of a place, if any.

    ``spawn_key`` keeps the places of a seed apart from each other and from the seed alone; a plain list of
    numbers would not, since NumPy fills it up with zeros.
    """
    (mixed,) = np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed))
