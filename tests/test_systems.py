"""What every system can do, and what a model of the user's own can: trained, resumed, loaded, scored."""

import math
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import contents, flowvae, is_refusal, succeeds, write_images
from made_runs import message
from system_table import STEPS, TABLE, Row
from tiny_runs import assert_ended_as, assert_equal, state_of
from torch import Tensor, nn

import flowvae as package
import flowvae.training.loop as loop
from flowvae.batch import Batch, DataSpec
from flowvae.commands.evaluating import evaluate_run
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.data import training_batch
from flowvae.errors import UserError
from flowvae.evaluation import evaluate
from flowvae.evaluation.likelihood import at
from flowvae.models import (
    Bounded,
    Classifying,
    Coded,
    Completing,
    Generating,
    Graphed,
    Inferring,
    Model,
    Sampler,
    Scored,
    Update,
)
from flowvae.models.base import MakeOptimizer
from flowvae.models.registry import PRESETS, SYSTEMS, build_model
from flowvae.onnx import export_onnx
from flowvae.parts import choices, names, to_dict
from flowvae.runs import Run, judged_by, read_json, read_metrics, write_json
from flowvae.training import train
from flowvae.training.players import make_players

CAPABILITIES = {Bounded, Classifying, Coded, Completing, Generating, Graphed, Inferring, Sampler, Scored}
MEASURED_ON = {"images", "dataset", "binarization", "split", "parameters", "seed", "version"}
OF_TRAINING = {"training_steps", "training_seconds", "training_seed"}
STOPPED = 3  # in the first epoch of five steps


@pytest.fixture(scope="module", params=TABLE)
def row(request) -> Row:
    return TABLE[request.param]


@pytest.fixture(scope="module")
def trained(row, halves, tmp_path_factory) -> Path:
    """A run that was not interrupted. Nothing may change it but an evaluation."""
    run = tmp_path_factory.mktemp("systems") / "run"
    assert train(run, row.config(halves))
    return run


