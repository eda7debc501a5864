"""Independent streams of random numbers from one seed.

NumPy's generators give the same numbers on every machine and do not affect torch's global generator.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a stream. Its number is part of the meaning of a seed and must never change."""

    EPOCH_ORDER = 0
    BATCH_NOISE = 1
    FROZEN_NOISE = 2
    SPLIT_ORDER = 3
    IMAGE_NOISE = 4
    HIDDEN_PIXELS = 5
    STACKED_DIGITS = 6


def generator(seed: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """Return stream ``index`` (an epoch, a step, a split, an image) of one purpose; seed and index >= 0.

    ``spawn_key`` separates the parts, so that neighbouring seeds, steps and purposes are independent.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), index)))
