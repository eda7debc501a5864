"""Distances between sets of samples: against their formulas, and as laws of equal and unequal sets."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from command_line import flowvae, is_refusal, succeeds
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.data import load_dataset
from flowvae.errors import UserError
from flowvae.evaluation import sample_quality as quality
from flowvae.evaluation.sample_quality import (
    balls_around,
    check_comparable,
    class_coverage,
    density_and_coverage,
    feature_network,
    features_of,
    frechet_distance,
    kernel_distance,
)
from flowvae.models import Sampler
from flowvae.models.registry import build_model, preset
from flowvae.networks.features import FeatureNetwork
from flowvae.runs.table import collect


def points(number: int, seed: int, dimension: int = 4, mean: float = 0.0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(number, dimension, generator=noise) + mean


def test_frechet_distance_is_that_of_gaussians():
    mixing = points(4, 3)
    one, other = points(300, 0) @ mixing, points(200, 1, mean=0.5)
    a, b = one.double().numpy(), other.double().numpy()
    covariances = np.cov(a.T), np.cov(b.T)
    root = np.real(np.asarray(scipy.linalg.sqrtm(covariances[0] @ covariances[1])))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_is_the_unbiased_estimate():
    one, other = points(50, 0), points(50, 1, mean=0.4)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / 4 + 1) ** 3

    pairs = 50 * 49
    within = [(kernel(each, each).sum() - kernel(each, each).trace()) / pairs for each in (one, other)]
    expected = within[0] + within[1] - 2 * kernel(one, other).mean()
    mean, deviation = kernel_distance(one, other)
    assert mean == pytest.approx(expected.item(), rel=1e-3)
    assert deviation == pytest.approx(0, abs=1e-4)  # all subsets are the whole set


def test_kernel_distance_leaves_the_generator_alone():
    torch.manual_seed(5)
    kernel_distance(points(30, 0), points(30, 1))
    after = torch.rand(())
    torch.manual_seed(5)
    assert torch.rand(()) == after


def test_density_and_coverage_count_balls():
    samples, real = points(23, 0), points(17, 1)
    distances = torch.cdist(real, real)
    radii = distances.sort(1).values[:, 3]
    balls = torch.cdist(samples, real) < radii
    density, coverage = density_and_coverage(samples, balls_around(real, 3))
    assert density == pytest.approx(balls.sum().item() / 3 / 23)
    assert coverage == pytest.approx(balls.any(0).float().mean().item())


def test_equal_distributions_have_the_expected_density_and_coverage():
    density, coverage = density_and_coverage(points(2000, 0), balls_around(points(2000, 1)))
    assert density == pytest.approx(1, abs=0.06)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_a_lost_mode_lowers_coverage_and_not_density():
    modes = torch.cat([points(500, 0), points(500, 1, mean=20)])
    density, coverage = density_and_coverage(points(1000, 2), balls_around(modes))
    assert density > 0.9
    assert coverage == pytest.approx(0.5, abs=0.03)


class Signs(FeatureNetwork):
    """Features are their own logits."""

    def classify(self, features: Tensor) -> Tensor:
        return features.log_softmax(1)


def test_class_coverage_counts_classes():
    network = Signs()
    real = torch.eye(4).repeat(25, 1)
    assert class_coverage(real, real, network) == 1
    assert class_coverage(torch.eye(4)[:3].repeat(30, 1), real, network) == 0.75
    rare = torch.cat([torch.eye(4)[:3].repeat(30, 1), torch.eye(4)[3:].repeat(2, 1)])  # less than 1 in 40
    assert class_coverage(rare, real, network) == 0.75
    enough = torch.cat([torch.eye(4)[:3].repeat(30, 1), torch.eye(4)[3:].repeat(3, 1)])
    assert class_coverage(enough, real, network) == 1


@pytest.mark.parametrize("binarization", ["none", "static"])
def test_the_bundled_classifier_knows_digits(binarization: str):
    batch = load_dataset("mnist", binarization).batch("test", torch.arange(1000))
    log_class = feature_network().classify(features_of(batch.images))
    assert (log_class.argmax(1) != batch.labels).float().mean() < 0.02


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match="images are 32 x 32, 3 channels"):
        check_comparable((3, 32, 32))


def test_too_few_images_are_refused():
    images = torch.zeros(100, 1, 28, 28)
    with pytest.raises(UserError, match="99 samples are too few"):
        quality.sample_quality(images[:99], images, images, images)


SMALL = ("--steps", 1, "--track", "none", "--features", 8, "--channels", 4, "--latent", 3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the bundled digits: 2,000 for training, 300 for validation and as many for testing."""
    path, mnist = tmp_path_factory.mktemp("digits") / "digits.npz", load_dataset("mnist", "none")
    counts = {"train": 2000, "valid": 300, "test": 300}
    np.savez(
        path, **{split: getattr(mnist, split).images[:count, 0].numpy() for split, count in counts.items()}
    )
    return path


