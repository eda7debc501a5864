"""Calibration of predicted classes."""

import torch
from torch import Tensor

BINS = 15


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Compute the expected calibration error, from 0 to 1; lower is better (Guo et al. 2017, equation 3).

    ``sum_m n_m / N |accuracy_m - confidence_m|`` over bins of equal width of the confidence, which is the
    probability of the predicted class.

    Args:
        confidence: [N], in (0, 1].
        correct: whether the predicted class is right, bool [N].
        bins: number of bins.

    >>> calibration_error(torch.tensor([0.75, 0.75, 0.75, 0.75]), torch.tensor([True, True, True, False]))
    0.0
    """
    of_bin = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, of_bin, correct.double() - confidence.double())
    return (gaps.abs().sum() / len(confidence)).item()
