"""Colours that every reader can tell apart."""

import numpy as np
import pytest

from flowvae.colours import TEN

# Machado, Oliveira & Fernandes (2009), severity 1, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear() -> np.ndarray:
    """[10, 3], linear RGB."""
    values = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in TEN])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(colours: np.ndarray) -> np.ndarray:
    """CIELAB coordinates of linear RGB [N, 3]."""
    x = colours.clip(0, 1) @ XYZ.T / XYZ.sum(1)
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_differ(vision):
    seen = lab(linear() @ VISION[vision].T)
    distances = np.linalg.norm(seen[:, None] - seen, axis=2) + 1e3 * np.eye(len(TEN))
    assert distances.min() > 25


def test_colours_stand_out_from_paper():
    assert (1.05 / (linear() @ XYZ[1] + 0.05)).min() >= 3
