"""The Bayesian adversarial network: its losses, its posteriors, what is collected, and few labels."""

import csv
import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import flowvae, is_refusal, succeeds
from tiny_runs import assert_ended_as, state_of
from torch import Tensor, nn

import flowvae as package
from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.errors import UserError
from flowvae.models import bayesian_gan
from flowvae.models.adversarial import logit_of_real, squared_slopes
from flowvae.models.bayesian_gan import (
    BayesianGAN,
    BayesianGANOptions,
    ChainOptions,
    Chains,
    SemiSupervisedBayesianGAN,
)
from flowvae.models.classification import smoothness_loss
from flowvae.parts import from_dict
from flowvae.runs import Run, read_json
from flowvae.training import Callback, TrainingProgress

TINY = {"latent": 2, "features": 8, "channels": 4, "blocks": 0, "generators": 3, "discriminators": 2}
SPEC = DataSpec((1, 8, 8), training_images=50, classes=3)


def tiny(**changes: Any) -> BayesianGAN:
    torch.manual_seed(0)
    model = from_dict(BayesianGANOptions, {**TINY, **changes}).build(SPEC)
    assert isinstance(model, BayesianGAN)
    return model


def few_labels(**changes: Any) -> SemiSupervisedBayesianGAN:
    torch.manual_seed(0)
    changes = {"supervision": "few-labels", "labels_used": 6, "labelled_per_step": 5, **changes}
    model = from_dict(BayesianGANOptions, {**TINY, **changes}).build(SPEC)
    assert isinstance(model, SemiSupervisedBayesianGAN)
    return model


