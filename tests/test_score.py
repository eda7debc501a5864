"""Scores of single images: the same alone and among others, in Python and on the command line."""

import csv
import json
import math
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from command_line import SMALL, Result, contents, flowvae, is_refusal, succeeds, write_images
from made_runs import SHAPE, moved_model
from PIL import Image
from safetensors.torch import load_file, save_file

import flowvae as package
from flowvae.batch import DataSpec
from flowvae.commands import continuing, progress, scoring
from flowvae.config import DataConfig, revised
from flowvae.data import Dataset
from flowvae.data.dataset import Split
from flowvae.data.named import named_images
from flowvae.errors import UserError
from flowvae.evaluation import Finished, report
from flowvae.models import Bounded, Model
from flowvae.noise import normal
from flowvae.runs import Run, read_json, write_json


@pytest.fixture
def files(workspace):
    """Twelve grey images as PNG, one of them in a sub-directory."""
    folder = workspace / "pictures"
    (folder / "inner").mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(12):
        place = folder / "inner" if number == 7 else folder
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"image{number:02}.png")
    return folder


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize("number", [1, 2, 15])
@pytest.mark.parametrize("end", ["npz", "npy"])
def test_a_file_without_splits_is_scored_whole_in_its_order(workspace, end, number):
    pixels = np.random.default_rng(1).integers(0, 2, (number, 8, 8), dtype=np.uint8)
    np.savez("mine.npz", pixels) if end == "npz" else np.save("mine.npy", pixels)
    of_all = rows_of(succeeds("score", "flow", f"mine.{end}", "--samples", "5"))
    assert [row["name"] for row in of_all] == [str(place) for place in range(number)]
    whole = named_images([f"mine.{end}"], Run(workspace / "flow").spec, Run(workspace / "flow").config.data)
    assert np.array_equal(whole.images[:, 0].numpy(), pixels)
    np.savez("both.npz", train=pixels[:1], valid=pixels[:1], test=pixels)
    of_split = rows_of(succeeds("score", "flow", "both.npz", "--samples", "5"))
    assert [row["name"] for row in of_split] == [f"test/{place}" for place in range(number)]
    assert [row["nll"] for row in of_split] == [row["nll"] for row in of_all]
    if number == 15:
        few = rows_of(succeeds("score", "flow", f"mine.{end}", "--samples", "5", "--split", "test"))
        assert [row["name"] for row in few] == ["test/0", "test/1"]


@pytest.mark.parametrize("binarization", ["static", "dynamic", "threshold", "none"])
def test_an_image_in_a_file_without_splits_is_seen_as_one_in_a_file_of_its_own(tmp_path, binarization):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    pixels[3] = 255
    np.save(tmp_path / "all.npy", pixels)
    np.savez(tmp_path / "rest.npz", images=pixels[3:])
    config, spec = (
        DataConfig("mnist", binarization),
        DataSpec((1, 8, 8), 256 if binarization == "none" else 2),
    )
    for place, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{place}.png")
    sources = [str(tmp_path / f"{place}.png") for place in range(5)]
    for seed in (0, 1):
        alone = named_images(sources, spec, config, seed=seed).images
        together = named_images([str(tmp_path / "all.npy")], spec, config, seed=seed)
        assert together.names == ["0", "1", "2", "3", "4"]
        assert torch.equal(together.images, alone)
        both = named_images([str(tmp_path / "all.npy"), str(tmp_path / "rest.npz")], spec, config, seed=seed)
        assert torch.equal(both.images, torch.cat([alone, alone[3:]]))


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_file_of_one_image_of_one_value_is_read_as_the_model_sees_images(tmp_path, value):
    """As 8-bit levels for a model of 8-bit levels; for one of binary images, 0 and 1 are binary."""
    np.save(tmp_path / "one.npy", np.full((1, 8, 8), value, dtype=np.uint8))
    for binarization, levels in (("none", 255), ("static", 1), ("threshold", 1)):
        config = revised(DataConfig("mnist"), {"binarization": binarization})
        spec = DataSpec((1, 8, 8), levels + 1)
        found = named_images([str(tmp_path / "one.npy")], spec, config).images
        assert torch.equal(found, torch.full((1, 1, 8, 8), min(value / levels, 1.0)))


