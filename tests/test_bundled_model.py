"""The model that comes with the package keeps its numbers, on images that come with the package, too."""

import pytest
import torch
from torch import Tensor

from flowvae.data import load_dataset
from flowvae.evaluation import bounds
from flowvae.models import Inferring, Sampler
from flowvae.runs import Run
from flowvae.runs.capability import needs

SAMPLES = 16
# Of the first eight test images, in nats, with noise of the seed 3.
NEGATIVE_ELBO = [73.277, 86.149, 33.083, 80.468, 73.606, 33.29, 91.387, 70.443]
NLL = [72.459, 85.381, 32.42, 79.686, 73.18, 32.467, 89.461, 68.946]
RECONSTRUCTION, KL = 59.457, 8.256


@pytest.fixture(scope="module")
def images() -> Tensor:
    return load_dataset("mnist", "static").test.images[:8].float()


@pytest.fixture(scope="module")
def model() -> Inferring:
    return needs(Inferring, Run("density-mnist"))


def near(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bounds_of_fixed_images_are_what_they_were(model, images):
    found = bounds(model, images, SAMPLES, noise=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.negative_elbo, near(NEGATIVE_ELBO), atol=0.01, rtol=0)
    torch.testing.assert_close(found.negative_log_marginal, near(NLL), atol=0.01, rtol=0)
    assert found.reconstruction is not None
    assert found.kl is not None
    assert found.reconstruction.mean().item() == pytest.approx(RECONSTRUCTION, abs=0.01)
    assert found.kl.mean().item() == pytest.approx(KL, abs=0.01)


def test_what_is_no_digit_is_far_less_likely(model, images):
    found = bounds(model, torch.cat([images, 1 - images]), 4, noise=torch.Generator().manual_seed(3))
    digits, negatives = found.negative_log_marginal.split(8)
    assert (negatives > digits + 500).all()


def test_it_draws_digits_that_it_finds_likely(model):
    """A model's own draws are about as likely to it as what it was trained on."""
    drawn = needs(Sampler, Run("density-mnist")).sample(8, torch.Generator().manual_seed(3))
    assert drawn.shape == (8, 1, 28, 28)
    nll = bounds(model, drawn, 4, noise=torch.Generator().manual_seed(4)).negative_log_marginal
    assert 50 < nll.mean() < 110
    assert nll.max() < 160
