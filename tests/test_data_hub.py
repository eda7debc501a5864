"""Data sets from the hub: the real client, on files of the hub's form that the tests make."""

import dataclasses
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from data_files import random_images, user_error
from PIL import Image
from published_files import character, expected_face, face

from flowvae.data import Dataset, hub, load_dataset
from flowvae.errors import UserError

COUNTS = {
    "cifar10": {"train": 20, "test": 5},
    "svhn": {"train": 20, "test": 5},
    "fashion-mnist": {"train": 12, "test": 5},
    "celeba": {"train": 6, "valid": 3, "test": 4},
    "omniglot": {"full": 30},
}


def picture(name: str, seed: int) -> Image.Image:
    """One image as the hub has it."""
    if name == "celeba":
        return Image.fromarray(face(seed))
    if name == "omniglot":
        return character(seed)
    shape = (28, 28) if name == "fashion-mnist" else (32, 32, 3)
    return Image.fromarray(random_images(*shape, seed=seed))


def pixels(name: str, seed: int, side: int) -> np.ndarray:
    """The same image as training has it, uint8 [C, H, W]."""
    if name == "celeba":
        return expected_face(seed, side)
    if name == "omniglot":
        grey = picture(name, seed).convert("L").resize((side, side), Image.Resampling.BILINEAR)
        return 255 - np.asarray(grey)[None]
    array = np.asarray(picture(name, seed))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


