"""Real NVP as a density of images: it integrates to one, and its bound tightens towards the exact mass."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.data import load_dataset
from flowvae.errors import UserError
from flowvae.evaluation import bounds, evaluate, interpolate
from flowvae.flows import ActNorm
from flowvae.models.real_nvp import MARGIN, RealNVPDensity, RealNVPDensityOptions
from flowvae.runs import load
from flowvae.training import train

LEVELS, PER_LEVEL = 3, 8  # of a tiny image, and points of quadrature to each in every dimension


def build(shape: tuple[int, int, int], **options: Any) -> RealNVPDensity:
    model = RealNVPDensityOptions(**options).build(DataSpec(shape))
    assert isinstance(model, RealNVPDensity)
    return model


def moved(model: RealNVPDensity, amount: float = 0.3) -> RealNVPDensity:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += amount * torch.randn_like(parameter)
    return model


def tiny() -> RealNVPDensity:
    """Of 2 x 2 grey pixels, away from the identity."""
    torch.manual_seed(0)
    model = moved(build((1, 2, 2), transformations=2, hidden=4).double().eval())
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
    assert scores.reconstruction is scores.kl is None  # there is no code that could cost anything
    # One draw at a time bounds the mass from below, and the gap is one that can be seen.
    assert (scores.negative_elbo > scores.negative_log_marginal).all()
    assert (scores.negative_elbo - scores.negative_log_marginal).mean() > 0.01


SHAPES = [(1, 2, 2), (1, 6, 4), (3, 8, 8), (1, 28, 28), (3, 16, 16)]


def small(shape: tuple[int, int, int]) -> RealNVPDensity:
    torch.manual_seed(0)
    return moved(build(shape, transformations=2, hidden=8).double().eval(), 0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_generating_undoes_normalizing(shape):
    model = small(shape)
    images = torch.randint(0, 256, (3, *shape)).double() / 255
    values = model.cell(images, torch.rand(2, 3, *shape).double())
    z, _ = model.normalize(values)
    assert z.shape == (2, 3, math.prod(shape))
    torch.testing.assert_close(model.generate(z), values, atol=1e-9, rtol=0)
    torch.testing.assert_close(model.decode(model.center(images)), images)
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
    model = build(shape, transformations=1, hidden=4)
    assert len(model.scales) == scales


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("event", [(5,), (4, 2, 3)])
def test_act_norm_starts_with_mean_0_and_variance_1_in_the_direction_of_its_use(event, inverse):
    torch.manual_seed(0)
    z = 0.3 * torch.randn(6, 7, *event).double() + torch.arange(event[0]).view(-1, *[1] * (len(event) - 1))
    flow = ActNorm(event[0]).double()
    flow.starting = True
    moved, _ = flow.inverse(z) if inverse else flow(z)
    variance, mean = torch.var_mean(moved.movedim(2, 0).flatten(1), dim=1, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(variance, torch.ones_like(mean), atol=1e-4, rtol=0)
    assert flow.initialized


def test_act_norm_starts_from_images():
    model = build((3, 16, 16), transformations=1, hidden=8)
    torch.manual_seed(0)
    images = (torch.randint(0, 100, (300, 3, 16, 16)) + 20) / 255
    before = -model(images).mean()
    model.initialize(images)
    starts = [value for name, value in model.state_dict().items() if name.endswith("initialized")]
    assert len(starts) == 2
    assert all(starts)
    # The couplings are still the identity, and what passed them has mean 0 and variance 1.
    torch.testing.assert_close(model.center(images).mean(), torch.tensor(0.0), atol=0.05, rtol=0)
    assert -model(images).mean() < before - 100


def test_batch_norm_flow_takes_part_in_training():
    torch.manual_seed(0)
    options = {"transformations": 2, "hidden": 8, "normalization": "none", "flow_batch_norm": True}
    model = build((3, 8, 8), **options).train()
    images = (torch.randint(0, 100, (100, 3, 8, 8)) + 20) / 255
    before = -model.eval()(images).mean()
    for _ in range(100):
        model.train()(images)
    assert all(value for name, value in model.state_dict().items() if name.endswith("initialized"))
    assert -model.eval()(images).mean() < before - 50


@pytest.mark.parametrize("objective", ["elbo", "importance-weighted"])
def test_what_training_maximizes_is_what_validation_follows(objective):
    """Of one draw of the noise for each image the two are the same; of three, in eval mode, known by hand."""
    model = moved(build((1, 6, 4), transformations=1, hidden=4, objective=objective, samples=3).double())
    images = torch.randint(0, 256, (5, 1, 6, 4)).double() / 255
    batch, noise = Batch(images, torch.arange(5)), torch.Generator().manual_seed(1)
    weights = model.eval()(images, 3, noise)
    assert weights.shape == (3, 5)
    elbo, weighted = weights.mean(0), weights.exp().mean(0).log()
    assert (weighted > elbo).all()
    bound = weighted if objective == "importance-weighted" else elbo
    torch.manual_seed(1)
    (update,) = model.updates(batch, step=0)
    torch.testing.assert_close(update.loss, -bound.mean())
    torch.testing.assert_close(update.shown["negative_elbo"], -elbo.mean())
    torch.manual_seed(1)
    scores = model.validate(batch)
    if objective == "importance-weighted":
        assert next(iter(scores)) == model.best == "importance_weighted"
        torch.testing.assert_close(scores["importance_weighted"], -weighted)
        torch.testing.assert_close(scores["negative_elbo"], -elbo)
    else:
        assert [*scores] == [model.best] == ["negative_elbo"]
        torch.testing.assert_close(scores["negative_elbo"], -weights[0])  # of one draw


def test_temperature_is_that_of_the_normal_noise():
    model = small((1, 6, 4))
    noise = torch.randn(5, 24).double()
    expected = model.image(model.generate(0.5 * noise.unsqueeze(0))[0])
    assert torch.equal(model.sample(5, noise, temperature=0.5), expected)
    assert not torch.equal(model.sample(5, noise), expected)


def test_the_middle_of_a_path_is_as_long_as_normal_noise_is():
    model = small((3, 8, 8))
    first, second = (torch.randint(0, 256, (2, 5, 3, 8, 8)).double() / 255).unbind()
    path = model.path(first, second, steps=3)
    one, other = model.center(first), model.center(second)
    torch.testing.assert_close(path[:, 1], (one + other) / math.sqrt(2))


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
        RealNVPDensityOptions(transformations=2, hidden=16),
        TrainingConfig(steps=60, batch_size=16, learning_rate=5e-3, learning_rate_warm_up=5, track="none"),
    )
    assert train(tmp_path / "run", config)
    model, dataset = load(tmp_path / "run"), load_dataset(config.data.data, "none")
    assert isinstance(model, RealNVPDensity)
    scores = evaluate(model, dataset, num_samples=20)
    untrained = build(dataset.shape, transformations=2, hidden=16)
    untrained.initialize(dataset.train.images / 255)
    assert scores["bits_per_dim"] < evaluate(untrained, dataset, num_samples=20)["bits_per_dim"] - 0.1
    assert scores["nll"] < scores["negative_elbo"]
    assert not scores.keys() & {"kl", "reconstruction", "active_units"}  # it has no code
    assert scores["samples"] == 20
    with pytest.raises(UserError, match="take 2 values, those of the model 256"):
        train(tmp_path / "other", Config(DataConfig("mnist", "static"), config.model, config.training))
    assert not (tmp_path / "other").exists()