@pytest.fixture(scope="module")
def trained(digits: Path) -> Path:
    """A run of them, after one step."""
    run = digits.parent / "run"
    succeeds("train", "vae", "--data", digits, "--out", run, *SMALL)
    return run


def test_the_command_compares_samples(trained: Path):
    printed = succeeds("quality", trained, "--images", 200)
    found = json.loads((trained / "quality.json").read_text())
    assert found["images"] == 200
    assert found["samples"] == "draws from p(x)"
    assert found["frechet_distance"] > 5 * found["frechet_distance_of_real"]
    assert found["coverage"] < found["coverage_of_real"]
    assert found["class_coverage_of_real"] == 1
    assert found["nearest_training_distance"] > found["nearest_training_distance_of_real"] > 1
    assert f"{found['frechet_distance']:.2f}" in printed
    assert "200 draws from p(x); 64 features" in printed
    assert "classifier of mnist" in found["features"]
    assert succeeds("quality", trained, "--images", 200) == printed
    assert 0 < found["seconds_per_sample"] < 1
    assert "Frechet distance" in succeeds("table", trained)
    succeeds("evaluate", trained, "--samples", 2, "--images", 4)
    (row,) = collect([trained])
    assert (row["images"], row["compared"], row["coverage"]) == (4, 200, found["coverage"])
    (trained / "quality.json").write_text(json.dumps({**found, "training_steps": 2}))
    assert "coverage" not in collect([trained])[0]
    clothes = succeeds("quality", trained, "--images", 200, "--features", "fashion-mnist")
    assert "classifier of fashion-mnist" in clothes != printed
    other = succeeds("quality", trained, "--images", 200, "--seed", 1)
    assert other != printed


def test_what_cannot_be_compared_is_refused(trained: Path, workspace: Path):
    is_refusal(flowvae("quality", trained, "--images", 10_001), "10001 images are to be compared", "--images")
    is_refusal(flowvae("quality", trained, "--images", 50), "50 samples are too few")
    is_refusal(
        flowvae("quality", trained, "--features", "fashion"), "no features of 'fashion'", "fashion-mnist"
    )
    is_refusal(flowvae("quality", "flow"), "images are 8 x 8, grey")


def test_a_model_that_was_trained_with_hidden_pixels_is_compared_with_complete_images(
    digits: Path, tmp_path: Path
):
    succeeds("train", "vae", "--data", digits, "--hide", 0.5, "--out", tmp_path / "run", *SMALL)
    assert "100 draws from p(x)" in succeeds("quality", tmp_path / "run", "--images", 100)


def test_a_model_of_dynamic_binarization_is_compared(digits: Path, tmp_path: Path):
    succeeds("train", "vae", "--data", digits, "--binarization", "dynamic", "--out", tmp_path / "run", *SMALL)
    assert "100 draws from p(x)" in succeeds("quality", tmp_path / "run", "--images", 100)


def test_drawn_pixels_are_those_of_the_model():
    """Draws have the mean that samples are."""
    torch.manual_seed(0)
    options = preset("vae").revised(latent=2, features=8, channels=4).model
    assert options is not None
    model = build_model(options, DataSpec((1, 8, 8), 2))
    model.eval()
    assert isinstance(model, Sampler)
    means, draws = model.sample(3000), model.draw(3000)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert 0 < means.min() < means.max() < 1
    assert (draws.mean(0) - means.mean(0)).abs().max() < 5 * 0.5 / 3000**0.5
