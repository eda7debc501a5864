"""How close samples are to test images, measured on the features of a classifier."""

import importlib.util
import math
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flowvae.errors import UserError, did_you_mean, quoted
from flowvae.evaluation.nearest import nearest
from flowvae.networks.features import FeatureNetwork

PRETRAINED = Path(__file__).parents[1] / "pretrained"
DATA_SETS = {"mnist": "digits", "fashion-mnist": "clothes"}
"""data sets with a bundled classifier, and what is on their images"""
NEIGHBOURS = 5
"""k of density and coverage, as in the paper"""
SUBSETS, SUBSET_SIZE = 100, 1000
"""of the kernel distance"""
LEAST_IMAGES = 100
"""below it, the covariance of 64 features has no full rank"""
CLASS_SHARE = 0.1
"""of a class's share among test images that its share among samples must have to count as covered"""
AT_ONCE = 1000


@cache
def feature_network(data: str = "mnist") -> FeatureNetwork:
    """Return the bundled classifier of a data set, in ``eval()`` mode (see ``scripts/train_features.py``).

    Raises:
        UserError: if there is none for this data set.
    """
    if data not in DATA_SETS:
        raise UserError(f"no features of {quoted(data)}; {did_you_mean(data, DATA_SETS)}")
    network = FeatureNetwork()
    network.load_state_dict(load_file(PRETRAINED / f"features-{data}.safetensors"))
    return network.eval().requires_grad_(False)


def check_comparable(shape: tuple[int, ...]) -> None:
    """Check that images of a shape (C, H, W) can be compared.

    Raises:
        UserError: if the classifier does not fit them, or torchmetrics is not installed.
    """
    if tuple(shape) != FeatureNetwork.shape:
        raise UserError(
            f"images are {_size(shape)}, and the classifier whose features are compared knows images of "
            f"{_size(FeatureNetwork.shape)}; compare samples by eye, or models by -log p(x)"
        )
    if importlib.util.find_spec("torchmetrics") is None:
        raise UserError("distances of samples need torchmetrics; pip install 'flowvae[samples]'")


@torch.no_grad()
def features_of(images: Tensor, network: FeatureNetwork | None = None) -> Tensor:
    """Compute the features [N, 64] of images [N, 1, 28, 28] in [0, 1], as they are."""
    network = network or feature_network()
    return torch.cat([network(few) for few in images.float().split(AT_ONCE)])


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{height} x {width}, {'grey' if channels == 1 else f'{channels} channels'}"


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """Compute the Frechet distance of two sets of features [N, F] (Heusel et al. 2017, arXiv 1706.08500).

    It is that of Gaussians with their means and covariances. Its bias is of the order of F^2 / N: compare it
    with that of two sets of real images of the same size.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(features.shape[1]))
    metric.update(others, real=True)
    metric.update(features, real=False)
    return metric.compute().item()


def kernel_distance(features: Tensor, others: Tensor) -> tuple[float, float]:
    """Estimate the squared maximum mean discrepancy with a cubic kernel (Binkowski 2018, arXiv 1801.01401).

    The estimate is without bias.

    Returns:
        Mean and standard deviation over 100 subsets of 1,000 images (of all, if there are fewer).
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(SUBSET_SIZE, len(features), len(others))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that features stay in memory
        torch.manual_seed(0)
        given = _Given(features.shape[1])
        metric = KernelInceptionDistance(feature=given, subsets=SUBSETS, subset_size=size)
        metric.update(others, real=True)
        metric.update(features, real=False)
        mean, deviation = metric.compute()
    return mean.item(), deviation.item()


