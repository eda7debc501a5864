"""Real NVP as a density of images: it integrates to one, and its bound tightens towards the exact mass."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from flowvae.build import real_nvp
from flowvae.config import Config, DataConfig, ModelConfig, TrainingConfig
from flowvae.data import load_dataset
from flowvae.errors import UserError
from flowvae.evaluation import bounds, evaluate, interpolate
from flowvae.models import RealNVPDensity
from flowvae.models.real_nvp import MARGIN
from flowvae.runs import load
from flowvae.training import train

LEVELS, PER_LEVEL = 3, 8  # of a tiny image, and points of quadrature to each in every dimension


def moved(model: RealNVPDensity, amount: float = 0.3) -> RealNVPDensity:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += amount * torch.randn_like(parameter)
    return model


def tiny() -> RealNVPDensity:
    """Of 2 x 2 grey pixels, away from the identity."""
    torch.manual_seed(0)
    config = ModelConfig(family="realnvp", transformations=2, hidden=4, normalization="weight")
    model = moved(real_nvp(config, (1, 2, 2)).double().eval())
    model.levels = LEVELS
    return model


def midpoints(low: float, high: float, number: int) -> Tensor:
    """Of cells over the four-dimensional cube, as images [1, number^4, 1, 2, 2]."""
    points = low + (high - low) * (torch.arange(number, dtype=torch.float64) + 0.5) / number
    return torch.cartesian_prod(points, points, points, points).view(1, -1, 1, 2, 2)


@torch.no_grad()
def density(model: RealNVPDensity, values: Tensor) -> Tensor:
    return torch.cat([model.log_density(few)[0].exp() for few in values.split(50_000, dim=1)])


def test_the_density_integrates_to_one():
    """Over all values that have a logit: the margins beyond the cube of images are the model's own, too.

    The quadrature is over the logits, where the density has no edges.
    """
    number, furthest = 28, 7
    inner = midpoints(-furthest, furthest, number).sigmoid()
    volumes = (inner * (1 - inner) / (1 - 2 * MARGIN)).flatten(2).prod(2)[0] * (2 * furthest / number) ** 4
    total = (density(tiny(), (inner - MARGIN) / (1 - 2 * MARGIN)) * volumes).sum()
    assert total.item() == pytest.approx(1, abs=2e-3)


def test_the_masses_of_all_images_add_up_to_the_integral_over_their_cube():
    """81 images, each mass from the bound with many draws of noise; the integral from quadrature."""
    model = tiny()
    number = LEVELS * PER_LEVEL
    cells = density(model, midpoints(0, 1, number)).view(*(LEVELS, PER_LEVEL) * 4) / number**4
    masses = cells.sum((1, 3, 5, 7)).flatten()  # of the images, in the order of `product`
    assert 0.5 < masses.sum() < 1
    images = torch.tensor(list(itertools.product(range(LEVELS), repeat=4))).double().view(-1, 1, 2, 2) / 2
    torch.manual_seed(1)
    scores = bounds(model, images, num_samples=2000)
    torch.testing.assert_close((-scores.negative_log_marginal).exp(), masses, atol=2e-3, rtol=0.1)
    assert scores.kl.abs().max() == 0
    # One draw at a time bounds the mass from below, and the gap is one that can be seen.
    assert (scores.negative_elbo > scores.negative_log_marginal).all()
    assert (scores.negative_elbo - scores.negative_log_marginal).mean() > 0.01


SHAPES = [(1, 2, 2), (1, 6, 4), (3, 8, 8), (1, 28, 28), (3, 16, 16)]


def small(shape: tuple[int, int, int]) -> RealNVPDensity:
    torch.manual_seed(0)
    config = ModelConfig(family="realnvp", transformations=2, hidden=8, normalization="weight")
    return moved(real_nvp(config, shape).double().eval(), 0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_generating_undoes_normalizing(shape):
    model = small(shape)
    images = torch.randint(0, 256, (3, *shape)).double() / 255
    values = model.cell(images, torch.rand(2, 3, *shape).double())
    z, _ = model.normalize(values)
    assert z.shape == (2, 3, math.prod(shape))
    torch.testing.assert_close(model.generate(z), values, atol=1e-9, rtol=0)
    torch.testing.assert_close(model.decode(model.encode(images)), images)
    drawn = model.sample(4)
    assert drawn.shape == (4, *shape)
    torch.testing.assert_close((drawn * 255).round() / 255, drawn)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 6, 4), (3, 8, 8)])
def test_log_determinant_is_that_of_autograds_jacobian(shape):
    model = small(shape)
    values = torch.rand(1, 1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.normalize(x)[0].flatten(), values)
    expected = torch.linalg.slogdet(torch.as_tensor(jacobian).flatten(1))[1]
    torch.testing.assert_close(model.normalize(values)[1].squeeze(), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize(("shape", "scales"), [((3, 32, 32), 3), ((1, 28, 28), 2), ((3, 64, 64), 4)])
def test_scales_go_on_while_sides_are_even(shape, scales):
    model = real_nvp(ModelConfig(family="realnvp", transformations=1, hidden=4), shape)
    assert len(model.scales) == scales


def test_odd_sides_are_refused():
    with pytest.raises(UserError, match="images are 7 x 8; the first scale takes sides that 2 divides"):
        real_nvp(ModelConfig(family="realnvp", transformations=1), (1, 7, 8))


def test_act_norm_starts_from_images():
    model = real_nvp(ModelConfig(family="realnvp", transformations=1, hidden=8), (3, 16, 16))
    torch.manual_seed(0)
    images = (torch.randint(0, 100, (300, 3, 16, 16)) + 20) / 255
    before = -model(images).likelihood.mean()
    model.initialize(images)
    starts = [value for name, value in model.state_dict().items() if name.endswith("initialized")]
    assert len(starts) == 2
    assert all(starts)
    # The couplings are still the identity, and what passed them has mean 0 and variance 1.
    torch.testing.assert_close(model.encode(images).mean(), torch.tensor(0.0), atol=0.05, rtol=0)
    assert -model(images).likelihood.mean() < before - 100


def test_batch_norm_flow_takes_part_in_training():
    torch.manual_seed(0)
    config = ModelConfig(family="realnvp", transformations=2, hidden=8, flow_batch_norm=True)
    model = real_nvp(config, (3, 8, 8)).train()
    images = (torch.randint(0, 100, (100, 3, 8, 8)) + 20) / 255
    before = -model.eval()(images).likelihood.mean()
    for _ in range(100):
        model.train()(images)
    assert all(value for name, value in model.state_dict().items() if name.endswith("initialized"))
    assert -model.eval()(images).likelihood.mean() < before - 50


def test_the_ends_of_an_interpolation_are_the_images():
    model = small((3, 8, 8))
    first, second = (torch.randint(0, 256, (2, 5, 3, 8, 8)).double() / 255).unbind()
    path = interpolate(model, first, second, steps=4)
    assert path.shape == (5, 4, 3, 8, 8)
    torch.testing.assert_close(path[:, 0], first)
    torch.testing.assert_close(path[:, -1], second)


def test_it_is_trained_and_scored_like_any_other(tmp_path):
    random = np.random.default_rng(0)
    # Colours that go together, so that there is something to learn.
    grey = random.integers(60, 190, (120, 1, 8, 8))
    images = (grey + random.integers(-3, 4, (120, 3, 8, 8))).astype(np.uint8)
    np.savez(tmp_path / "grey.npz", train=images[:80], valid=images[80:100], test=images[100:])
    config = Config(
        DataConfig(str(tmp_path / "grey.npz"), "none"),
        ModelConfig(family="realnvp", transformations=2, hidden=16, normalization="weight"),
        TrainingConfig(steps=60, batch_size=16, learning_rate=5e-3, learning_rate_warm_up=5, track="none"),
    )
    assert train(tmp_path / "run", config)
    model, dataset = load(tmp_path / "run"), load_dataset(config.data.data, "none")
    assert isinstance(model, RealNVPDensity)
    scores = evaluate(model, dataset, num_samples=20)
    untrained = real_nvp(config.model, dataset.shape)
    untrained.initialize(dataset.train.images / 255)
    assert scores["bits_per_dim"] < evaluate(untrained, dataset, num_samples=20)["bits_per_dim"] - 0.1
    assert scores["nll"] < scores["negative_elbo"]
    assert scores["kl"] == scores["active_units"] == 0
    with pytest.raises(UserError, match="take 2 values, those of the model 256"):
        train(tmp_path / "other", Config(DataConfig("mnist", "static"), config.model, config.training))
    assert not (tmp_path / "other").exists()
