"""Independent streams of random numbers from one seed.

NumPy's generators give the same numbers on every machine and leave torch's global generator alone.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of what a seed means: never change one."""

    EPOCH_ORDER = 0
    BATCH_NOISE = 1
    FROZEN_NOISE = 2
    SPLIT_ORDER = 3
    IMAGE_NOISE = 4


def generator(seed: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """The stream number ``index`` (an epoch, a step, a split, an image) of one purpose; seed and index >= 0.

    ``spawn_key`` keeps the parts apart whatever their sizes, so that neighbouring seeds, steps and
    purposes share nothing.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), index)))
