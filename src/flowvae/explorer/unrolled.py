"""A posterior after each step of its flow, in the plane in which the flow changes it most."""

from typing import NamedTuple

import numpy as np
import torch
from contourpy import LineType, contour_generator
from torch import Tensor

from flowvae.errors import UserError
from flowvae.models import Inferring
from flowvae.noise import Noise

MASSES = (0.3, 0.6, 0.9)
"""share of the samples within each contour"""

SAMPLES_PER_DIMENSION = 20
"""minimum number of samples per dimension of a covariance; with fewer it would be mostly noise"""


class Unrolled(NamedTuple):
    """Posterior samples of one image, before the first transformation and after each of the K."""

    z: Tensor
    """[K + 1, S, D]"""
    log_density: Tensor
    """log q_k(z_k|x) in nats, [K + 1, S]"""

    @property
    def log_determinants(self) -> Tensor:
        """Mean of ``log|det df_k/dz_{k-1}|`` over samples, [K], in nats: how much each one widens q."""
        return (self.log_density[:-1] - self.log_density[1:]).mean(1)


@torch.no_grad()
def unroll(model: Inferring, image: Tensor, num_samples: int, noise: Noise = None) -> Unrolled:
    """Follow S samples of q(z|x) through the K transformations, for an image [C, H, W]."""
    z, log_density = zip(*model.unroll(image.unsqueeze(0), num_samples, noise), strict=True)
    return Unrolled(torch.stack(z)[:, :, 0], torch.stack(log_density)[:, :, 0])


def directions(unrolled: Unrolled) -> Tensor:
    """Two linear functionals [2, D] of z along which the flow changes the posterior's spread most.

    With ``C_0`` and ``C_K`` the covariances of z_0 and z_K, they are the generalized eigenvectors of
    ``C_K a = lambda C_0 a`` with the largest ``lambda - 1 - log lambda``: twice the direction's
    contribution to the divergence between Gaussians of these covariances. They are scaled so that z_0 has
    unit variance along both and no correlation between them: before the first transformation the cloud is
    round. If there are too few samples for all D dimensions, as for a code that is a map, the search is among
    the directions in which the displacements of the samples vary most.

    Raises:
        UserError: if the latent space has a single dimension.
    """
    before, after = unrolled.z[0].double(), unrolled.z[-1].double()
    if before.shape[1] < 2:
        raise UserError("a latent space of one dimension has no plane to show; unroll a run with more")
    scale = before.std(0)
    moved = (after - before) / scale
    _, _, axes = torch.linalg.svd(moved - moved.mean(0), full_matrices=False)
    furthest = axes[: max(2, len(before) // SAMPLES_PER_DIMENSION)].T / scale.unsqueeze(1)
    before, after = before @ furthest, after @ furthest
    root = torch.linalg.cholesky(torch.cov(before.T))
    whitened = torch.linalg.solve_triangular(root, (after - after.mean(0)).T, upper=False)  # [D, S]
    values, vectors = torch.linalg.eigh(torch.cov(whitened))
    most = (values - 1 - values.log()).argsort(descending=True)[:2]
    functionals = furthest @ torch.linalg.solve_triangular(root.T, vectors[:, most], upper=True)
    return functionals.T.to(unrolled.z.dtype)


def project(unrolled: Unrolled, functionals: Tensor) -> Tensor:
    """Project the samples onto the plane, [K + 1, S, 2], with the mean of z_0 at the origin."""
    return (unrolled.z - unrolled.z[0].mean(0)) @ functionals.T


def contours(points: Tensor, bins: int = 96) -> list[list[list[list[float]]]]:
    """Lines of equal density around points [S, 2], one list of lines [[x, y], ...] for each of MASSES.

    The density is a histogram blurred by a Gaussian whose width follows Scott's rule; each level is the one
    above which that share of the samples lies.
    """
    values = points.double().numpy()
    deviation = values.std(0).clip(1e-9)
    bandwidth = deviation * len(values) ** (-1 / 6)
    low, high = values.min(0) - 4 * bandwidth, values.max(0) + 4 * bandwidth
    counts, *edges = np.histogram2d(values[:, 0], values[:, 1], bins, [(low[0], high[0]), (low[1], high[1])])
    centers = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    for axis in (0, 1):
        distance = np.subtract.outer(centers[axis], centers[axis]) / bandwidth[axis]
        kernel = np.exp(-0.5 * distance**2)
        counts = np.moveaxis(np.tensordot(kernel, counts, (1, axis)), 0, axis)
    at_samples = np.sort(
        counts[
            tuple(
                ((values[:, axis] - low[axis]) / (high[axis] - low[axis]) * bins)
                .astype(int)
                .clip(0, bins - 1)
                for axis in (0, 1)
            )
        ]
    )
    draw = contour_generator(centers[0], centers[1], counts.T, line_type=LineType.Separate)
    return [
        [np.asarray(line).tolist() for line in draw.lines(at_samples[int((1 - mass) * (len(values) - 1))])]
        for mass in MASSES
    ]
