"""A complete run, made without training, and what tests ask of errors."""

import json
from pathlib import Path

import pytest
import torch

from flowvae.build import build_vae
from flowvae.config import Config, ModelConfig, TrainingConfig
from flowvae.errors import UserError
from flowvae.models import VAE
from flowvae.runs import (
    create,
    write_weights,
)
from flowvae.training.averaging import averaged
from flowvae.training.checkpoint import State

SHAPE = (1, 8, 8)
CONFIG = Config(
    model=ModelConfig(
        posterior="realnvp",
        transformations=1,
        latent=3,
        features=8,
        hidden=8,
        channels=4,
        normalization="batch",
        flow_batch_norm=True,
    ),
    training=TrainingConfig(steps=10),
)


def moved_model(config: Config = CONFIG) -> VAE:
    model = build_vae(config.model, SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def trained_state(model: VAE, optimizer: torch.optim.Optimizer | None = None) -> State:
    """After one step of training, so that the optimizer has something to save."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters())
    (-model(torch.zeros(2, *SHAPE)).likelihood.mean()).backward()
    optimizer.step()
    state = State(model, averaged(model, 0.9), optimizer, step=1)
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
    create(folder, CONFIG, SHAPE)
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