def images(number: int) -> Tensor:
    return torch.rand(number, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def batch(number: int = 9) -> Batch:
    return Batch(images(number), torch.arange(number))


# Losses.


def test_real_and_generated_are_classes_of_one_softmax():
    logits = torch.randn(7, 4, dtype=torch.float64)
    log_class = torch.cat([logits, torch.zeros(7, 1, dtype=torch.float64)], 1).log_softmax(1)
    real = logit_of_real(logits)
    torch.testing.assert_close(F.logsigmoid(-real), log_class[:, -1])
    torch.testing.assert_close(F.logsigmoid(real), torch.log1p(-log_class[:, -1].exp()))
    given_real = log_class[:, :-1] - F.logsigmoid(real)[:, None]
    torch.testing.assert_close(logits.log_softmax(1), given_real)
    assert torch.equal(logit_of_real(real), real)


def negative_log_prior(network: nn.Module, deviation: float) -> Tensor:
    return -sum(
        torch.distributions.Normal(0, deviation).log_prob(each).sum()
        - torch.distributions.Normal(0, deviation).log_prob(torch.zeros(())) * each.numel()
        for each in network.parameters()
    )  # type: ignore[return-value]  # a sum of tensors


def test_losses_are_negative_log_posteriors_per_training_image():
    model = tiny(gamma=3.0, prior_deviation=0.7)
    torch.manual_seed(5)
    of_discriminators, of_generators = model.updates(batch(), 0)
    torch.manual_seed(5)
    codes = torch.randn(3, 3, 2)
    made = [state(own) for state, own in zip(model.generators.states, codes, strict=True)]
    expected = torch.zeros(())
    for state in model.discriminators.states:
        real, fake = state(images(9)), state(torch.cat(made))
        likelihood = real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()
        penalty = squared_slopes(state, images(9)[:3]).mean()
        expected = expected - likelihood + 1.5 * penalty + negative_log_prior(state, 0.7) / 50
    torch.testing.assert_close(of_discriminators.loss, expected)
    expected = torch.zeros(())
    for state, own in zip(model.generators.states, made, strict=True):
        likelihood = torch.stack([each(own).sigmoid().log().mean() for each in model.discriminators.states])
        expected = expected - likelihood.mean() + negative_log_prior(state, 0.7) / 50
    torch.testing.assert_close(of_generators.loss, expected)
    assert list(of_discriminators.shown) == ["discriminator_loss", "penalty"]
    assert list(of_generators.shown) == ["generator_loss"]


@pytest.mark.parametrize(("share_batch", "each"), [(True, 3), (False, 9)])
def test_generators_share_a_batch_or_make_one_each(share_batch, each):
    model = tiny(share_batch=share_batch)
    counts = []
    for state in model.generators.states:
        state.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    list(model.updates(batch(9), 0))
    assert counts == [each] * 3


def test_one_generator_has_no_batch_to_share():
    with pytest.raises(UserError, match="share_batch has no effect on one generator"):
        tiny(generators=1, share_batch=False)
    assert tiny(generators=1).options.share_batch


# Restarts.


def saturated(network: nn.Module) -> None:
    """Let a generator make black images of all codes."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        list(network.parameters())[-1].fill_(-30.0)


def weights_of(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def test_generators_of_one_image_get_the_weights_of_others():
    model = tiny(generators=4)
    dead, alive = (1, 3), (0, 2)
    for place in dead:
        saturated(model.generators.states[place])
    before = [weights_of(state) for state in model.generators.states]
    model.restart(torch.Generator().manual_seed(0))
    after = [weights_of(state) for state in model.generators.states]
    assert all(torch.equal(after[place], before[place]) for place in alive)
    for place in dead:
        assert any(torch.equal(after[place], before[source]) for source in alive)


def test_restarts_end_with_burn_in():
    for burn_in, restarted in ((101, True), (100, False)):
        model = tiny(generators=2, burn_in=burn_in, thinning=1)
        saturated(model.generators.states[1])
        black = weights_of(model.generators.states[1])
        list(model.updates(batch(4), 98))
        assert torch.equal(weights_of(model.generators.states[1]), black)
        list(model.updates(batch(4), 99))
        assert torch.equal(weights_of(model.generators.states[1]), black) != restarted


def test_weights_that_are_not_finite_are_left_to_the_next_loss():
    model = tiny(generators=3)
    with torch.no_grad():
        next(model.generators.states[0].parameters()).fill_(math.nan)
    before = [weights_of(state) for state in model.generators.states]
    model.restart(torch.Generator().manual_seed(0))
    after = [weights_of(state) for state in model.generators.states]
    assert all(torch.equal(*pair) for pair in zip(after[1:], before[1:], strict=True))
    assert not after[0].isfinite().all()


@pytest.mark.parametrize(
    "training", [{}, {"gradient_accumulation": 3}, {"precision": "bfloat16"}], ids=["", "portions", "narrow"]
)
def test_a_run_that_is_stopped_around_a_restart_ends_as_an_unbroken_one(
    training, halves, tmp_path, monkeypatch
):
    """Restarts after 4 and 8 steps, in which all generators but one get its weights."""
    monkeypatch.setattr(bayesian_gan, "BETWEEN_RESTARTS", 4)
    monkeypatch.setattr(bayesian_gan, "NARROWER", 1.0)
    chains = {"burn_in": 10, "thinning": 1, "collected": 2, "share_batch": False}
    options = from_dict(BayesianGANOptions, {**TINY, **chains})
    settings = TrainingConfig(steps=13, batch_size=7, track="none", **training)
    config = Config(DataConfig(str(halves), "none"), options, settings)
    package.train(tmp_path / "unbroken", config)
    for number, last in enumerate((3, 4, 5, 8, 11)):
        at = StopAfter(last)
        assert not package.train(tmp_path / "run", config, resume=number > 0, callbacks=[at])
        assert state_of(tmp_path / "run")["step"] == last
    package.train(tmp_path / "run", config, resume=True)
    assert_ended_as(tmp_path / "run", tmp_path / "unbroken")


class StopAfter(Callback):
    def __init__(self, last: int) -> None:
        self.last = last

    def on_step(self, progress: TrainingProgress) -> bool:
        return progress.step == self.last


def test_few_labels_add_the_classes_of_labelled_images():
    model = few_labels(gamma=0.0, classification_weight=4.0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    model.initialize_each(iter([Batch(images(7), torch.arange(7), labels)]))
    assert model.known is not None
    torch.manual_seed(5)
    with_labels = next(model.updates(batch(), 0))
    model.known = None
    torch.manual_seed(5)
    without = next(model.updates(batch(), 0))
    assert list(with_labels.shown) == ["discriminator_loss", "classification"]
    torch.testing.assert_close(  # two chains; labels of batches are never read
        with_labels.loss - with_labels.shown["discriminator_loss"] * 2,
        without.loss - without.shown["discriminator_loss"] * 2 + 8 * with_labels.shown["classification"],
        atol=2e-5,
        rtol=1e-5,
    )


def test_smoothness_is_that_of_the_classes_of_real_images():
    model = few_labels(gamma=0.0, smoothness_weight=2.0, smoothness_radius=0.5)
    torch.manual_seed(5)
    update = next(model.updates(batch(), 0))
    torch.manual_seed(5)
    torch.randn(3, 3, 2)  # codes
    states = model.gan.discriminators.states
    expected = [smoothness_loss(each, images(9), each(images(9)).log_softmax(1), 0.5) for each in states]
    assert list(update.shown) == ["discriminator_loss", "smoothness"]
    torch.testing.assert_close(update.shown["smoothness"], torch.stack(expected).mean())
    without = next(few_labels(gamma=0.0).updates(batch(), 0)).loss
    assert update.loss > without


def test_information_is_that_of_image_and_class_among_real_images():
    model, other = few_labels(gamma=0.0, information_weight=2.0), few_labels(gamma=0.0)
    torch.manual_seed(5)
    update = next(model.updates(batch(), 0))
    torch.manual_seed(5)
    without = next(other.updates(batch(), 0))
    chances = [each(images(9)).softmax(1) for each in model.gan.discriminators.states]
    expected = [
        torch.distributions.Categorical(each.mean(0)).entropy()
        - torch.distributions.Categorical(each).entropy().mean()
        for each in chances
    ]
    assert list(update.shown) == ["discriminator_loss", "information"]
    torch.testing.assert_close(update.shown["information"], torch.stack(expected).mean())
    torch.testing.assert_close(
        update.loss - without.loss, -2 * 2 * update.shown["information"], atol=2e-5, rtol=1e-5
    )


# Posteriors.


class Ignorant(nn.Module):
    """A discriminator that does not look at the images."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.bias.expand(len(images))


def test_chains_draw_from_the_posteriors_of_a_game_that_is_solved():
    """Generators have their prior; ``p(b) ~ exp(-N (softplus(-b) + softplus(b)) - b^2 / 2 deviation^2)``."""
    number, deviation, temperature, chains = 6, 0.8, 0.9, 50
    options = ChainOptions(
        prior_deviation=deviation,
        posterior_temperature=temperature,
        gamma=0.0,
        step_size=0.2,
        burn_in=0,
        thinning=15,
        collected=10,
    )
    torch.manual_seed(0)
    pairs = [(nn.Sequential(nn.Linear(1, 4), nn.Unflatten(1, (1, 2, 2))), Ignorant()) for _ in range(chains)]
    model = BayesianGAN(*zip(*pairs, strict=True), 1, number, options)  # type: ignore[arg-type]
    players = model.players()
    optimizers = {name: make(players[name].parameters()) for name, make in model.optimizers().items()}
    for step in range(210):
        for update in model.updates(Batch(torch.rand(chains, 1, 2, 2), torch.arange(chains)), step):
            update.loss.backward(inputs=list(players[update.player].parameters()))
            optimizers[update.player].step()
            optimizers[update.player].zero_grad()
    weights = model.generators.weights
    variance = temperature * deviation**2
    assert abs(weights.var().item() / variance - 1) < 4 * math.sqrt(2 / weights.numel()) + 0.02
    grid = torch.linspace(-4, 4, 2001)
    potential = number * (F.softplus(-grid) + F.softplus(grid)) + grid**2 / (2 * deviation**2)
    density = (-potential / temperature).softmax(0)
    variance = (density * grid**2).sum().item()
    biases = model.discriminators.weights
    assert abs(biases.square().mean().item() / variance - 1) < 4 * math.sqrt(2 / biases.numel()) + 0.02


# What is collected.


def test_the_latest_weights_of_each_chain_are_kept():
    chains = Chains([nn.Conv2d(2, 3, 3) for _ in range(2)], kept=2)
    nn.utils.convert_conv2d_weight_memory_format(chains, torch.channels_last)
    inputs = torch.randn(1, 2, 5, 5)
    outputs = []
    assert len(chains) == 2
    for place in range(2):
        assert torch.equal(chains.network(place)(inputs), chains.states[place](inputs))
    for turn in range(3):
        with torch.no_grad():
            for parameter in chains.parameters():
                parameter.add_(torch.randn_like(parameter))
        outputs += [state(inputs) for state in chains.states]
        chains.collect()
        assert len(chains) == min(4, 2 * (turn + 1))
    for place, expected in enumerate([4, 5, 2, 3]):
        torch.testing.assert_close(chains.network(place)(inputs), outputs[expected])


def test_weights_are_collected_after_burn_in_and_thinning():
    model = tiny(burn_in=3, thinning=2, collected=5, generators=2)
    counts = []
    for step in range(8):
        list(model.updates(batch(4), step))
        counts.append(int(model.generators.collected))
    assert counts == [0, 0, 0, 0, 2, 2, 4, 4]
    assert int(model.discriminators.collected) == 4


def test_samples_are_from_weights_chosen_at_random():
    """Each network makes images of one shade, by which it is known."""
    number = 5
    shades = [nn.Sequential(nn.Linear(1, 4), nn.Unflatten(1, (1, 2, 2))) for _ in range(number)]
    for place, network in enumerate(shades):
        nn.init.zeros_(network.get_parameter("0.weight"))
        nn.init.constant_(network.get_parameter("0.bias"), float(place))
    model = BayesianGAN(shades, [Ignorant()], 1, 10, ChainOptions())
    for _ in range(2):
        made = model.sample(4000, torch.Generator().manual_seed(0))[:, 0, 0, 0]
        shares = made.long().bincount(minlength=number) / 4000
        assert ((shares - 1 / number).abs() < 4 * math.sqrt(0.16 / 4000)).all()
        model.generators.collect()  # and the same from collected weights


def test_images_and_codes_keep_their_order():
    model = tiny()
    model.generators.collect()
    drawn = torch.Generator().manual_seed(3)
    codes, chosen = torch.randn(7, 2, generator=drawn), torch.randint(3, (7,), generator=drawn)
    made = model.sample(7, torch.Generator().manual_seed(3), temperature=0.5)
    each = [
        model.generators.network(int(place))(code[None] / 2)
        for place, code in zip(chosen, codes, strict=True)
    ]
    torch.testing.assert_close(made, torch.cat(each), rtol=1e-4, atol=1e-5)


def test_classes_are_averaged_over_the_posterior():
    model = few_labels()
    states = model.gan.discriminators.states
    before = [state(images(4)).softmax(1) for state in states]
    model.gan.discriminators.collect()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = [state(images(4)).softmax(1) for state in states]
    torch.testing.assert_close(model.classify(images(4)).exp(), torch.stack(before).mean(0))
    model.gan.discriminators.collect()
    torch.testing.assert_close(model.classify(images(4)).exp(), torch.stack(before + after).mean(0))


# Runs.


@pytest.fixture(scope="module")
def trained(halves, tmp_path_factory) -> Path:
    """A run at a low temperature: from so few images, the posterior at the temperature 1 is wide."""
    run = tmp_path_factory.mktemp("runs") / "few"
    sizes = {"latent": 2, "features": 16, "channels": 8, "blocks": 0, "generators": 2}
    chains = {
        "posterior_temperature": 0.02,
        "step_size": 3e-3,
        "burn_in": 150,
        "thinning": 25,
        "collected": 4,
    }
    few = {"supervision": "few-labels", "labels_used": 4, "labelled_per_step": 4}
    options = from_dict(BayesianGANOptions, {**sizes, **chains, **few})
    training = TrainingConfig(steps=300, batch_size=32, track="none", learning_rate_warm_up=5)
    package.train(run, Config(DataConfig(str(halves), "none"), options, training))
    return run


def test_the_last_weights_are_kept_and_none_is_averaged(trained):
    model, state = package.load(trained), state_of(trained)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state["model"][name]), name
        assert torch.equal(value, state["average"][f"module.{name}"]), name
    assert int(model.get_buffer("gan.discriminators.collected")) == 6
    assert int(model.get_buffer("gan.generators.collected")) == 2 * 6


