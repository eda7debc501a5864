"""Modes of stacked MNIST: of real images, of collapsed ones, and by formulas; and the commands that count."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Result, contents, flowvae, is_refusal, succeeds

from flowvae import modes
from flowvae.data import Dataset, load, stacked_mnist
from flowvae.evaluation.modes import MODES, mode_statistics, modes_of, shares_of_modes


@pytest.fixture(scope="module")
def stacked() -> Dataset:
    return stacked_mnist.load()


@pytest.fixture(scope="module")
def few(stacked) -> Iterator[None]:
    """The data set of this name has few images, for commands that read it several times."""
    train, valid = stacked.train.take(slice(300)), stacked.valid.take(slice(20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load.OWN, stacked_mnist.NAME, lambda: replace(stacked, train=train, valid=valid))
        yield


def test_modes_are_the_labels_of_real_images(stacked):
    batch = stacked.batch("test", torch.arange(1000))
    wrong = modes_of(batch.images) != batch.labels
    assert wrong.double().mean() < 0.03  # three digits, each wrong in 0.43%


def test_real_images_find_every_mode(stacked):
    shares = shares_of_modes(stacked.test.labels)
    found = mode_statistics(stacked.train.labels[:26000], shares)
    assert found["modes"] == 1000
    assert found["mode_divergence"] == pytest.approx(999 / 52000, rel=0.1)
    fewer = mode_statistics(stacked.test.labels, shares)
    assert fewer["modes"] > 995
    assert fewer["mode_divergence"] == pytest.approx(999 / 20000, rel=0.15)


def test_one_image_repeated_finds_one_mode(stacked):
    batch = stacked.batch("test", torch.zeros(100, dtype=torch.int64))
    shares = shares_of_modes(stacked.test.labels)
    found = mode_statistics(modes_of(batch.images), shares)
    assert found["modes"] == 1
    assert found["mode_divergence"] == pytest.approx(-math.log(shares[stacked.test.labels[0]]))


def test_shares_are_products_of_those_of_the_digits():
    shares = shares_of_modes(torch.tensor([123, 129, 523, 523]))
    assert shares.sum() == pytest.approx(1)
    assert shares[123] == pytest.approx(0.5 * 1 * 0.75)
    assert shares[529] == pytest.approx(0.5 * 1 * 0.25)
    assert (shares > 0).sum() == 4


def test_equal_frequencies_have_no_divergence_and_half_of_the_modes_one_bit():
    equal = torch.full((MODES,), 1 / MODES, dtype=torch.float64)
    assert mode_statistics(torch.arange(MODES).repeat(2), equal)["mode_divergence"] == pytest.approx(0)
    half = mode_statistics(torch.arange(0, MODES, 2), equal)
    assert half["modes"] == MODES / 2
    assert half["mode_divergence"] == pytest.approx(math.log(2))


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("modes") / "run"
    words = ["--steps", 1, "--track", "none", "--features", 8, "--channels", 4, "--latent", 3]
    succeeds("train", "gan-mnist", "--data", "stacked-mnist", "--out", run, *words)
    return run


def test_the_command_counts_modes(trained):
    printed = succeeds("quality", trained, "--images", 200)
    found = json.loads((trained / "quality.json").read_text())
    assert 1 <= found["modes"] < 50 < found["modes_of_real"] < 200
    assert found["mode_divergence"] > found["mode_divergence_of_real"] > 0
    assert (found["images"], found["dataset"]) == (200, "stacked-mnist")
    assert (
        f"| training images | {found['modes_of_real']} | {found['mode_divergence_of_real']:.3f} |" in printed
    )
    assert "200 draws from p(x); digits of the channels" in printed
    assert str(found["modes"]) in succeeds("table", trained)


def test_rows_are_trained_counted_and_kept(few, tmp_path, monkeypatch):
    small = {"channels": 4, "blocks": 0, "features": 8}
    chains = {**small, "generators": 2, "burn_in": 1, "thinning": 1}
    rows = {"gan": ("gan-mnist", small), "bayesian-gan": ("bayesian-gan-mnist", chains)}
    monkeypatch.setattr(modes, "ROWS", rows)
    words = ("reproduce", "modes", "--epochs", 1, "--seeds", 2, "--images", 200, "--out", tmp_path)
    printed = succeeds(*words)
    assert printed == (tmp_path / "table.md").read_text()
    *table, real = json.loads((tmp_path / "table.json").read_text())
    assert [row["system"] for row in (*table, real)] == ["gan", "bayesian-gan", "training images"]
    for row in table:
        assert len(row["modes_of_seeds"]) == row["seeds"] == 2
        assert row["modes"] == sum(row["modes_of_seeds"]) / 2
        assert row["mode_divergence"] > real["mode_divergence"]
        assert (row["steps"], row["images"]) == (4, 200)
    assert f"| training images | | {real['modes']} |" in printed
    assert (tmp_path / "samples.png").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*seed*")}
    assert len(kept) == 8
    assert succeeds(*words, "--rows", "gan").splitlines()[2] == printed.splitlines()[2]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


ONE_ROW = {"gan": ("gan-mnist", {"channels": 4, "blocks": 0, "features": 8})}


@pytest.fixture(scope="module")
def study(few, tmp_path_factory) -> Path:
    """A folder with a finished study of one row, of which tests change a copy."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "ROWS", ONE_ROW)
        succeeds("reproduce", "modes", "--epochs", 2, "--images", 100, "--out", folder)
    return folder