class _Given(nn.Module):
    """Takes features for images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class Balls(NamedTuple):
    """Balls around features of real images, each of which reaches to its k-th neighbour among them."""

    centers: Tensor
    """[N, F]"""
    squared_radii: Tensor
    """[N]"""
    neighbours: int
    """k"""


def balls_around(real: Tensor, neighbours: int = NEIGHBOURS) -> Balls:
    """Return the balls around features [N, F] of real images; ``neighbours``: k."""
    # The first neighbour is the image itself.
    return Balls(real, nearest(real, real, neighbours + 1).distances[:, -1], neighbours)


def density_and_coverage(features: Tensor, balls: Balls) -> tuple[float, float]:
    """Compute density and coverage of samples (Naeem et al. 2020, arXiv 2002.09797, equations 2 and 3).

    Density is the mean number of balls around a sample, over k, and coverage the share of balls with a sample
    in them. Of two equal distributions, density is 1 in expectation, and coverage about 1 - 2^-k.

    Args:
        features: of samples, [M, F].
        balls: those of real images.
    """
    inside = torch.zeros(len(features))
    covered = torch.zeros(len(balls.centers), dtype=torch.bool)
    for start in range(0, len(features), AT_ONCE):
        few = features[start : start + AT_ONCE]
        within = torch.cdist(few, balls.centers).square() < balls.squared_radii
        inside[start : start + AT_ONCE] = within.sum(1).float()
        covered |= within.any(0)
    return inside.mean().item() / balls.neighbours, covered.float().mean().item()


def class_coverage(features: Tensor, real: Tensor, network: FeatureNetwork | None = None) -> float:
    """Compute the share of classes that are at least a tenth as frequent among samples as among real images.

    Classes are those that the classifier predicts.
    """
    network = network or feature_network()
    of_samples, of_real = (_class_shares(each, network) for each in (features, real))
    return (of_samples >= CLASS_SHARE * of_real)[of_real > 0].float().mean().item()


@torch.no_grad()
def _class_shares(features: Tensor, network: FeatureNetwork) -> Tensor:
    log_class = network.classify(features)
    return torch.bincount(log_class.argmax(1), minlength=log_class.shape[1]) / len(features)


def sample_quality(
    samples: Tensor, test: Tensor, valid: Tensor, train: Tensor, network: FeatureNetwork | None = None
) -> dict[str, Any]:
    """Compare samples with test images, and, for each number, validation images with the same test images.

    Args:
        samples: [N, 1, 28, 28] in [0, 1].
        test: [M, 1, 28, 28], to compare with.
        valid: [L, 1, 28, 28], real images in the place of samples; ideally as many.
        train: images among which the nearest ones are searched.
        network: classifier; by default, the bundled one of MNIST.

    Returns:
        For samples, and with the suffix ``_of_real`` for validation images:

        - ``frechet_distance``, ``kernel_distance`` and its ``kernel_distance_standard_deviation``
        - ``density``, ``coverage``, ``class_coverage``
        - ``nearest_training_distance``: Euclidean distance of the pixels to the nearest training image, mean

    Raises:
        UserError: if images have another shape than the classifier's, there are fewer than 100, or
            torchmetrics is not installed.
    """
    check_comparable(samples.shape[1:])
    for name, images in (("samples", samples), ("test images", test), ("validation images", valid)):
        if len(images) < LEAST_IMAGES:
            raise UserError(f"{len(images)} {name} are too few to compare; give {LEAST_IMAGES} or more")
    of_test = features_of(test, network)
    balls = balls_around(of_test)
    found: dict[str, Any] = {}
    for suffix, images in (("", samples), ("_of_real", valid)):
        features = features_of(images, network)
        distance, deviation = kernel_distance(features, of_test)
        density, coverage = density_and_coverage(features, balls)
        measured = {
            "frechet_distance": frechet_distance(features, of_test),
            "kernel_distance": distance,
            "kernel_distance_standard_deviation": deviation,
            "density": density,
            "coverage": coverage,
            "class_coverage": class_coverage(features, of_test, network),
            "nearest_training_distance": nearest(images, train).distances.sqrt().mean().item(),
        }
        for name, value in measured.items():
            if not math.isfinite(value):
                raise UserError(f"{name} of samples is not finite; train with a lower --learning-rate")
            found[name + suffix] = value
    return found