class LogNormal(Model, Bounded):
    """Log weights that are normal with a standard deviation of 0.5, so that p(x) = exp(1/8)."""

    best = "nll"

    def __init__(self):
        super().__init__()
        self.spread = torch.nn.Parameter(torch.tensor(0.5))

    def updates(self, batch, step):
        raise NotImplementedError

    def validate(self, batch):
        raise NotImplementedError

    def draws_for(self, images, noise=None):
        return lambda count: self.spread * normal(noise, (count, len(images)), like=images)


def test_the_standard_error_is_the_spread_of_estimates():
    scores = package.score(LogNormal(), torch.rand(1000, *SHAPE), num_samples=200)
    spread = scores["nll"].std().item()
    assert scores["nll_standard_error"].mean().item() == pytest.approx(spread, rel=0.1)
    assert spread == pytest.approx(math.sqrt((math.exp(0.25) - 1) / 200), rel=0.1)
    assert scores["nll"].mean().item() == pytest.approx(-1 / 8, abs=0.01)


def test_an_image_has_one_score_whatever_surrounds_it():
    model, images = moved_model(), torch.rand(5, *SHAPE).round()
    noise = torch.Generator().manual_seed(4)
    together = package.score(model, images, 20, noise)
    for place in range(5):
        alone = package.score(model, images[place : place + 1], 20, noise)
        for name, values in alone.items():
            torch.testing.assert_close(values[0], together[name][place], rtol=0, atol=1e-6, equal_nan=True)
    other = package.score(model, images, 20, torch.Generator().manual_seed(5))
    assert not torch.equal(other["nll"], together["nll"])
    assert "nll_standard_error" not in package.score(model, images, 1, noise), "one sample does not vary"


def test_twelve_files_are_twelve_rows_equal_to_each_alone_and_to_python(workspace, files):
    assert succeeds("score", "flow", files, "--samples", 20, "--out", "scores.csv") == "scores.csv\n"
    rows = rows_of((workspace / "scores.csv").read_text())
    names = [str(file.relative_to(files)) for file in sorted(files.rglob("*.png"))]
    assert [row["name"] for row in rows] == names
    run = Run("flow")
    images = named_images([str(files)], run.spec, run.config.data).images
    in_python = package.score(run.model, images, 20, torch.Generator().manual_seed(0))
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        (alone,) = rows_of(succeeds("score", "flow", files / name, "--samples", 20))
        assert alone["name"] == str(files / name)
        for key in ("negative_elbo", "nll", "nll_standard_error", "effective_sample_size"):
            assert float(row[key]) == pytest.approx(float(alone[key]), abs=1e-6)
            assert float(row[key]) == pytest.approx(in_python[key][place].item(), abs=1e-6)
        assert "bits_per_dim" not in row, "images are binary"


def test_a_split_agrees_with_evaluate(workspace):
    rows = json.loads(
        _written(workspace, "score", "flow", "images.npz", "--samples", 50, "--out", "all.json")
    )
    assert [row["name"] for row in rows] == [f"test/{place}" for place in range(30)]
    run, places = Run("flow"), torch.arange(30)
    images = run.dataset.batch("test", places).images
    for key in ("negative_elbo", "nll"):
        # The spread over seeds: with so few effective samples the delta method understates it.
        seeds = range(10)
        scores = [package.score(run.model, images, 20, torch.Generator().manual_seed(seed)) for seed in seeds]
        means = torch.stack([score[key].mean() for score in scores])
        others = torch.tensor(
            [package.evaluate(run.model, run.dataset, num_samples=20, seed=seed)[key] for seed in seeds]
        )
        error = math.sqrt((means.var().item() + others.var().item()) / len(seeds))
        assert means.mean().item() == pytest.approx(others.mean().item(), abs=5 * error)


def test_an_image_has_a_place_among_the_test_images(workspace, files):
    succeeds("evaluate", "plain", "--samples", 20, "--images", 25)
    tested = load_file("plain/scores.safetensors")["nll"]
    for row in rows_of(succeeds("score", "plain", files, "--samples", 20)):
        lower = (tested < float(row["nll"])).double().mean().item()
        assert float(row["share_of_test_lower"]) == lower
    succeeds("evaluate", "plain", "--samples", 20, "--images", 10, "--split", "valid")
    assert "share_of_test_lower" not in succeeds("score", "plain", files, "--samples", 2)


