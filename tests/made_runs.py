"""A complete run, made without training, and what tests ask of errors."""

import json
from pathlib import Path

import pytest
import torch

from flowvae.batch import DataSpec
from flowvae.config import Config, TrainingConfig
from flowvae.errors import UserError
from flowvae.models import VAE
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.posteriors import RealNVPOptions
from flowvae.models.registry import build_model
from flowvae.models.vae import VAEOptions, VectorOptions
from flowvae.runs import create, write_weights
from flowvae.training.averaging import averaged
from flowvae.training.checkpoint import State
from flowvae.training.players import Player

SHAPE = (1, 8, 8)
SPEC = DataSpec(SHAPE, levels=2, training_images=100)
CONFIG = Config(
    model=VAEOptions(
        RealNVPOptions(transformations=1, hidden=8, normalization="batch", flow_batch_norm=True),
        code=VectorOptions(features=8),
        latent=3,
        networks=ConvolutionalOptions(channels=4),
    ),
    training=TrainingConfig(steps=10),
)


def moved_model(config: Config = CONFIG, spec: DataSpec = SPEC) -> VAE:
    assert config.model is not None
    model = build_model(config.model, spec)
    assert isinstance(model, VAE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def trained_state(model: VAE, optimizer: torch.optim.Optimizer | None = None) -> State:
    """After one step of training, so that the optimizer has something to save."""
    parameters = list(model.parameters())
    optimizer = optimizer or torch.optim.AdamW(parameters)
    (-model(torch.zeros(2, *SHAPE)).likelihood.mean()).backward()
    optimizer.step()
    player = Player(parameters, optimizer, [group["lr"] for group in optimizer.param_groups])
    state = State(model, averaged(model, 0.9), {"model": player}, step=1)
    state.average.update_parameters(model)
    return state


def record(step: int) -> bytes:
    """A line of metrics.jsonl."""
    values = {"split": "train", "step": step, "epoch": 0.5, "seconds": 1.5, "negative_elbo": 90.0}
    return json.dumps(values).encode() + b"\n"


@pytest.fixture
def run(tmp_path) -> Path:
    """A complete run."""
    folder = tmp_path / "run"
    create(folder, CONFIG, SPEC, "vae")
    state = trained_state(moved_model())
    write_weights(folder, state.model)
    with (folder / "metrics.jsonl").open("ab") as metrics:
        metrics.write(record(step=1))
        state.save(folder, metrics)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def message(error: pytest.ExceptionInfo[UserError], *parts: str | Path) -> str:
    """One line, and it has what it needs to have."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    for part in parts:
        assert str(part) in text
    return text
