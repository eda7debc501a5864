"""Runs small enough to be trained in a test, and what tests ask of them."""

import json
import os
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.posteriors import RealNVPOptions
from flowvae.models.vae import VAEOptions, VectorOptions
from flowvae.parts import to_dict
from flowvae.runs import read_metrics
from flowvae.training import train

IMAGES, BATCH, STEPS = 160, 8, 100
PER_EPOCH = IMAGES // BATCH


def write_halves(path: Path) -> None:
    """Write grey images of bright left or right halves, so that there is something to learn, with labels."""
    random = np.random.default_rng(0)

    def draw(split: str, count: int) -> dict[str, Any]:
        pixels, labels = random.integers(0, 40, (count, 8, 8)), random.integers(0, 2, count)
        for image, right in zip(pixels, labels, strict=True):
            image[:, 4 * right : 4 * right + 4] += 200
        return {split: pixels.astype(np.uint8), f"{split}_labels": labels}

    np.savez(path, **draw("train", IMAGES), **draw("valid", 40), **draw("test", 40))


@pytest.fixture(scope="session")
def halves(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    write_halves(path)
    return path


TINY = VAEOptions(
    RealNVPOptions(transformations=1, hidden=8, normalization="batch", flow_batch_norm=True),
    code=VectorOptions(features=16),
    latent=3,
    networks=ConvolutionalOptions(channels=8),
    kl_warm_up=0,
)
"""Small, with buffers in the model, so that there is much to get wrong."""


def configuration(data: Path, **options: Any) -> Config:
    """A run of `TINY`, with noise in the batches; ``options`` of model and training by their names."""
    training = TrainingConfig(
        steps=STEPS, batch_size=BATCH, learning_rate=0.01, learning_rate_warm_up=5, track="none"
    )
    return Config(DataConfig(str(data), "dynamic"), TINY, training).revised(**options)


@pytest.fixture(scope="session")
def unbroken(halves, tmp_path_factory) -> Path:
    """The run that every broken one has to end as."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    train(run, configuration(halves))
    return run


def state_of(run: Path) -> dict[str, Any]:
    """Read the state of a run; those that tests compare with others are read once."""
    path = run / "resume" / "state.pt"
    there = path.stat()
    return _read_state(path, there.st_ino, there.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_state(path: Path, _inode: int, _time: int) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_equal(one: Any, other: Any, where: str = "state") -> None:
    """Nested values are equal, tensors bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_ended_as(run: Path, unbroken: Path) -> None:
    ours, theirs = state_of(run), state_of(unbroken)
    for name in ("step", "model", "average", "optimizers", "best", "level", "level_best", "ended", "sums"):
        assert_equal(ours[name], theirs[name], name)
    assert (run / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    ours, theirs = ([_without_time(line) for line in read_metrics(each)] for each in (run, unbroken))
    assert_equal(ours, theirs, "metrics")


def _without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("seconds", "images_per_second")}


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


DRIVER = """
import json, sys
import flowvae.runs, flowvae.training
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.models.vae import VAEOptions
from flowvae.parts import from_dict
kinds = {"data": DataConfig, "model": VAEOptions, "training": TrainingConfig}
values = json.loads(sys.argv[2])
config = Config(**{part: from_dict(kind, values[part]) for part, kind in kinds.items()})
flowvae.training.train(sys.argv[1], config)
"""


def for_driver(run: Path, config: Config) -> list[str]:
    """The words that `DRIVER` takes."""
    values = {part: to_dict(getattr(config, part)) for part in ("data", "model", "training")}
    return [str(run), json.dumps(values)]


def start(run: Path, config: Config, before: str = "") -> subprocess.Popen[str]:
    """Train in a process of its own, after the code ``before``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", before + DRIVER, *for_driver(run, config)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(120_000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.002)
    raise AssertionError(f"{path} did not appear")