Place = Callable[[str], None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Puts a small data set where the hub's files would be, in two files a split."""
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(hub, "_place", lambda source: f"{tmp_path}/{source.repository}")

    def put(name: str) -> None:
        source = hub.SOURCES[name]
        monkeypatch.setitem(hub.SOURCES, name, dataclasses.replace(source, counts=COUNTS[name]))
        for split, pattern in source.files.items():
            path = tmp_path / source.repository / pattern
            path.parent.mkdir(parents=True, exist_ok=True)
            seeds = np.array_split(np.arange(COUNTS[name][split]), 2)
            for number, part in enumerate(seeds):
                columns: dict[str, list] = {source.image: [encoded(name, int(seed)) for seed in part]}
                kinds: dict = {source.image: datasets.Image()}
                if source.label:
                    columns[source.label] = [int(seed) % 7 for seed in part]
                    kinds[source.label] = datasets.Value("int64")
                columns["other"] = ["not asked for"] * len(part)
                kinds["other"] = datasets.Value("string")
                table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
                table.to_parquet(str(path).replace("*", f"0000{number}-of-00002"))

    return put


def encoded(name: str, seed: int) -> dict:
    file = io.BytesIO()
    picture(name, seed).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def sizes(dataset: Dataset) -> list[int]:
    return [len(split.images) for split in (dataset.train, dataset.valid, dataset.test)]


@pytest.mark.parametrize(
    ("name", "shape", "expected_sizes"),
    [
        ("cifar10", (3, 32, 32), [18, 2, 5]),
        ("svhn", (3, 32, 32), [18, 2, 5]),
        ("fashion-mnist", (1, 28, 28), [10, 2, 5]),
        ("celeba", (3, 64, 64), [6, 3, 4]),
    ],
)
def test_published_splits(place: Place, name: str, shape: tuple, expected_sizes: list[int]) -> None:
    place(name)
    dataset = load_dataset(name, "none")
    assert (dataset.name, dataset.shape, dataset.levels) == (name, shape, 256)
    assert sizes(dataset) == expected_sizes
    splits = [dataset.train, dataset.valid, dataset.test]
    if name != "celeba":  # valid is the end of train
        splits = [torch.cat([dataset.train.images, dataset.valid.images]), dataset.test.images]
    else:
        splits = [split.images for split in splits]
    for images in splits:
        for seed, image in enumerate(images.numpy()):
            assert np.array_equal(image, pixels(name, seed, shape[1]))
    if name == "celeba":
        assert dataset.test.labels is None
    else:
        assert dataset.test.labels is not None
        assert dataset.test.labels.tolist() == [0, 1, 2, 3, 4]


def test_omniglot_is_split_at_random(place: Place) -> None:
    place("omniglot")
    dataset = load_dataset("omniglot", "none")
    assert (dataset.shape, sizes(dataset)) == ((1, 28, 28), [24, 3, 3])
    images = torch.cat([dataset.train.images, dataset.valid.images, dataset.test.images]).numpy()
    assert sorted(map(bytes, images)) == sorted(bytes(pixels("omniglot", seed, 28)) for seed in range(30))


def test_image_size(place: Place) -> None:
    place("celeba")
    assert load_dataset("celeba", "none", image_size=32).shape == (3, 32, 32)
    assert load_dataset("celeba", "none").shape == (3, 64, 64)  # not the smaller ones of the cache
    place("cifar10")
    assert "are 32 x 32, and only CelebA" in refusal("cifar10", image_size=16)


def test_second_time_nothing_is_fetched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place("cifar10")
    first = load_dataset("cifar10", "none")
    monkeypatch.setattr(hub, "_rows", lambda *_: pytest.fail("fetched again"))
    second = load_dataset("cifar10", "none")
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    assert second.train.labels is not None
    assert torch.equal(second.train.labels, torch.arange(18) % 7)


def refusal(name: str, image_size: int | None = None) -> str:
    """The message of the UserError that loading ``name`` has to raise."""
    with pytest.raises(UserError) as caught:
        load_dataset(name, "none", image_size=image_size)
    return str(caught.value)


@pytest.mark.parametrize("name", hub.SOURCES)
def test_hub_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capfd: pytest.CaptureFixture
) -> None:
    """The real client, at a port where nothing listens: one line, soon, that says what to do instead."""
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    message = user_error(name)
    assert f"{name} cannot be downloaded from the Hugging Face hub" in message
    assert f"to use local files, give --data {hub.SOURCES[name].local}" in message
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_fewer_images_than_published(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place("svhn")
    source = dataclasses.replace(hub.SOURCES["svhn"], counts={"train": 21, "test": 5})
    monkeypatch.setitem(hub.SOURCES, "svhn", source)
    assert "train of ufldl-stanford/svhn has 20 images, not 21; give --data a directory" in user_error("svhn")


def test_images_of_another_size_than_published(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place("svhn")
    source = dataclasses.replace(hub.SOURCES["svhn"], side=16)
    monkeypatch.setitem(hub.SOURCES, "svhn", source)
    message = user_error("svhn")
    assert "image 0 of train in ufldl-stanford/svhn has 32 x 32 pixels, not 16 x 16" in message


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'flowvae[data]', or give --data the directory" in user_error("cifar10")


# The pinned revisions


def commits(*hashes: str) -> type:
    """A stand-in for the hub's client whose repository has these commits, the newest first."""

    class Client:
        def dataset_info(self, repository: str, timeout: float) -> types.SimpleNamespace:
            assert "/" in repository
            return types.SimpleNamespace(sha=hashes[0])

        def list_repo_commits(self, repository: str, repo_type: str) -> list[types.SimpleNamespace]:
            assert repo_type == "dataset"
            return [types.SimpleNamespace(commit_id=commit) for commit in hashes]

    return Client


def test_the_pinned_commit_is_used_although_there_are_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in hub.SOURCES.values():
        pinned = source.revision.ljust(40, "0")
        for hashes in ((pinned, "a" * 40), ("b" * 40, pinned, "a" * 40)):
            monkeypatch.setattr(huggingface_hub, "HfApi", commits(*hashes))
            assert hub._place(source) == f"hf://datasets/{source.repository}@{pinned}"


def test_a_commit_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "HfApi", commits("a" * 40, "b" * 40))
    assert "uoft-cs/cifar10 has no commit 0b27149" in user_error("cifar10")
