"""Images of any height and width: padding inside a model, which the likelihood does not count."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from causal_networks import gated_network
from command_line import SMALL, succeeds
from system_table import TABLE
from torch import Tensor

from flowvae.batch import Batch, DataSpec
from flowvae.evaluation.likelihood import at
from flowvae.models import Bounded, Coded, Completing, Sampler, Scored
from flowvae.models.autoencoder import VAE
from flowvae.models.causal_density import CausalDensity
from flowvae.models.real_nvp import RealNVPDensityOptions
from flowvae.models.registry import build_model


def every_image(height: int, width: int) -> Tensor:
    """All binary images, [2^(H W), 1, H, W]."""
    pixels = list(itertools.product([0.0, 1.0], repeat=height * width))
    return torch.tensor(pixels, dtype=torch.float64).view(-1, 1, height, width)


def moved(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize("name", list(TABLE))
def test_every_system_takes_images_of_any_size(name):
    row = TABLE[name]
    shape = (1, 9, 14)
    torch.manual_seed(0)
    model = build_model(row.options_of_system(), DataSpec(shape, 2 if row.binary else 256, 10, classes=2))
    images = torch.rand(10, *shape)
    images = images.round() if row.binary else (images * 255).round() / 255
    batch = Batch(images, torch.arange(10), torch.arange(10) % 2)
    model.initialize(images)
    model.initialize_each(iter([batch]))
    for player, loss, _ in model.updates(batch, 0):
        torch.autograd.grad(loss, list(model.players()[player].parameters()), allow_unused=True)
        assert loss.isfinite()
    model.eval()
    given: Any = model.given(batch)
    with torch.no_grad():
        assert all(
            value.shape == (10,) and value.isfinite().all() for value in model.validate(batch).values()
        )
        if isinstance(model, Sampler):
            assert model.sample(3).shape == (3, *shape)
            assert model.sample(0).shape == (0, *shape)
        if isinstance(model, Scored):
            assert model.log_prob(images, **given).shape == (10,)
        if isinstance(model, Bounded):
            model.draws_for(images, **given)(2)
        if isinstance(model, Coded):
            assert model.reconstruct(images, **given).shape == images.shape
            ends = (at(given, slice(1)), at(given, slice(1, 2))) if given else None
            path = model.path(images[:1], images[1:2], 4, *([ends] if ends else []))
            few = {name: labels[:4] for name, labels in given.items()}
            assert model.decode(path[0], **few).shape == (4, *shape)
        if isinstance(model, Completing):
            known = (torch.rand(1, 1, *shape[1:]) < 0.5).expand(1, *shape)
            one = {name: labels[:1] for name, labels in given.items()}
            assert model.impute(images[:1], known, 2, 4, **one).images.shape == (2, 1, *shape)


@pytest.mark.parametrize(("sides", "orders"), [((3, 3), 8), ((1, 5), 4), ((3, 2), 2), ((2, 3), 1)])
def test_probabilities_of_all_images_of_odd_sides_sum_to_one(sides, orders):
    model = CausalDensity(gated_network(sides, 5, 2, 3, orders=orders)).double().eval()
    images = every_image(*sides)
    model.initialize(images[: len(images) // 2])
    moved(model)
    with torch.no_grad():
        each = [
            model.network.log_prob(images, model.place, torch.full((len(images),), order))
            for order in range(orders)
        ]
        torch.testing.assert_close(torch.stack(each).exp().sum(1), torch.ones(orders).double())
        torch.testing.assert_close(model.log_prob(images).exp().sum(), torch.tensor(1.0).double())


def test_samples_of_odd_sides_follow_their_probabilities():
    torch.manual_seed(0)
    model = CausalDensity(gated_network((1, 3), 5, 1, 3, orders=2)).eval()
    moved(model)
    images = every_image(1, 3).float()
    drawn = model.sample(20_000, noise=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.log_prob(images).exp()
    found = (drawn[:, None] == images).all((2, 3, 4)).float().mean(0)
    torch.testing.assert_close(found, expected, atol=0.015, rtol=0)


def test_probabilities_given_a_code_sum_to_one():
    for options in ({"likelihood": "causal", "causal_channels": 4}, {}):
        row = TABLE["vae"]._replace(options={**TABLE["vae"].options, **options})
        model = build_model(row.options_of_system(), DataSpec((1, 3, 3), 2)).double().eval()
        assert isinstance(model, VAE)
        moved(model)
        images = every_image(3, 3)
        with torch.no_grad():
            given = model.likelihood(torch.randn(1, 1, 3).double().expand(1, len(images), 3))
            torch.testing.assert_close(given.log_prob(images).exp().sum(), torch.tensor(1.0).double())


def test_a_density_integrates_over_its_padding():
    """P(x) of 1 x 3 images of two levels, summed over images, is the mass of p in the unit cube.

    On the midpoints of a grid in the four dimensions of the padded image both sums have the same terms.
    """
    model = RealNVPDensityOptions(hidden=4, transformations=1).build(DataSpec((1, 1, 1), 2)).double().eval()
    model.levels = 2
    moved(model)
    points = 8
    middles = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    grid = torch.cartesian_prod(*[middles] * 4).view(1, -1, 1, 2, 2)
    within = torch.cartesian_prod(middles[: points // 2] * 2, *[middles] * 3).view(-1, 1, 1, 2, 2)
    images = torch.tensor([0.0, 1.0]).double().view(2, 1, 1, 1)
    with torch.no_grad():
        mass = model.log_density(grid).exp().mean()
        noise = within.expand(-1, 2, 1, 2, 2)
        probabilities = model(images, len(within), noise).exp().mean(0)
    torch.testing.assert_close(probabilities.sum(), mass)
    assert abs(probabilities[0] - probabilities[1]) > 0.01


def test_codes_of_odd_images_are_decoded_to_them():
    model = RealNVPDensityOptions(hidden=4, transformations=2).build(DataSpec((3, 7, 10), 256)).double()
    model.eval()
    moved(model)
    images = torch.randint(256, (4, 3, 7, 10)).double() / 255
    with torch.no_grad():
        torch.testing.assert_close(model.reconstruct(images), images)


def test_a_run_on_images_of_any_size(tmp_path):
    pixels = 255 * np.random.default_rng(0).integers(0, 2, (40, 9, 14), np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    run = tmp_path / "run"
    data = ["--data", tmp_path / "images.npz", "--steps", 2, "--track", "none"]
    succeeds("train", "vae", *SMALL, *data, "--out", run)
    for command in ("evaluate", "reconstruct", "sample", "interpolate"):
        succeeds(command, run)
