"""Generative latent optimization: the pyramid, the codes and whose they are, and runs that are resumed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import flowvae as command
from command_line import is_refusal, succeeds
from torch import Tensor

import flowvae
import flowvae.training.loop as loop
from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.errors import UserError
from flowvae.evaluation.interpolation import interpolate
from flowvae.models.glo import (
    GLO,
    GLOOptions,
    MixtureCodesOptions,
    RealNVPCodesOptions,
    into_ball,
    laplacian_loss,
    laplacian_pyramid,
)
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.registry import build_model
from flowvae.training.players import make_players

IMAGES, BATCH, SIDE, LATENT = 96, 16, 16, 6
PER_EPOCH = IMAGES // BATCH
SMALL = GLOOptions(latent=LATENT, features=16, networks=ConvolutionalOptions(channels=8), code_rate=10.0)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def squares(number: int, seed: int = 0) -> np.ndarray:
    """Grey images uint8 [N, 16, 16] of a bright square, whose place, size and brightness tell them apart."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 20, (number, SIDE, SIDE))
    for image in images:
        size = random.integers(4, 9)
        top, left = random.integers(0, SIDE - size, 2)
        image[top : top + size, left : left + size] += random.integers(120, 230)
    return images.astype(np.uint8)


def as_images(number: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(squares(number, seed)).unsqueeze(1) / 255


def moved(options: GLOOptions = SMALL, images: int = IMAGES) -> GLO:
    """A model whose generator does more than at its start, with codes from images."""
    model = build_model(options, DataSpec((1, SIDE, SIDE), 256, images))
    assert isinstance(model, GLO)
    everything = as_images(images)
    model.initialize(everything)
    model.initialize_each(Batch(everything, torch.arange(images)).split(40))
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


# The pyramid.


@pytest.mark.parametrize("sides", [(28, 28), (32, 20), (36, 44), (9, 15), (5, 30)])
def test_a_pyramid_gives_its_image_back(sides):
    images = torch.rand(3, 2, *sides, dtype=torch.float64)
    pyramid = laplacian_pyramid(images)
    given_back = pyramid[-1]
    for level in reversed(pyramid[:-1]):
        given_back = level + F.interpolate(given_back, level.shape[2:], mode="bilinear")
    torch.testing.assert_close(given_back, images, rtol=0, atol=1e-14)
    assert min(pyramid[-1].shape[2:]) < 8
    assert all(min(level.shape[2:]) >= 8 for level in pyramid[:-1])


def test_the_levels_are_those_of_a_convolution():
    images = torch.rand(3, 1, 16, 24, dtype=torch.float64)
    taps = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    smaller = F.conv2d(padded, torch.outer(taps, taps)[None, None], stride=2)
    finest = images - F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(laplacian_pyramid(images)[0], finest)


def test_the_loss_is_the_weighted_sum_over_levels():
    one, other = torch.rand(2, 4, 3, 20, 16)
    expected = sum(
        4**j * (first - second).abs().sum((1, 2, 3))
        for j, (first, second) in enumerate(
            zip(laplacian_pyramid(one), laplacian_pyramid(other), strict=True)
        )
    )
    torch.testing.assert_close(laplacian_loss(one, other), expected / (3 * 20 * 16))


def test_the_loss_is_zero_for_equal_images_alone():
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(laplacian_loss(images, images.clone()), torch.zeros(5))
    others = images.clone()
    others[:, 0, 13, 7] += 1e-3
    assert (laplacian_loss(images, others) > 0).all()
    torch.testing.assert_close(laplacian_loss(images, images + 0.25), torch.full((5,), 0.25))


# Codes.


def test_codes_are_shortened_into_the_ball():
    codes = torch.randn(1000, 7)
    inside = into_ball(codes)
    assert (inside.norm(dim=1) <= 1).all()
    assert torch.equal(into_ball(inside), inside)  # or codes that no batch has would creep
    short = codes.norm(dim=1) <= 1
    assert short.any()
    assert torch.equal(inside[short], codes[short])
    torch.testing.assert_close(F.normalize(inside), F.normalize(codes))


def test_codes_start_as_principal_components():
    model, flat = moved(), as_images(IMAGES).flatten(1).double()
    flat = flat - flat.mean(0)
    _, axes = torch.linalg.eigh(flat.T @ flat)
    expected = flat @ axes.flip(1)[:, :LATENT]
    codes = model.codes.weight.detach().double()
    inside = codes.norm(dim=1) < 0.999
    assert inside.double().mean() > 0.9
    for mine, theirs in zip(codes[inside].T, expected[inside].T, strict=True):
        assert abs(F.cosine_similarity(mine, theirs, dim=0)) > 0.99
    spread = codes.var(0, correction=0)
    torch.testing.assert_close(spread, torch.full_like(spread, 1 / (4 * LATENT)), rtol=0.1, atol=0)


def take_step(model: GLO, batch: Batch) -> None:
    players = make_players(model, TrainingConfig())
    for update in model.updates(batch, 0):
        player = players[update.player]
        player.add(update)
        _, norm = player.total()
        player.step(1.0, norm, 200.0)
    model.after_step()


def test_only_the_codes_of_a_batch_move_and_they_stay_in_the_ball():
    model = moved(replace(SMALL, code_rate=1e4))
    before, places = model.codes.weight.detach().clone(), torch.randperm(IMAGES)[:BATCH]
    take_step(model, Batch(as_images(IMAGES)[places], places))
    moving = (model.codes.weight != before).any(1)
    assert set(moving.nonzero().flatten().tolist()) == set(places.tolist())
    lengths = model.codes.weight.norm(dim=1)
    assert (lengths <= 1).all()
    assert (lengths[places] > 0.999).any()  # it would have left


def test_a_step_of_a_code_is_the_gradient_of_its_own_image():
    """Whatever else is in the batch."""
    model, images, places = moved(), as_images(IMAGES), torch.tensor([40, 5, 17])
    code = model.codes.weight[5:6].detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(laplacian_loss(model.decode(code), images[5:6]).sum(), code)
    losses = {update.player: update.loss for update in model.updates(Batch(images[places], places), 0)}
    (gradient,) = torch.autograd.grad(losses["codes"], model.codes.weight)
    torch.testing.assert_close(gradient[5], expected[0], rtol=1e-3, atol=1e-7)
    assert not gradient[6].any()


def test_a_search_asks_for_nothing_and_leaves_nothing():
    model, images = moved().eval(), as_images(6, seed=1)
    with torch.no_grad():
        codes = model.center(images)
    assert not codes.requires_grad
    assert codes.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (codes.norm(dim=1) <= 1).all()
    torch.testing.assert_close(model.center(images[2:3])[0], codes[2], rtol=1e-3, atol=1e-4)
    assert torch.equal(model.center(images), codes)


def test_paths_lead_from_code_to_code():
    model, images = moved().eval(), as_images(6, seed=1)
    path = model.path(images[:3], images[3:], 5)
    assert path.shape == (3, 5, LATENT)
    torch.testing.assert_close(path[:, 0], model.center(images[:3]))
    torch.testing.assert_close(path[:, -1], model.center(images[3:]))
    assert (path.norm(dim=2) <= 1).all()
    assert interpolate(model, images[:3], images[3:], 5).shape == (3, 5, 1, SIDE, SIDE)


# Samples.


def test_samples_have_mean_and_covariance_of_the_codes(monkeypatch):
    model = moved()
    with torch.no_grad():
        model.codes.weight.mul_(0.1)  # far from the surface of the ball
    monkeypatch.setattr(model, "decode", lambda codes: codes)
    codes = model.codes.weight.detach()
    root = model.sample(LATENT, noise=torch.eye(LATENT)) - codes.mean(0)
    torch.testing.assert_close(root.T @ root, torch.cov(codes.T, correction=0), rtol=1e-3, atol=1e-8)
    half = model.sample(LATENT, noise=torch.eye(LATENT), temperature=0.5) - codes.mean(0)
    torch.testing.assert_close(half, 0.5 * root)


@pytest.mark.parametrize(
    ("density", "rate"),
    [(RealNVPCodesOptions(transformations=4, hidden=32), 2e-3), (MixtureCodesOptions(components=4), 5e-2)],
)
def test_a_learned_density_finds_two_groups_of_codes(density, rate, monkeypatch):
    """Which a Gaussian would fill the middle between."""
    model = moved(replace(SMALL, code_density=density))
    assert model.density is not None
    side = torch.where(torch.arange(len(model.codes.weight)) % 2 == 0, 0.4, -0.4)
    with torch.no_grad():
        model.codes.weight.copy_(0.02 * torch.randn_like(model.codes.weight))
        model.codes.weight[:, 0] += side
    optimizer = torch.optim.Adam(model.density.parameters(), rate)
    # Of weights that still move, the share between the groups depends on the step, and on the CPU's rounding.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=600)
    batch = Batch(as_images(IMAGES), torch.arange(IMAGES))
    for _ in range(600):
        losses = {update.player: update.loss for update in model.updates(batch, 0)}
        optimizer.zero_grad()
        losses["density"].backward(inputs=list(model.density.parameters()))
        optimizer.step()
        schedule.step()
    monkeypatch.setattr(model, "decode", lambda codes: codes)
    codes = model.sample(500, torch.Generator().manual_seed(0))
    assert (codes.norm(dim=1) <= 1).all()
    assert ((codes[:, 0].abs() - 0.4).abs() < 0.1).float().mean() > 0.9
    assert 0.3 < (codes[:, 0] > 0).float().mean() < 0.7


def test_the_command_line_chooses_a_learned_density(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("squares.npz", train=squares(40), valid=squares(20, 1), test=squares(20, 2))
    words = [
        "train",
        "glo-mnist",
        "--data",
        "squares.npz",
        "--track",
        "none",
        "--steps",
        2,
        "--batch-size",
        8,
    ]
    words += ["--latent", 3, "--features", 8, "--channels", 4, "--hidden", 8, "--transformations", 2]
    is_refusal(
        command(*words, "--out", "g"),
        "has no effect with code_density gaussian; remove it, or choose realnvp",
    )
    succeeds(*words, "--code-density", "realnvp", "--out", "g")
    assert '"code_nll"' in Path("g/metrics.jsonl").read_text()
    options = ["--estimator", "ais", "--images", 2, "--distributions", 5, "--chains", 2, "--simulated", 0]
    succeeds("evaluate", "g", *options, "--variance", 0.1)
    assert np.isfinite(json.loads(Path("g/evaluation-ais.json").read_text())["nll"])


def test_samples_are_reproducible():
    model = moved()
    once, again = (model.sample(3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert once.shape == (3, 1, SIDE, SIDE)
    assert torch.equal(once, again)
    coldest = model.sample(2, temperature=0)
    assert torch.equal(coldest[0], coldest[1])


# Options.


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UserError, match="training_images"):
        SMALL.build(DataSpec((1, SIDE, SIDE)))
    for rate in (0.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="code_rate"):
            replace(SMALL, code_rate=rate)


def test_images_that_differ_in_few_ways_have_few_components():
    model = build_model(SMALL, DataSpec((1, SIDE, SIDE), 256, IMAGES))
    assert isinstance(model, GLO)
    images = torch.rand(IMAGES, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    model.initialize(images)
    codes = model.guess(images)
    assert (codes.abs() > 1e-6).any(0).sum() == 1
    model.initialize(images[:2])
    assert (model.guess(images).abs() > 1e-6).any(0).sum() == 1
    model.initialize(torch.zeros(IMAGES, 1, SIDE, SIDE))
    assert not model.guess(images).any()


def test_one_training_image_is_enough():
    model = build_model(replace(SMALL, code_start="random"), DataSpec((3, 8, 12), 256, 1))
    assert isinstance(model, GLO)
    take_step(model, Batch(torch.rand(1, 3, 8, 12), torch.tensor([0])))
    assert model.sample(2).isfinite().all()


# Runs.


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    np.savez(path, train=squares(IMAGES), valid=squares(24, 1), test=squares(24, 2))
    return path


def configuration(data: Path, options: GLOOptions = SMALL, **training: Any) -> Config:
    given: dict[str, Any] = {"epochs": 4, "batch_size": BATCH, "learning_rate_warm_up": 5, "track": "none"}
    return Config(DataConfig(str(data), "none"), options, TrainingConfig(**{**given, **training}))


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    flowvae.train(run, configuration(data))
    return run


def metrics(run: Path, split: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def assert_equal(one: Any, other: Any) -> None:
    """Nested values are equal, tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


class Crash(BaseException):
    """As sudden as SIGKILL, at a step of our choice."""


def crashing_at(step: int, function: Callable[..., Batch]) -> Callable[..., Batch]:
    def wrapped(dataset: Any, batch_size: int, seed: int, at: int, *more: int) -> Batch:
        if at == step:
            raise Crash
        return function(dataset, batch_size, seed, at, *more)

    return wrapped


@pytest.mark.parametrize("step", [PER_EPOCH + 1, 3 * PER_EPOCH])
def test_a_killed_run_ends_as_an_unbroken_one(step, data, unbroken, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_batch", crashing_at(step, loop.training_batch))
        with pytest.raises(Crash):
            flowvae.train(run, configuration(data))
    flowvae.train(run, configuration(data), resume=True)
    ours, theirs = (torch.load(path / "resume" / "state.pt", weights_only=True) for path in (run, unbroken))
    assert set(ours["optimizers"]) == {"generator", "codes"}
    for name in ("step", "model", "average", "optimizers", "best"):
        assert_equal(ours[name], theirs[name])
    assert (run / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()


def test_the_codes_rate_follows_the_schedule_of_the_run(unbroken):
    optimizers = torch.load(unbroken / "resume" / "state.pt", weights_only=True)["optimizers"]
    (codes,) = optimizers["codes"]["param_groups"]
    assert codes["lr"] / SMALL.code_rate == pytest.approx(
        optimizers["generator"]["param_groups"][0]["lr"] / TrainingConfig().learning_rate
    )


def test_a_run_learns_loads_and_is_evaluated(data, unbroken):
    values = [line["laplacian_loss"] for line in metrics(unbroken, "valid")]
    assert len(values) == 4
    assert values[-1] < values[0]
    model, dataset = flowvae.load(unbroken), flowvae.load_dataset(str(data), "none")
    assert isinstance(model, GLO)
    scores = flowvae.evaluate(model, dataset, "valid")
    assert scores["laplacian_loss"] == pytest.approx(min(values), rel=1e-3)
    assert scores["laplacian_loss_standard_error"] > 0
    assert not {"nll", "bits_per_dim", "kl", "samples", "active_units"} & scores.keys()


@pytest.fixture(scope="module")
def starts(data, tmp_path_factory) -> dict[str, Path]:
    """Runs from either start, long enough to tell images apart."""
    made = {}
    for start in ("principal", "random"):
        made[start] = tmp_path_factory.mktemp("starts") / start
        options = replace(SMALL, code_start=start, code_rate=5.0, code_steps=2)
        training = {"epochs": 20, "averaging": 0.9, "validation_images": 8}
        flowvae.train(made[start], configuration(data, options, **training))
    return made


def test_each_code_is_that_of_its_own_image(data, starts):
    """Though every epoch has another order: what is made of another image's code is farther away."""
    model = flowvae.load(starts["principal"])
    assert isinstance(model, GLO)
    images = flowvae.load_dataset(str(data), "none").batch("train", torch.arange(IMAGES)).images
    with torch.no_grad():
        made = model.decode(model.codes.weight)
        unmoved = model.decode(model.guess(images))
    own = laplacian_loss(made, images)
    assert own.mean() < 0.8 * laplacian_loss(unmoved, images).mean()  # it is not all in the start
    others = torch.stack([laplacian_loss(made.roll(shift, 0), images) for shift in (1, 7, 40)])
    assert (own < others).double().mean() > 0.9


def test_a_search_makes_the_image_nearer(data, starts):
    model = flowvae.load(starts["principal"])
    assert isinstance(model, GLO)
    images = flowvae.load_dataset(str(data), "none").batch("test", torch.arange(20)).images
    losses = []
    for steps in (0, 5, 20, 80):
        model.steps = steps
        losses.append(laplacian_loss(model.reconstruct(images), images).mean().item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


def test_principal_components_are_the_better_start(starts):
    losses = {start: metrics(run, "train")[-1]["laplacian_loss"] for start, run in starts.items()}
    assert losses["principal"] < 0.8 * losses["random"]


def test_dynamic_images_have_the_codes_of_their_intensities(data):
    dataset = flowvae.load_dataset(str(data), "dynamic")
    model = build_model(SMALL, dataset.spec)
    assert isinstance(model, GLO)
    model.initialize(as_images(IMAGES))
    model.initialize_each(loop.all_images(dataset))
    torch.testing.assert_close(model.codes.weight.detach(), model.guess(as_images(IMAGES)))