@pytest.fixture
def again(study, tmp_path, monkeypatch) -> Callable[..., Result]:
    """Run the same study again, in a copy of its folder, with further options."""
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(modes, "ROWS", ONE_ROW)

    def reproduce(*words: object, epochs: int = 2) -> Result:
        given = ("--epochs", epochs, "--images", 100, "--out", tmp_path)
        return flowvae("reproduce", "modes", *given, *words)

    return reproduce


def test_rows_of_other_options_are_not_taken_for_these(again, tmp_path, monkeypatch):
    before = contents(tmp_path)
    other = {"channels": 6, "blocks": 0, "features": 8}
    monkeypatch.setattr(modes, "ROWS", {"gan": ("gan-mnist", other)})
    is_refusal(again(), "gan-seed0 was started with channels = 4")
    assert contents(tmp_path) == before
    shutil.rmtree(tmp_path / "runs")
    assert again().code == 0, "its result was kept, and is measured anew"
    assert json.loads((tmp_path / "gan-seed0.json").read_text())["asked"]["options"] == other


def test_a_longer_training_is_not_taken_for_a_shorter_one(again, tmp_path):
    before = contents(tmp_path)
    is_refusal(again(epochs=1), "gan-seed0 has taken 8 steps", "another --out")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("modes", ["many", None, 10**400])
def test_a_damaged_result_is_one_line(modes, again, tmp_path):
    result = json.loads((tmp_path / "gan-seed0.json").read_text())
    (tmp_path / "gan-seed0.json").write_text(json.dumps({**result, "modes": modes}))
    is_refusal(again(), "gan-seed0.json has no number modes", "remove it")


def test_results_are_kept_without_their_runs(again, tmp_path):
    table = (tmp_path / "table.md").read_text()
    shutil.rmtree(tmp_path / "runs")
    assert again() == Result(0, table, "")


def test_an_interrupted_study_is_resumed(again, tmp_path, monkeypatch):
    kept = (tmp_path / "gan-seed0.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(modes, "mode_statistics", once_more(modes.mode_statistics))
        stopped = again("--seeds", 2)
    assert (stopped.code, stopped.out) == (130, "")
    assert "interrupted" in stopped.err
    assert not (tmp_path / "gan-seed1.json").exists()
    trained = (tmp_path / "runs" / "gan-seed1" / "resume" / "state.pt").read_bytes()
    assert again("--seeds", 2).code == 0
    assert len(json.loads((tmp_path / "table.json").read_text())[0]["modes_of_seeds"]) == 2
    assert (tmp_path / "gan-seed0.json").stat().st_mtime_ns == kept
    assert (tmp_path / "runs" / "gan-seed1" / "resume" / "state.pt").read_bytes() == trained


def once_more(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` that is interrupted in its second call."""
    calls = []

    def wrapped(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(*arguments)

    return wrapped


def test_mistakes_of_the_study_are_one_line(few, tmp_path):
    def reproduce(*words: object):
        return flowvae("reproduce", "modes", *words, "--out", tmp_path / "table")

    is_refusal(reproduce("--rows", "gen"), "modes has no row 'gen'", "gan")
    is_refusal(reproduce("--workers", 2), "remove --workers")
    is_refusal(reproduce("--data", "mnist"), "remove --data")
    is_refusal(reproduce("--seeds", 0), "seeds is 0")
    is_refusal(reproduce("--images", 26001), "images is 26001")
    is_refusal(reproduce("--epochs", 1), "burn_in + thinning")
    assert not (tmp_path / "table").exists()


def test_mistakes_of_comparing_are_one_line(trained):
    is_refusal(flowvae("quality", trained, "--images", 301), "300 training images", "26,000")
    is_refusal(flowvae("quality", trained, "--features", "mnist"), "remove --features")
    is_refusal(flowvae("quality", trained, "--data", "mnist"), "28")