def stopped_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes during this step."""

    def stopping(*given: Any) -> Batch:
        if given[3] == step:
            signal.raise_signal(signal.SIGTERM)
        return training_batch(*given)

    patch.setattr(loop, "training_batch", stopping)


# The table itself.


def test_every_system_is_in_the_table():
    assert {row.system for row in TABLE.values()} == set(SYSTEMS)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_option_has_another_value_than_its_default_somewhere(system):
    kind = SYSTEMS[system]
    seen = [to_dict(row.options_of_system()) for row in TABLE.values() if row.system == system]
    defaults: dict[str, set[Any]] = {name: {value} for name, value in to_dict(kind()).items()}
    for selector, parts in choices(kind).items():
        for part in parts.values():
            assert part.name in {options[selector] for options in seen}, f"{selector} {part.name}"
            for name in names(part):
                defaults.setdefault(name, set()).add(getattr(part(), name))
    for name, known in defaults.items():
        # A path to another run, which a table cannot have; test_semi_supervised.py has one.
        if name != "first":
            assert {options[name] for options in seen if name in options} - known or name in choices(kind), (
                name
            )


# Every system.


def test_a_stopped_run_ends_as_an_unbroken_one(row, trained, halves, tmp_path):
    run, config = tmp_path / "run", row.config(halves)
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(STOPPED - 1, patch)
        assert train(run, config) is False
    assert state_of(run)["step"] == STOPPED
    assert train(run, config, resume=True) is True
    assert_ended_as(run, trained)


def test_a_run_is_validated_by_the_number_that_it_names(row, trained):
    records = read_metrics(trained)
    valid = [record for record in records if record["split"] == "valid"]
    assert [record["step"] for record in valid] == [5, STEPS]
    model = Run(trained).model
    assert judged_by(records) == model.best == row.best
    for record in records:
        assert all(math.isfinite(value) for value in record.values() if isinstance(value, float))
    assert state_of(trained)["best"] == min(record[row.best] for record in valid)


def test_a_loaded_model_is_the_one_that_was_saved(row, trained):
    opened = Run(trained)
    model = package.load(trained)
    assert opened.described.system == row.system
    assert opened.spec == DataSpec((1, 8, 8), levels=2 if row.binary else 256, training_images=160, classes=2)
    assert not model.training
    assert {kind for kind in CAPABILITIES if isinstance(model, kind)} == row.can
    average = state_of(trained)["average"]
    if state_of(trained)["best"] == read_metrics(trained)[-1][row.best]:  # saved at the last step
        for name, value in model.state_dict().items():
            assert torch.equal(value, average[f"module.{name}"]), name
    batch = opened.dataset.batch("valid", torch.arange(7))
    with torch.no_grad():
        scores = model.validate(batch)
    assert scores[row.best].shape == (7,)


def test_an_evaluation_has_what_the_model_gives_and_nothing_else(row, trained):
    scores = evaluate_run(trained, num_samples=3, num_images=10)
    # Three samples are too few for a tail.
    bounded = Bounded in row.can or Inferring in row.can
    sampled = {"effective_sample_size", "effective_sample_size_lowest_decile"} if bounded else set()
    assert scores.keys() == row.evaluated | sampled | MEASURED_ON | OF_TRAINING
    assert read_json(trained / "evaluation.json") == scores
    assert all(math.isfinite(value) for value in scores.values() if not isinstance(value, str))
    assert (scores["images"], scores.get("samples", 3), scores["training_steps"]) == (10, 3, STEPS)
    if "bits_per_dim" in scores:
        assert scores["bits_per_dim"] == pytest.approx(scores["nll"] / math.log(2) / 64)
    if "negative_elbo" in scores:
        assert scores["nll"] <= scores["negative_elbo"]
    if "kl" in scores:
        assert scores["negative_elbo"] == pytest.approx(scores["reconstruction"] + scores["kl"])
    table = succeeds("table", trained)
    assert ("KL" in table) == ("kl" in scores)
    again = evaluate_run(trained, num_samples=3, num_images=10)
    assert again == scores


def test_samples_are_images_of_their_noise(row, trained):
    model = package.load(trained)
    assert isinstance(model, Sampler)
    one, same, other = (model.sample(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == (5, 1, 8, 8)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert ((one >= 0) & (one <= 1)).all()
    if model.draws and model.levels is not None:
        levels = one * (model.levels - 1)
        torch.testing.assert_close(levels, levels.round())
    if Coded in row.can or row.system in (
        "gan",
        "bayesian-gan",
        "semi-supervised",
    ):  # whose images have a code
        assert model.sample(5, temperature=0.5).shape == one.shape
    else:
        with pytest.raises(UserError, match="no code"):
            model.sample(5, temperature=0.5)


def test_a_code_gives_an_image_and_a_path_joins_two(row, trained):
    model, batch = package.load(trained), Run(trained).dataset.batch("test", torch.arange(4))
    images = batch.images
    given: Any = model.given(batch)
    assert isinstance(model, Coded) == (Coded in row.can)
    if not isinstance(model, Coded):
        is_refusal(flowvae("interpolate", trained), f"({row.system}) has no code for an image")
        return
    with torch.no_grad():
        codes = model.center(images, **given)
        ends = (at(given, slice(2)), at(given, slice(2, None)))
        path = model.path(images[:2], images[2:], 5, *([ends] if given else []))
        assert path.shape == (2, 5, codes.shape[1])
        torch.testing.assert_close(path[:, 0], codes[:2], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(path[:, -1], codes[2:], rtol=1e-4, atol=1e-4)
        noise = torch.Generator().manual_seed(0)
        assert model.decode(codes, noise, **given).shape == images.shape
        assert model.reconstruct(images, **given).shape == images.shape


def test_a_model_is_described_in_a_line(row, trained):
    said = row.options_of_system().describe()
    assert said
    assert "\n" not in said
    card = (package.save_pretrained(trained, trained.parent / "card")[-1]).read_text()
    assert said in card
    assert row.system in card


def test_the_hubs_form_gives_the_model_back(row, trained, tmp_path):
    package.save_pretrained(trained, tmp_path / "hub")
    model, again = package.load(trained), package.from_pretrained(tmp_path / "hub")
    assert type(again) is type(model)
    assert_equal(dict(again.state_dict()), dict(model.state_dict()))
    assert Run(tmp_path / "hub").config.model == row.options_of_system()


def test_graphs_draw_nothing_or_are_refused(row, trained, tmp_path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    model = package.load(trained)
    if not row.graphs:
        with pytest.raises(UserError) as error:
            export_onnx(model, (1, 8, 8), tmp_path / "onnx")
        message(error)
        assert not (tmp_path / "onnx").exists()
        return
    assert isinstance(model, Graphed)
    graphs = model.graphs((1, 8, 8))
    assert list(graphs) == ["encoder", "decoder", "sampler"]
    for graph in graphs.values():
        with torch.no_grad():
            before = torch.get_rng_state()
            given = {
                name: value + 0.1 if value.is_floating_point() else value
                for name, value in graph.inputs.items()
            }
            outputs = graph.module(*given.values())
            assert torch.equal(torch.get_rng_state(), before)
        assert len(outputs if isinstance(outputs, tuple) else (outputs,)) == len(graph.outputs)


@pytest.mark.slow
def test_a_graph_is_written(halves, tmp_path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    train(tmp_path / "run", TABLE["vae-realnvp-of-noise"].config(halves, steps=1))
    written = succeeds("export", tmp_path / "run").splitlines()
    assert [Path(path).name for path in written] == ["encoder.onnx", "decoder.onnx", "sampler.onnx"]
    assert all(Path(path).stat().st_size > 1000 for path in written)


# Presets.


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_a_step(name):
    config = PRESETS[name].revised(steps=1)
    grey = config.data.binarization == "none"
    shape = {"mnist": (1, 28, 28), "celeba": (3, 64, 64)}.get(config.data.data, (3, 32, 32))
    levels = 256 if grey else 2
    images = torch.randint(levels, (2, *shape)) / (levels - 1)
    assert config.model is not None
    model = build_model(config.model, DataSpec(shape, levels, training_images=100, classes=10))
    model.initialize(images)
    assert model.levels in (None, levels)  # None: any numbers
    players = make_players(model, config.training)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for update in model.updates(Batch(images, torch.arange(2)), step=1):
        assert update.loss.ndim == 0
        assert all(value.ndim == 0 and value.isfinite() for value in update.shown.values())
        update.loss.backward()
        gradients = [p.grad for p in players[update.player].parameters if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        players[update.player].optimizer.step()
    moved = [not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) // 2


# Settings of training.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of PyTorch's compiler
def test_a_compiled_run_ends_about_where_the_other_does(halves, tmp_path):
    row = TABLE["vae-planar-whole-gradient"]
    for name in ("plain", "compiled"):
        train(tmp_path / name, row.config(halves, steps=2, compile=name == "compiled"))
    plain, compiled = (read_metrics(tmp_path / name)[-1] for name in ("plain", "compiled"))
    assert compiled["negative_elbo"] == pytest.approx(plain["negative_elbo"], abs=0.5)
    weights, others = (package.load(tmp_path / name).state_dict() for name in ("plain", "compiled"))
    assert weights.keys() == others.keys()


def test_a_run_with_adamw_for_all_weights_is_resumed_exactly(halves, tmp_path):
    row = TABLE["vae-causal"]
    config = row.config(halves, optimizer="adamw", beta1=0.5, precision="bfloat16", averaging=0.9)
    train(tmp_path / "unbroken", config)
    (group,) = state_of(tmp_path / "unbroken")["optimizers"]["model"]["param_groups"]
    assert group["betas"] == (0.5, 0.99)
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(STOPPED - 1, patch)
        train(tmp_path / "run", config)
    train(tmp_path / "run", config, resume=True)
    assert_ended_as(tmp_path / "run", tmp_path / "unbroken")


# A model of the user's own.


class Game(Model, Sampler):
    """A generator of one image against a linear critic, each with an optimizer of its own."""

    best = "distance"

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(1, 64)
        self.critic = nn.Linear(64, 1, bias=False)

    def players(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "generator": self.generator}

    def optimizers(self) -> dict[str, MakeOptimizer]:
        return {"critic": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)}

    def fake(self, number: int) -> Tensor:
        return self.generator(torch.randn(number, 1)).sigmoid()

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        before = self.critic.weight.detach().clone()
        fake = self.fake(len(batch.images))
        gap = self.critic(fake.detach()).mean() - self.critic(batch.images.flatten(1)).mean()
        yield Update("critic", gap, {"gap": gap.detach()})
        assert not torch.equal(self.critic.weight, before), "the critic has not moved yet"
        loss = -self.critic(fake).mean()
        yield Update("generator", loss, {"loss": loss.detach()})

    def after_step(self) -> None:
        with torch.no_grad():
            self.critic.weight.clamp_(-0.1, 0.1)

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        assert not self.training
        fake = self.fake(len(batch.images))
        return {"spread": fake.std(1), "distance": (fake - batch.images.flatten(1)).square().mean(1)}

    def sample(
        self, num_images: int, noise: torch.Generator | Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        return self.fake(num_images).view(-1, 1, 8, 8)


def settings(halves: Path, **training: Any) -> Config:
    given: dict[str, Any] = {"steps": STEPS, "batch_size": 32, "track": "none"}
    return Config(DataConfig(str(halves)), None, TrainingConfig(**{**given, **training}))


def game() -> Game:
    torch.manual_seed(0)
    return Game()


@pytest.fixture(scope="module")
def played(halves, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("own") / "run"
    assert package.train(run, settings(halves), model=game())
    return run


def test_a_model_of_the_users_own_is_trained_player_by_player(played):
    model = game()
    package.load(played, model=model)
    assert (model.critic.weight.abs() <= 0.1).all()
    state = state_of(played)
    assert set(state["optimizers"]) == {"critic", "generator"}
    assert state["optimizers"]["critic"]["param_groups"][0]["momentum"] == 0.9
    training, valid = (
        [record for record in read_metrics(played) if record["split"] == split]
        for split in ("train", "valid")
    )
    assert {"gap", "loss"} <= training[-1].keys()
    assert judged_by(valid) == "distance"
    assert state["best"] == min(record["distance"] for record in valid)


def test_a_model_of_the_users_own_is_resumed_exactly(played, halves, tmp_path):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(STOPPED - 1, patch)
        assert package.train(run, settings(halves), model=game()) is False
    before = contents(run)
    with pytest.raises(UserError) as error:
        package.train(run, Run(run).config, resume=True)
    message(error, "give one model")
    torch.manual_seed(9)  # the weights of the fresh module do not matter
    with pytest.raises(UserError) as error:
        package.train(run, settings(halves), resume=True, model=Spoilt("fine"))
    message(error, run, "test_systems:Game", "test_systems:Spoilt")
    assert contents(run) == before
    assert package.train(run, settings(halves), resume=True, model=Game()) is True
    assert_ended_as(run, played)


def test_a_model_of_the_users_own_is_loaded_into_a_fresh_module(played, tmp_path):
    before = contents(played)
    with pytest.raises(UserError) as error:
        package.load(played)
    message(error, played, "test_systems:Game", "flowvae.load(run, model=...)")
    model = Game()
    assert package.load(played, model=model) is model
    assert not model.training
    assert torch.equal(model.critic.weight, package.load(played, model=Game()).state_dict()["critic.weight"])
    with pytest.raises(UserError) as error:
        package.load(played, model=Spoilt("fine"))
    message(error, played, "from another model")
    scores = evaluate(model, Run(played).dataset, num_images=10)
    expected = {"distance", "distance_standard_error", "spread", "spread_standard_error"}
    assert scores.keys() == expected | MEASURED_ON
    assert contents(played) == before


def test_two_models_and_none_are_refused(halves, tmp_path):
    for config, model in (
        (TABLE["vae"].config(halves), game()),
        (settings(halves), None),
    ):
        with pytest.raises(UserError) as error:
            package.train(tmp_path / "run", config, model=model)
        message(error, "give one model")
    assert not (tmp_path / "run").exists()


class Spoilt(Model):
    """Does one thing wrong."""

    best = "distance"

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.offset = nn.Parameter(torch.zeros(()))

    def updates(self, batch: Batch, step: int) -> Iterator[Update]:
        losses = (self.offset - batch.images.flatten(1).mean(1)).square()
        loss = losses if self.how == "vector" else losses.mean()
        if self.how == "nan" and step == 3:
            loss = loss * math.nan
        yield Update("modle" if self.how == "player" else "model", loss, {"loss": losses.detach().mean()})

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        distance = (self.offset - batch.images.flatten(1).mean(1)).square()
        if self.how == "not finite":
            distance = distance / 0
        return {"gap" if self.how == "best" else "distance": distance}


WRONG = {
    "player": ["no player 'modle' at step 0", "did you mean model?"],
    "vector": ["the loss of model has the shape (32,) at step 0", "scalar"],
    "nan": ["the loss of model stopped being finite at step 3"],
    "best": ["validate returns gap; it must return distance"],
    "not finite": ["distance of validation images stopped being finite at step 5"],
}


@pytest.mark.parametrize("how", WRONG)
def test_a_model_that_is_wrong_is_one_line_and_leaves_nothing(how, halves, tmp_path):
    with pytest.raises(UserError) as error:
        train(tmp_path / "run", settings(halves), model=Spoilt(how))
    message(error, *WRONG[how])
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_right_is_trained(halves, tmp_path):
    """Or the tests above would show nothing."""
    assert train(tmp_path / "run", settings(halves), model=Spoilt("fine"))


# A system of the user's own.

MODULE = """
from dataclasses import dataclass

