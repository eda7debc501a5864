"""Published colour images through a run, and through the script that packs them."""

import dataclasses
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from published_files import CELEBA_SPLITS, colour_images, write_celeba, write_cifar10_png, write_svhn
from tiny_runs import configuration

from flowvae.commands.evaluating import evaluate_run
from flowvae.commands.picturing import picture_samples
from flowvae.config import DataConfig
from flowvae.data import load_dataset
from flowvae.models.registry import preset
from flowvae.training import train

SCRIPT = Path(__file__).parents[1] / "scripts" / "pack_images.py"


@pytest.mark.parametrize("name", ["celeba", "svhn"])
def test_train_evaluate_and_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The size of the images belongs to the run: whoever evaluates it does not say it again."""
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / name
    if name == "celeba":
        write_celeba(folder)
        data, tests = DataConfig(str(folder), "none", image_size=16), CELEBA_SPLITS[2]
    else:
        folder.mkdir()
        write_svhn(folder, colour_images(40), colour_images(7))
        data, tests = DataConfig(str(folder), "none"), 7
    small = {"transformations": 1, "latent": 4, "channels": 8, "blocks": 1, "hidden": 4}
    model = preset(f"{name}-realnvp").revised(**small).model
    config = dataclasses.replace(configuration(folder, steps=2, batch_size=4), data=data, model=model)
    run = tmp_path / "run"
    assert train(run, config)
    scores = evaluate_run(run, 5, tests)
    assert scores["dataset"] == name
    assert 0 < scores["bits_per_dim"] < 12
    picture_samples(run, 4, 0, tmp_path / "samples.png")
    assert (tmp_path / "samples.png").exists()


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | int | None]:
    """Run the script in this process, and return what it ends with: nothing, or what is wrong."""

    def packed(*words: object) -> str | int | None:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return end.code
        return None

    return packed


def test_packed_images_are_the_same_splits(pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_cifar10_png(tmp_path / "package", colour_images(40), colour_images(7, seed=1))
    assert pack(folder, tmp_path / "packed.npz") is None
    assert "train (36, 3, 32, 32)" in capsys.readouterr().out
    source, packed = load_dataset(str(folder), "none"), load_dataset(str(tmp_path / "packed.npz"), "none")
    for split in ("train", "valid", "test"):
        one, other = getattr(source, split), getattr(packed, split)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    again = pack(folder, tmp_path / "packed.npz")
    assert again.endswith("packed.npz exists; give another name or remove it")
    nowhere = pack(folder, tmp_path / "no folder" / "packed.npz")
    assert nowhere.startswith("pack_images.py: ")
    assert "\n" not in nowhere


def test_binary_images_are_packed_as_they_are(pack, tmp_path: Path) -> None:
    digits = np.random.default_rng(0).integers(0, 2, (40, 1, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "binary.npz", train=digits[:30], test=digits[30:])
    assert pack(tmp_path / "binary.npz", tmp_path / "packed.npz") is None
    packed = load_dataset(str(tmp_path / "packed.npz"), "static")
    assert torch.equal(packed.test.images, torch.from_numpy(digits[30:]))