def test_whole_images_have_no_place_among_those_with_missing_pixels(workspace, files):
    data = ["--data", "images.npz", "--hide", 0.3, "--steps", 2, "--track", "none"]
    succeeds("train", "vae", *SMALL, *data, "--out", "hidden")
    succeeds("evaluate", "hidden", "--samples", 2)
    assert "share_of_test_lower" in succeeds("score", "hidden", "images.npz", "--samples", 2)
    assert "share_of_test_lower" not in succeeds("score", "hidden", files, "--samples", 2)
    config = read_json(Path("hidden/config.json"))
    config["data"]["hide"] = None
    write_json(Path("hidden/config.json"), config)
    succeeds("evaluate", "hidden", "--samples", 2)
    assert "share_of_test_lower" in succeeds("score", "hidden", files, "--samples", 2)
    pixels = np.eye(8)[None].repeat(3, 0)
    np.savez("holes.npz", images=pixels, observed=pixels == 0)
    assert "share_of_test_lower" not in succeeds("score", "hidden", "holes.npz", "--samples", 2)


def test_a_split_can_be_chosen(workspace):
    rows = rows_of(succeeds("score", "flow", "images.npz", "--split", "train", "--samples", 2))
    assert [row["name"] for row in rows] == [f"train/{place}" for place in range(48)]


def test_an_exact_likelihood_has_no_samples(workspace):
    data = ["--data", "images.npz", "--steps", 1, "--track", "none", "--batch-size", 16]
    succeeds("train", "pixelcnn", *data, "--causal-channels", 4, "--causal-blocks", 1, "--out", "exact")
    rows = rows_of(succeeds("score", "exact", "images.npz"))
    assert rows[0].keys() == {"name", "nll"}


def test_images_of_8_bits_have_bits_per_dim():
    model = LogNormal()
    model.levels = 256
    scores = package.score(model, torch.randint(256, (2, *SHAPE)) / 255, num_samples=3)
    torch.testing.assert_close(scores["bits_per_dim"], scores["nll"] / math.log(2) / 64)


def test_parquet_has_the_same_rows(workspace, files):
    parquet = pytest.importorskip("pyarrow.parquet")
    succeeds("score", "plain", files, "--samples", 3, "--out", "scores.parquet")
    rows = rows_of(succeeds("score", "plain", files, "--samples", 3))
    read = parquet.read_table("scores.parquet").to_pylist()
    assert [row["name"] for row in read] == [row["name"] for row in rows]
    assert [row["nll"] for row in read] == [float(row["nll"]) for row in rows]


def test_a_warning_where_weights_are_few(files):
    assert "give more --samples" in flowvae("score", "plain", files, "--samples", 3).err


def test_refusals(workspace, files):
    write_images(workspace / "large.npz", side=12)
    Image.new("L", (9, 8)).save(workspace / "wide.png")
    before = contents(workspace)
    is_refusal(flowvae("score", "flow"), "images")
    is_refusal(flowvae("score", "flow", files, "--out", "scores.txt"), ".csv")
    is_refusal(flowvae("score", "flow", files, "--out", "nowhere/scores.csv"), "create the directory first")
    is_refusal(flowvae("score", "flow", "wide.png"), "9 x 8", "8 x 8")
    is_refusal(flowvae("score", "flow", "large.npz"), "1 x 12 x 12")
    is_refusal(flowvae("score", "flow", files, "--samples", 0), "samples is 0")
    assert contents(workspace) == before


def test_a_model_without_a_likelihood_says_so():
    options = package.preset("gan-mnist").model
    assert options is not None
    model = package.build_model(options, package.DataSpec((1, 28, 28), levels=256))
    with pytest.raises(UserError, match="the model has no likelihood"):
        package.score(model, torch.rand(2, 1, 28, 28))


def _unannounced() -> NoReturn:
    raise UserError("an end without notice")


def _pressed() -> NoReturn:
    raise KeyboardInterrupt