import torch
from torch import nn

from flowvae import Config, Model, TrainingConfig, Update
from flowvae.config import DataConfig, System


class Pixels(Model):
    best = "nll"
    levels = 2

    def __init__(self, shape, scale):
        super().__init__()
        self.logits, self.scale = nn.Parameter(0.01 * torch.randn(shape)), scale

    def nll(self, images):
        logits = (self.scale * self.logits).expand_as(images)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, images, reduction="none")
        return losses.flatten(1).sum(1)

    def updates(self, batch, step):
        loss = self.nll(batch.images).mean()
        yield Update("model", loss, {"nll": loss.detach()})

    def validate(self, batch):
        return {"nll": self.nll(batch.images)}


@dataclass(frozen=True)
class PixelsOptions(System):
    name = "pixels"
    scale: float = 1.0
    \"\"\"factor of the logits\"\"\"

    def build(self, data):
        return Pixels(data.shape, self.scale)

    def describe(self):
        return "independent pixels"


my_preset = Config(DataConfig("images.npz"), PixelsOptions(), TrainingConfig(steps=3, track="none"))
"""


@pytest.fixture
def my_file(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with images and a module, as the working directory."""
    write_images(tmp_path / "images.npz")
    (tmp_path / "my_file.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = list(sys.path)
    yield tmp_path
    assert sys.path == path, "the working directory stays on the path"
    sys.modules.pop("my_file", None)


def test_a_preset_of_the_users_own_is_trained_and_resumed(my_file):
    small = ["--batch-size", "8"]
    said = succeeds("train", "my_file:my_preset", *small, "--scale", "2.5")
    assert said == "runs/my_preset is trained; score it with: flowvae evaluate runs/my_preset\n"
    run = Path("runs/my_preset")
    values = read_json(run / "config.json")
    assert values["system"] == "my_file:PixelsOptions"
    assert values["model"] == {"scale": 2.5}
    succeeds("train", "my_file:my_preset", "--resume", run, "--steps", "5")
    succeeds("train", "my_file:my_preset", *small, "--scale", "2.5", "--steps", "5", "--out", "straight")
    assert state_of(run)["step"] == 5
    opened = Run(run)
    assert opened.config.model is None
    assert opened.described.options == {"scale": 2.5}
    options = sys.modules["my_file"].PixelsOptions(2.5)
    model = package.load(run, model=options.build(opened.spec))
    scores = evaluate(model, opened.dataset, num_images=5)
    assert {"nll", "nll_standard_error", "bits_per_dim"} <= scores.keys()
    assert "--scale" in succeeds("train", "my_file:my_preset", "--help")


def test_a_run_of_a_system_that_flowvae_does_not_have_is_one_line(my_file):
    succeeds("train", "my_file:my_preset", "--batch-size", "8", "--out", "run")
    before = contents(my_file)
    is_refusal(flowvae("train", "--resume", "run"), "my_file:PixelsOptions", "MODULE:NAME --resume run")
    is_refusal(flowvae("train", "my_file:my_preset", "--resume", "run", "--scale", "2"), "scale = 1.0")
    is_refusal(flowvae("train", "my_file:my_preset", "--out", "run"), "run already exists")
    is_refusal(flowvae("train", "my_file:other"), "my_file has no Config 'other'")
    for command in ("evaluate", "sample", "reconstruct", "interpolate", "export"):
        is_refusal(flowvae(command, "run"), "my_file:PixelsOptions", "load it in Python")
    assert contents(my_file) == before


def test_a_run_of_an_unknown_system_is_left_as_it_is(run, monkeypatch):
    """Such as one of a later version."""
    values = read_json(run / "config.json")
    write_json(run / "config.json", {**values, "system": "diffusion", "model": {"depth": 3}})
    before = contents(run)
    with pytest.raises(UserError) as error:
        package.load(run)
    message(error, run, "diffusion")
    is_refusal(flowvae("train", "--resume", run), "diffusion")
    is_refusal(flowvae("evaluate", run), "diffusion")
    with pytest.raises(UserError):
        train(run, Config(DataConfig("mnist"), TABLE["vae"].options_of_system()), resume=True)
    with pytest.raises(UserError):
        train(run, Config(DataConfig("mnist"), TABLE["vae"].options_of_system()))
    assert contents(run) == before


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("raise ValueError('no\\nwords')", "ValueError"),
        ("def", "SyntaxError"),
        ("import nowhere_at_all", "nowhere"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(module, part, my_file):
    (my_file / "my_file.py").write_text(module)
    is_refusal(flowvae("train", "my_file:my_preset"), "my_file cannot be imported", part)


# What is the caller's.


def surroundings() -> list[Any]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return [
        torch.get_rng_state().tolist(),
        str(numpy_state),
        random.getstate(),
        dict(os.environ),
        sys.path[:],
    ]


def test_training_and_evaluation_leave_what_is_the_callers(halves, tmp_path):
    row = TABLE["vae-realnvp-batch-norm"]
    before = surroundings()
    train(tmp_path / "run", row.config(halves, steps=2, track="tensorboard", seed=5))
    assert surroundings() == before
    model = package.load(tmp_path / "run").train()
    next(module for module in model.modules() if isinstance(module, nn.Conv2d)).eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = surroundings()
    evaluate(model, Run(tmp_path / "run").dataset, num_samples=2, num_images=5)
    assert surroundings() == before
    assert [module.training for module in model.modules()] == modes
    assert_equal(dict(model.state_dict()), weights)


def test_training_that_fails_leaves_what_is_the_callers_too(halves, tmp_path):
    model = Spoilt("nan")
    before = surroundings()
    with pytest.raises(UserError):
        train(tmp_path / "run", settings(halves), model=model)
    assert surroundings() == before
    assert model.training