def test_both_modes_are_sampled_and_told_apart_from_four_labels(trained):
    model = package.load(trained)
    assert isinstance(model, SemiSupervisedBayesianGAN)
    made = model.sample(400, torch.Generator().manual_seed(0))
    halves = made.unflatten(3, (2, 4)).mean((1, 2, 4))  # [400, 2]
    left, right = ((halves - halves.flip(1)) > 0.4).float().mean(0).tolist()
    assert min(left, right) > 0.2, (left, right)
    assert left + right > 0.7, (left, right)
    scores = package.evaluate(model, Run(trained).dataset)
    assert scores["class_error"] < 0.05
    assert scores["class_nll"] < 0.2


def test_a_state_with_negative_masses_is_damaged(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    state = state_of(run)
    state["optimizers"]["generators"]["state"][0]["largest"].fill_(-1)
    torch.save(state, run / "resume" / "state.pt")
    with pytest.raises(UserError, match="largest is negative"):
        package.train(run, Run(run).config, resume=True)


# The command line.

SMALL = ["--features", 8, "--channels", 4, "--latent", 3, "--batch-size", 16, "--track", "none"]
CHAINS = ["--generators", 2, "--burn-in", 2, "--thinning", 2, "--collected", 2]


def test_a_run_from_the_command_line(halves, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, *CHAINS, "--data", halves, "--steps", 6, "--labels-used", 4, "--out", "few"]
    succeeds("train", "bayesian-gan-few", *words)
    succeeds("sample", "few")
    succeeds("evaluate", "few")
    scores = read_json(tmp_path / "few" / "evaluation.json")
    assert {"energy_score", "class_error", "class_nll", "calibration_error"} <= scores.keys()
    rows = list(csv.DictReader(io.StringIO(succeeds("classify", "few", halves))))
    assert len(rows) == 40
    assert sum(math.exp(float(rows[0][f"log_q_{k}"])) for k in range(2)) == pytest.approx(1, abs=1e-4)
    succeeds("train", "bayesian-gan-mnist", *SMALL, *CHAINS, "--data", halves, "--steps", 4, "--out", "gan")
    is_refusal(flowvae("classify", "gan", halves), "classif")


def test_a_budget_in_minutes_that_ends_in_the_burn_in_is_noted(halves, tmp_path):
    words = [*SMALL, "--data", halves, "--minutes", 0.001, "--out", tmp_path / "run"]
    ended = flowvae("train", "bayesian-gan-mnist", *words)
    assert ended.code == 0
    assert "flowvae: warning: the first weights are collected after 2500 steps" in ended.err


def test_mistakes_are_one_line(halves, tmp_path):
    out = tmp_path / "run"

    def train(preset: str, *words: object):
        return flowvae("train", preset, *SMALL, "--data", halves, "--out", out, *words)

    is_refusal(train("bayesian-gan-mnist", "--steps", 100), "2500 steps", "only 100", "--burn-in")
    is_refusal(train("bayesian-gan-few", "--epochs", 2), "2500 steps")
    is_refusal(train("bayesian-gan-mnist", "--collected", 0), "collected is 0")
    is_refusal(train("bayesian-gan-mnist", "--generators", 0), "generators is 0")
    is_refusal(train("bayesian-gan-mnist", "--labels-used", 10), "labels_used has no effect", "few-labels")
    is_refusal(train("bayesian-gan-mnist", "--noise-estimate", 0.9), "at most 0.8")
    is_refusal(train("bayesian-gan-mnist", "--step-size", 0), "step_size is 0")
    is_refusal(train("bayesian-gan-mnist", "--averaging", 0.9), "averaging has no effect", "posterior")
    is_refusal(train("bayesian-gan-mnist", "--learning-rate", 0.1), "learning_rate has no effect")
    is_refusal(train("bayesian-gan-few", *CHAINS, "--steps", 4, "--labels-used", 5), "labels_used is 5")
    np.savez(
        tmp_path / "unlabelled.npz", **{name: np.load(halves)[name] for name in ("train", "valid", "test")}
    )
    unlabelled = ["--data", tmp_path / "unlabelled.npz"]
    is_refusal(train("bayesian-gan-few", *unlabelled), "no labels")
    assert not out.exists()


def test_the_number_of_training_images_is_needed():
    with pytest.raises(UserError, match="training_images"):
        BayesianGANOptions().build(DataSpec((1, 8, 8)))