def _terminated() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("end", "seconds"), [(_pressed, 1e9), (_terminated, 1e9), (_unannounced, 0)])
def test_a_stopped_evaluation_is_continued_to_the_same_bits(end, seconds, workspace, monkeypatch):
    """40 images are five batches; the evaluation ends in each of them in turn, and is continued each time."""
    for module in (continuing, progress):
        monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", seconds)
    monkeypatch.setattr(report, "IMAGES_AT_ONCE", 8)
    words = ["evaluate", "plain", "--split", "train", "--samples", 6, "--images", 40]
    succeeds(*words)
    whole = contents(workspace / "plain")
    for name in ("evaluation.json", "scores.safetensors"):
        (workspace / "plain" / name).unlink()
    calls = [0]  # so that the first batch is finished before the first end
    whole_bounds = report.bounds

    def bounds(model, images, num_samples):
        calls.append(len(images))
        if len(calls) % 2 == 1:
            end()
        return whole_bounds(model, images, num_samples)

    monkeypatch.setattr(report, "bounds", bounds)
    for finished in range(1, 5):
        stopped = flowvae(*words)
        assert stopped.code == (2 if end is _unannounced else 130)
        assert (f"evaluating plain: {finished / 5:.0%}\n" in stopped.err) == (seconds == 0)
        assert ("flowvae: interrupted; the same command continues\n" in stopped.err) == (seconds > 0)
        (kept,) = (workspace / "plain").glob("*.unfinished.safetensors")
        assert len(load_file(kept)["nll"]) == 8 * finished
        assert not (workspace / "plain" / "evaluation.json").exists()
    succeeds(*words)
    assert calls == [0, *9 * [8]], "no finished batch is scored again"
    assert contents(workspace / "plain") == whole, "and the kept scores are gone"

    calls[1:] = []
    assert flowvae(*words).code != 0
    monkeypatch.setattr(report, "bounds", whole_bounds)
    scores = load_file(kept)
    for damaged in (
        {"random": scores["random"][:9]},
        {"kl2": scores["kl"].clone()},
        {"nll": scores["nll"][:7]},
    ):
        save_file({**scores, **damaged}, kept)
        is_refusal(flowvae(*words), "remove it")
    kept.write_bytes(b"damaged")
    is_refusal(flowvae(*words), kept.name, "remove it")


def test_an_evaluation_of_changed_images_starts_again():
    model, images = moved_model(), torch.rand(40, *SHAPE).round().byte()
    finished: list[Finished] = []
    split = Split(images)
    package.evaluate(model, Dataset("a", "static", split, split, split), num_samples=2, keep=finished.append)
    other = Split(1 - images)
    changed = Dataset("a", "static", other, other, other)
    whole = package.evaluate(model, changed, num_samples=2)
    assert package.evaluate(model, changed, num_samples=2, finished=finished[0]) == whole
    other_options = package.evaluate(model, changed, num_samples=2, seed=1, finished=finished[0])
    assert other_options == package.evaluate(model, changed, num_samples=2, seed=1)


def _written(workspace, *words) -> str:
    return (workspace / succeeds(*words).strip()).read_text()


def test_every_page_of_a_file_has_a_row(workspace):
    pages = [Image.fromarray(page) for page in np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)]
    pages[0].save("stack.tif", save_all=True, append_images=pages[1:])
    lines = succeeds("score", "flow", "stack.tif", "--samples", 5).splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == ["stack.tif#1", "stack.tif#2", "stack.tif#3"]


def test_scoring_that_was_stopped_is_continued_to_the_same_table(workspace, files, monkeypatch):
    succeeds("score", "flow", files, "--samples", 5, "--out", "whole.csv")
    whole, scored = Path("whole.csv").read_text(), scoring.score
    taken: list[int] = []

    def stopping(model: Model, images: torch.Tensor, *arguments: Any) -> dict[str, torch.Tensor]:
        taken.append(len(images))
        if len(taken) == 2:
            raise KeyboardInterrupt
        return scored(model, images, *arguments)

    monkeypatch.setattr(scoring, "IMAGES_SCORED", 5)
    monkeypatch.setattr(scoring, "score", stopping)
    command = ("score", "flow", files, "--samples", 5, "--out", "parts.csv")
    assert flowvae(*command) == Result(130, "", "flowvae: interrupted; the same command continues\n")
    (unfinished,) = Path().glob("parts.csv.*.unfinished.safetensors")
    kept = unfinished.read_bytes()
    unfinished.write_bytes(b"damaged")
    is_refusal(flowvae(*command), "is damaged", "remove it")
    unfinished.write_bytes(kept)
    succeeds(*command)
    assert taken == [5, 5, 5, 2], "what was finished is not scored again"
    assert Path("parts.csv").read_text() == whole
    assert not unfinished.exists()


def test_names_of_no_valid_text_in_every_format(workspace):
    name = os.fsdecode(b"\xff.png")
    Image.new("L", (8, 8)).save(workspace / name)
    for form in (".csv", ".json", ".parquet"):
        if form == ".parquet":
            pytest.importorskip("pyarrow")
        succeeds("score", "plain", name, "--samples", 3, "--out", f"scores{form}")
        assert Path(f"scores{form}").stat().st_size
