"""Modes of stacked MNIST that samples cover: the triples of digits that a classifier finds in them."""

from typing import Any

import torch
from torch import Tensor

from flowvae.data.stacked_mnist import CHANNELS, DIGITS, mode_of
from flowvae.evaluation.sample_quality import feature_network, features_of

MODES = DIGITS**CHANNELS
USUAL_SAMPLES = 26_000
"""as in the papers; the number of modes that are found grows with it"""


@torch.no_grad()
def modes_of(images: Tensor) -> Tensor:
    """Classify the three channels of images [N, 3, 28, 28] in [0, 1] one by one, and return the modes [N].

    By the bundled classifier of digits, whose error on test digits is 0.43%.
    """
    network = feature_network()
    digits = [network.classify(features_of(channel, network)).argmax(1) for channel in images.split(1, 1)]
    return mode_of(torch.stack(digits, 1))


def shares_of_modes(modes: Tensor) -> Tensor:
    """Compute the probabilities [1000] of modes whose digits are independent, from the modes [N] of images.

    Each is the product of the shares of its digits in their channels.
    """
    counts = torch.bincount(modes, minlength=MODES).double().view(DIGITS, DIGITS, DIGITS)
    of_channels = (counts.sum((1, 2)), counts.sum((0, 2)), counts.sum((0, 1)))
    return torch.einsum("i,j,k->ijk", *of_channels).flatten() / len(modes) ** CHANNELS


def mode_statistics(modes: Tensor, shares: Tensor) -> dict[str, Any]:
    """Count the modes [N] that are found, and compare their frequencies with the probabilities ``shares``.

    As Metz et al. (2017, arXiv 1611.02163, section 3.3.1) and Srivastava et al. (2017, arXiv 1705.07761).

    Returns:
        ``modes``: number of modes that are found at least once; higher is better. ``mode_divergence``: KL of
        their frequencies from ``shares``, nats; lower is better. Of N draws from ``shares``, it is about
        999 / (2 N).
    """
    frequencies = torch.bincount(modes, minlength=len(shares)).double() / len(modes)
    divergence = torch.special.xlogy(frequencies, frequencies) - torch.special.xlogy(frequencies, shares)
    return {"modes": int((frequencies > 0).sum()), "mode_divergence": divergence.sum().item()}
