"""The command line from end to end on small images, Ctrl-C, and help."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL, Result, contents, flowvae, is_refusal, succeeds, write_images
from pages import REPOSITORY
from PIL import Image
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

import flowvae as package
from flowvae import cli, training
from flowvae.batch import DataSpec
from flowvae.cli.training import CHOICES
from flowvae.commands import demonstrating, evaluating, picturing
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.errors import UserError
from flowvae.forms import field_docs, read_training
from flowvae.models import Coded, Inferring
from flowvae.models.likelihoods import CausalLikelihoodOptions
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.posteriors import PlanarOptions, RealNVPOptions
from flowvae.models.priors import RealNVPPriorOptions
from flowvae.models.registry import PRESETS, SYSTEMS
from flowvae.models.vae import ImportanceWeighted, VAEOptions, VectorOptions
from flowvae.parts import choices, from_dict, names, to_dict
from flowvae.runs import Run, read_metrics
from flowvae.runs.capability import needs
from flowvae.runs.table import markdown

# From one end to the other.


def test_training_makes_a_run_and_says_what_is_next(workspace):
    result = flowvae("train", "planar-4", *SMALL, "--data", "images.npz", "--steps", "4", "--out", "new/run")
    assert result.code == 0
    assert result.out == "new/run is trained; score it with: flowvae evaluate new/run\n"
    assert "-ELBO" in result.err, "progress"
    names = {"config.json", "model.safetensors", "metrics.jsonl", "resume/state.pt", "logs"}
    assert names <= contents(workspace / "new" / "run").keys()
    made = Run(workspace / "new" / "run")
    config = made.config
    assert made.spec == DataSpec((1, 8, 8), levels=2, training_images=48)
    assert isinstance(config.model, VAEOptions)
    assert (config.model.posterior, config.model.latent) == (PlanarOptions(transformations=4), 3)
    assert (config.training.steps, config.training.minutes, config.training.batch_size) == (4, None, 16)


def test_a_run_is_named_after_its_preset(workspace):
    succeeds("train", "vae", *SMALL, "--data", "images.npz", "--steps", "1", "--track", "none")
    assert (workspace / "runs" / "vae" / "model.safetensors").exists()


def test_every_option_of_training_reaches_its_run(workspace):
    chosen = Config(
        DataConfig("images.npz", "static"),
        VAEOptions(
            RealNVPOptions(
                transformations=1,
                flow_of="noise",
                hidden=8,
                context=False,
                normalization="weight",
                flow_batch_norm=True,
                bounded=False,
            ),
            RealNVPPriorOptions(
                prior_transformations=2, prior_hidden=4, prior_normalization="act", prior_bounded=False
            ),
            CausalLikelihoodOptions(causal_channels=4, causal_blocks=1, causal_dropout=0.1, causal_orders=2),
            VectorOptions(features=8),
            ImportanceWeighted(),
            covariance="full",
            latent=4,
            networks=ConvolutionalOptions(channels=4, blocks=2),
            samples=2,
            kl_warm_up=0,
        ),
        TrainingConfig(
            epochs=2,
            steps=3,
            minutes=1.5,
            batch_size=8,
            optimizer="adamw",
            beta1=0.5,
            learning_rate=0.01,
            learning_rate_warm_up=3,
            weight_decay=0.2,
            gradient_clipping=5.0,
            averaging=0.5,
            validation_images=7,
            track="none",
            seed=3,
        ),
    )
    words = []
    for part in (chosen.data, chosen.model, chosen.training):
        for name, value in to_dict(part).items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            elif value is not None:
                words += [f"--{option}", str(value)]
    succeeds("train", "vae", *words, "--out", "run")
    assert Run(workspace / "run").config == chosen


def test_resuming_goes_on_with_the_budget_given(workspace):
    before = read_metrics(workspace / "flow")
    assert succeeds("train", "--resume", "flow", "--epochs", "4", "--track", "none").startswith(
        "flow is trained"
    )
    training = Run(workspace / "flow").config.training
    assert (training.epochs, training.steps, training.minutes) == (4, None, None)
    after = read_metrics(workspace / "flow")
    assert after[: len(before)] == before
    assert after[-1]["step"] == 4 * 3
    succeeds("train", "--resume=flow", "--track", "none")
    assert read_metrics(workspace / "flow") == after, "the budget is used up"


def test_an_evaluation_holds_what_a_reader_needs(workspace):
    out = succeeds("evaluate", "flow", "--samples", "4", "--images", "20", "--split", "valid", "--seed", "5")
    scores = json.loads((workspace / "flow" / "evaluation.json").read_text())
    assert scores["negative_elbo"] == pytest.approx(scores["reconstruction"] + scores["kl"])
    assert scores["nll"] <= scores["negative_elbo"]
    assert scores["bits_per_dim"] == pytest.approx(scores["nll"] / math.log(2) / 64)
    assert scores["nll_standard_error"] > 0
    assert 0 <= scores["active_units"] <= 3
    model = package.load(workspace / "flow")
    assert scores["parameters"] == sum(weights.numel() for weights in model.parameters())
    exact = {"samples": 4, "images": 20, "split": "valid", "seed": 5, "training_steps": 6, "training_seed": 0}
    exact |= {"dataset": "images", "binarization": "static", "version": flowvae_version()}
    assert scores.items() >= exact.items()
    assert f" {scores['nll']:.2f} " in out
    assert out.splitlines()[2].startswith("| flow ")


def test_an_estimate_that_cannot_be_trusted_is_told_in_a_line(workspace):
    result = flowvae("evaluate", "flow", "--samples", "4", "--images", "20")
    assert result.code == 0
    assert result.err.startswith(
        "flowvae: warning: flow: -log p(x) cannot be trusted with S = 4, and is only an"
    )
    assert result.err.count("\n") == 1
    assert "warning" not in result.out


def test_a_single_image_has_no_standard_error(workspace):
    assert "standard error" in succeeds("evaluate", "flow", "--samples", "30", "--images", "2")
    for printed in (
        succeeds("evaluate", "flow", "--samples", "30", "--images", "1"),
        succeeds("table", "flow"),
        *(Path(file).read_text() for file in succeeds("export", "flow", "--format", "hub").split()[-1:]),
    ):
        assert "ESS" in printed
        assert "Pareto k" in printed
        assert "standard error" not in printed


def flowvae_version() -> str:
    return succeeds("--version").strip()


def test_an_evaluation_depends_on_nothing_but_its_options(workspace):
    def scores(*options: str) -> str:
        succeeds("evaluate", "flow", "--samples", "3", "--images", "10", *options)
        return (workspace / "flow" / "evaluation.json").read_text()

    first = (workspace / "flow" / "evaluation.json").read_text()
    assert scores() == first
    assert scores("--seed", "1") != first


def test_other_images_can_be_scored(workspace):
    write_images(workspace / "others.npz", num_test=12)
    succeeds("evaluate", "plain", "--data", "others.npz", "--images", "12", "--samples", "2")
    scores = json.loads((workspace / "plain" / "evaluation-others.json").read_text())
    assert (scores["dataset"], scores["images"]) == ("others", 12)
    assert not (workspace / "plain" / "evaluation.json").exists(), "it is that of the run's own data"
    before = contents(workspace / "flow")
    succeeds("evaluate", "flow", "--data", "others.npz", "--samples", "2")
    after = contents(workspace / "flow")
    assert json.loads(after.pop("evaluation-others.json") or b"")["images"] == 12, "all of them"
    assert after == before


@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate"])
def test_a_picture_is_that_of_its_seed(command, workspace):
    number = ["--pairs" if command == "interpolate" else "--images", "3"]
    pictures = {}
    for out, seed in (("a.png", "0"), ("b.png", "0"), ("c.png", "1")):
        printed = succeeds(command, "flow", *number, "--seed", seed, "--out", out)
        assert printed == (f"{out}: means of p(x|z)\n" if command == "sample" else f"{out}\n")
        pictures[out] = (workspace / out).read_bytes()
    assert pictures["a.png"] == pictures["b.png"] != pictures["c.png"]


# An image of 8 pixels and the gap of 2 take ten times as many in a picture; a title takes 50.
PICTURES = [
    ("sample flow", "flow/samples.png", (1020, 1020)),
    ("sample flow --images 12", "flow/samples.png", (1020, 220)),
    ("reconstruct flow --images 12", "flow/reconstructions.png", (1020, 420 + 40 + 50)),  # two pairs of rows
    ("interpolate flow --steps 4 --pairs 5", "flow/interpolations.png", (420, 520 + 50)),
    ("interpolate plain flow --steps 4 --pairs 5", "plain/interpolations.png", (2 * 420 + 20, 520 + 50)),
]


@pytest.mark.parametrize(("words", "out", "size"), PICTURES)
def test_a_picture_lies_in_its_run_and_has_room_for_its_images(words, out, size, workspace):
    assert succeeds(*words.split()).removesuffix(": means of p(x|z)\n").strip() == out
    with Image.open(workspace / out) as picture:
        assert picture.size == size


@pytest.fixture
def panels(monkeypatch) -> dict[str, Tensor]:
    """The panels, by title, of a picture that would be drawn."""
    kept: dict[str, Tensor] = {}
    monkeypatch.setattr(picturing.figures, "save_panels", lambda given, *rest, **options: kept.update(given))
    return kept


def test_reconstructions_stand_under_their_images(workspace, panels):
    succeeds("reconstruct", "flow", "--images", "12", "--seed", "3")
    (shown,) = panels.values()
    images = picturing.test_images(Run("flow"), 12, seed=3, data=None).images
    model = needs(Inferring, Run("flow"))
    with torch.no_grad():
        expected = [images[:10], model.reconstruct(images)[:10], images[10:], model.reconstruct(images)[10:]]
    rows = [row[~row.flatten(1).isnan().any(1)] for row in shown.split(10)]
    for row, want in zip(rows, expected, strict=True):
        torch.testing.assert_close(row, want)


def test_a_walk_goes_from_one_image_to_the_other(workspace, panels):
    succeeds("interpolate", "plain", "flow", "--pairs", "3", "--steps", "5", "--seed", "2")
    images = picturing.test_images(Run("flow"), 6, seed=2, data=None).images
    assert list(panels) == ["plain", "flow"]
    for run, shown in panels.items():
        walks = shown.unflatten(0, (3, 5))
        with torch.no_grad():
            ends = needs(Coded, Run(run)).reconstruct(images)
        torch.testing.assert_close(walks[:, 0], ends[:3])
        torch.testing.assert_close(walks[:, -1], ends[3:])


def test_runs_of_one_name_are_told_apart(workspace, panels):
    shutil.copytree(workspace / "flow", workspace / "copies" / "flow")
    succeeds("interpolate", "flow", "copies/flow", "plain", "--pairs", "2")
    assert list(panels) == ["flow", "copies/flow", "plain"]
    assert "| copies/flow |" in succeeds("table", "flow", "copies/flow")


def test_no_table_replaces_a_file_of_a_run(workspace):
    before = contents(workspace)
    for name in ("config.json", "evaluation.json", "quality.json"):
        is_refusal(flowvae("table", "flow", "--out", f"flow/{name}"), f"{name} is a file of the run flow")
    is_refusal(flowvae("score", "flow", "images.npz", "--out", "plain/config.json"), "of the run plain")
    assert contents(workspace) == before


def test_tables_of_several_runs(workspace):
    succeeds("evaluate", "plain", "--samples", "3", "--images", "10")
    evaluations = [json.loads((workspace / run / "evaluation.json").read_text()) for run in ("plain", "flow")]
    printed = succeeds("table", "plain", "flow")
    for name in ("table.md", "table.csv", "table.json"):
        assert succeeds("table", "plain", "flow", "--out", name) == f"{name}\n"
    assert (workspace / "table.md").read_text() == printed
    header, rule, *rows = [line.strip("|\n").replace("\\|", "!").split("|") for line in printed.splitlines()]
    assert [title.strip() for title in header][:6] == [
        "model",
        "-log p(x!z)",
        "KL",
        "-ELBO",
        "-log p(x)",
        "standard error",
    ]
    assert len(rule) == len(header)
    for row, name, scores in zip(rows, ("plain", "flow"), evaluations, strict=True):
        assert row[0].strip() == name
        keys = ("reconstruction", "kl", "negative_elbo", "nll", "nll_standard_error")
        assert [cell.strip() for cell in row[1:6]] == [f"{scores[key]:.2f}" for key in keys]
    named: list[dict[str, Any]] = [
        {"name": name, **scores} for name, scores in zip(("plain", "flow"), evaluations, strict=True)
    ]
    plain, flow = (load_file(workspace / run / "scores.safetensors")["nll"] for run in ("plain", "flow"))
    named[1]["nll_difference"] = (flow - plain).mean().item()
    named[1]["nll_difference_standard_error"] = (flow - plain).std().item() / math.sqrt(10)
    assert named[1]["nll_difference"] == pytest.approx(evaluations[1]["nll"] - evaluations[0]["nll"])
    assert json.loads((workspace / "table.json").read_text()) == named
    with (workspace / "table.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    keys = read[0].keys()
    assert [{key: str(row.get(key, "")) for key in keys} for row in named] == read


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--samples", "4"], "plain differs in samples"),
        (["--samples", "3", "--split", "valid"], "plain differs in split"),
        (["--samples", "3", "--seed", "1"], "plain was scored on other images"),
    ],
)
def test_a_table_says_why_there_is_no_paired_difference(workspace, options, reason):
    succeeds("evaluate", "plain", "--images", "10", *options)
    result = flowvae("table", "flow", "plain")
    assert result.err == f"flowvae: note: no paired difference from flow: {reason}\n"
    assert "difference" not in result.out


def test_an_exact_likelihood_is_compared_with_an_estimate_of_any_samples(workspace):
    options = ["--causal-channels", "4", "--causal-blocks", "1", "--steps", "2", "--track", "none"]
    succeeds("train", "pixelcnn", "--data", "images.npz", *options, "--out", "exact")
    for run in ("flow", "exact"):
        succeeds("evaluate", run, "--images", "10", "--samples", "3")
    result = flowvae("table", "flow", "exact")
    assert result.err == ""
    flow, exact = (load_file(workspace / run / "scores.safetensors")["nll"] for run in ("flow", "exact"))
    assert f" {(exact - flow).mean().item():.2f} " in result.out.splitlines()[-1]


def test_a_narrow_table_keeps_a_difference_with_its_error():
    numbers = {"kl": 25.0, "nll": 80.0, "nll_standard_error": 1.4, "active_units": 30, "images": 200}
    other = {**numbers, "nll_difference": -1.9, "nll_difference_standard_error": 0.2}
    rows = [{"name": "one", **numbers}, {"name": "other", **other}]
    heads = {
        width: [cell.strip() for cell in markdown(rows, width=width).splitlines()[0].split("|")[1:-1]]
        for width in (20, 60, 80, 200)
    }
    assert heads[20] == ["model", "-log p(x)"]
    assert heads[60] == ["model", "-log p(x)", "difference", "its standard error"]
    assert heads[80] == ["model", "KL", "-log p(x)", "standard error", "difference", "its standard error"]
    assert heads[200][-2:] == ["active units", "images"]


def test_scores_of_single_images_may_be_missing_but_not_damaged(workspace):
    succeeds("evaluate", "plain", "--samples", "3", "--images", "10")
    scores = workspace / "flow" / "scores.safetensors"
    intact = scores.read_bytes()
    tensors = load(intact)
    for content in (
        b"",
        intact[:-5],
        save({"index": torch.arange(3)}),
        save({**tensors, "nll": torch.ones(3)}),
    ):
        scores.write_bytes(content)
        is_refusal(flowvae("table", "flow", "plain"), "flow/scores.safetensors", "evaluate the run again")
    save_file({**tensors, "nll": tensors["nll"] + 1}, scores)
    assert "flow has no scores of single images" in flowvae("table", "flow", "plain").err, "of another time"
    scores.unlink()
    assert "flow has no scores of single images" in flowvae("table", "plain", "flow").err


def test_a_table_says_where_protocols_differ(workspace):
    succeeds("evaluate", "plain", "--samples", "3", "--images", "10", "--split", "valid")
    header, _, plain, flow = succeeds("table", "plain", "flow").splitlines()
    assert [cell.strip() for cell in header.split("|")[1:3]] == ["model", "split"]
    assert [line.split("|")[2].strip() for line in (plain, flow)] == ["valid", "test"]


def test_a_model_that_comes_with_the_package_has_a_name(workspace):
    words = ["evaluate", "density-mnist", "--data", "mnist", "--samples", "2", "--images", "2"]
    assert "| density-mnist |" in succeeds(*words)
    is_refusal(flowvae("table", "density-mnist"), "density-mnist comes without scores")
    is_refusal(flowvae("train", "--resume", "density-mnist"), "density-mnist has no state to resume from")
    assert not (workspace / "density-mnist").exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("sample density-mnist --images 2", ["samples.png"]),
        ("sample density-mnist --images 2 --show crossed", ["crossed.png"]),
        ("sample density-mnist --images 2 --show nearest --data mnist", ["nearest.png"]),
        ("reconstruct density-mnist --images 2 --data mnist", ["reconstructions.png"]),
        ("interpolate density-mnist --pairs 1 --steps 2 --data mnist", ["interpolations.png"]),
        ("export density-mnist --format hub", ["hub/config.json", "hub/model.safetensors", "hub/README.md"]),
    ],
)
def test_what_is_made_of_a_model_of_the_package_lies_beside_and_does_not_hide_it(words, names, workspace):
    written = [f"density-mnist-{name}" for name in names]
    assert succeeds(*words.split()).replace(": draws from p(x)", "").split() == written
    assert all(Path(name).is_file() for name in written)
    assert not Path("density-mnist").exists()


def test_a_table_bears_gaps_and_odd_names(workspace):
    shutil.copytree(workspace / "plain", workspace / "a|b")
    (workspace / "a|b" / "evaluation.json").write_text('{"kl": 25.5, "nll": null, "new": 1}')
    lines = succeeds("table", "a|b", "flow").splitlines()
    widths = {len(line.replace("\\|", "!").split("|")) for line in lines}
    assert len(widths) == 1, "as many cells in every line"
    assert lines[2].startswith("| a\\|b ")
    assert "25.50" in lines[2]


def test_presets_are_listed():
    lines = succeeds("presets").split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert "D = 40; posterior realnvp, K = 20" in lines[list(PRESETS).index("realnvp-20")]
    assert all(line.endswith(f"; {PRESETS[line.split()[0]].data.data}") for line in lines)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice[0])
def test_which_preset_to_take_is_said_with_measured_numbers(choice):
    """In the list of presets and in the README."""
    name, purpose, minutes, parameters, result = choice
    of_table = REPOSITORY / "results" / "table1" / f"{name}-seed0.json"
    others = (REPOSITORY / "results" / folder / f"{name}.json" for folder in ("density", "cifar10"))
    measured = json.loads(next(path for path in (of_table, *others) if path.exists()).read_bytes())
    assert round(measured["training_seconds"] / 60) == minutes
    assert measured["parameters"] == parameters
    value, unit = result.split()
    assert f"{measured['nll' if unit == 'nats' else 'bits_per_dim']:.2f}" == value
    cells = result.removesuffix(" nats")
    row = f"| `{name}` | {purpose} | {minutes} | {parameters:,} | {cells} |"
    assert row in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert name in succeeds("presets").split("\n\n")[0]


@pytest.fixture
def small_demo(tmp_path, monkeypatch) -> None:
    """The demo, with small models on small images."""
    write_images(tmp_path / "images.npz", num_test=1000)

    def small(name: str) -> Config:
        hidden = {} if name == "vae" else {"hidden": 8}
        of_training = {"data": str(tmp_path / "images.npz"), "batch_size": 16, "track": "none"}
        return PRESETS[name].revised(latent=3, features=8, channels=4, **hidden, **of_training)

    monkeypatch.setattr(demonstrating, "preset", small)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("small_demo")
def test_the_demo_leaves_a_table_and_pictures(tmp_path):
    out = succeeds("demo", "--minutes", "0.005")
    folder = tmp_path / "runs" / "demo"
    pictures = ["curves.png", "interpolations.png"]
    pictures += [
        f"{run}/{name}.png" for run in ("vae", "realnvp-2") for name in ("samples", "reconstructions")
    ]
    for name in [*pictures, "table.md", "table.json"]:
        assert f"runs/demo/{name}\n" in out
        assert (folder / name).stat().st_size > 0
    assert out.startswith((folder / "table.md").read_text())
    rows = json.loads((folder / "table.json").read_text())
    assert [row["name"] for row in rows] == ["vae", "realnvp-2"]
    assert all(row["training_steps"] >= 1 for row in rows)
    assert Run(folder / "realnvp-2").config.training.minutes == 0.005
    before = contents(folder)
    is_refusal(flowvae("demo"), "runs/demo already exists")
    assert contents(folder) == before


# Ctrl-C.


def test_ctrl_c_ends_with_130_and_without_a_traceback(workspace, monkeypatch):
    def press(*arguments: Any) -> None:
        raise KeyboardInterrupt

    before = contents(workspace)
    monkeypatch.setattr(evaluating, "evaluate", press)
    assert flowvae("evaluate", "flow") == Result(130, "", "flowvae: interrupted\n")
    assert contents(workspace) == before


def test_a_training_that_ctrl_c_stopped_is_not_called_finished(workspace, monkeypatch):
    monkeypatch.setattr(training, "train", lambda run, config, resume, device: False)
    assert flowvae("train", "vae", "--data", "images.npz") == Result(130, "", "flowvae: interrupted\n")


@pytest.mark.usefixtures("small_demo")
def test_ctrl_c_stops_the_whole_demo(monkeypatch):
    trained: list[Path] = []
    monkeypatch.setattr(demonstrating, "train", lambda run, config: trained.append(run))  # which is not True
    assert flowvae("demo") == Result(130, "", "flowvae: interrupted\n")
    assert len(trained) == 1


# As a program of its own.


def start(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], text=True, check=False, timeout=600, **options)


HEAVY = {"torch", "numpy", "matplotlib", "accelerate", "safetensors", "PIL", "tensorboard"}
WITH_OPTIONS = {"torch", "numpy"}  # the options of a system stand beside its module


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--help"], set()),
        (["evaluate", "-h"], set()),
        (["evalaute"], set()),
        (["train", "--help"], WITH_OPTIONS),
        (["train", "relnvp-5"], WITH_OPTIONS),
        (["presets"], WITH_OPTIONS),
    ],
)
def test_what_needs_no_model_imports_nothing_heavy_that_it_does_not_need(words, needed):
    program = (
        "import sys\n"
        "from flowvae.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('imported', *sys.modules)"
    )
    done = start("-c", program, *words, capture_output=True)
    imported = done.stdout.splitlines()[-1].split()
    assert imported[0] == "imported", done.stderr
    assert HEAVY & set(imported) == needed


def test_the_program_trains_and_refuses(tmp_path):
    write_images(tmp_path / "images.npz")
    words = [
        "train",
        "vae",
        *SMALL,
        "--data",
        "images.npz",
        "--steps",
        "2",
        "--track",
        "none",
        "--out",
        "run",
    ]
    done = start("-m", "flowvae", *words, capture_output=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "run is trained; score it with: flowvae evaluate run\n")
    before = contents(tmp_path)
    done = start("-m", "flowvae", "evaluate", "run", "--images", "999", capture_output=True, cwd=tmp_path)
    is_refusal(Result(done.returncode, done.stdout, done.stderr), "images is 999")
    assert contents(tmp_path) == before


def test_a_reader_that_has_had_enough_is_no_mistake():
    reader, writer = os.pipe()
    os.close(reader)
    done = start("-m", "flowvae", "--help", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with Path("/dev/full").open("w") as file:
        done = start("-m", "flowvae", "--help", stdout=file, stderr=subprocess.PIPE)
    is_refusal(Result(done.returncode, "", done.stderr), "No space left on device")


# Help.


def test_help_lists_every_command():
    for result in (flowvae(), flowvae("--help"), flowvae("-h")):
        assert result.code == 0
        assert result.err == ""
        for name in cli.COMMANDS:
            assert f"\n  {name} " in result.out
        assert max(map(len, result.out.splitlines())) <= 110


def unboxed(help_text: str) -> str:
    return " ".join(" ".join(line.strip("│╭╰─╮╯ ") for line in help_text.splitlines()).split())


def options_of(text: str) -> set[str]:
    """The options that a help text lists, as names of fields."""
    return {name.replace("-", "_") for name in re.findall(r" --(?!no-)([a-z][a-z0-9-]*)", text)}


# Whose help is looked at, with options that choose parts.
HELPED = ["vae", "planar-20", "realnvp-2", "iaf-4", "density-small", "cifar10-realnvp-prior", "pixelcnn"]
HELPED += ["realnvp-density-mnist", "vae --posterior realnvp --prior vamp --objective importance-weighted"]


@pytest.mark.parametrize("words", HELPED)
def test_help_of_training_has_the_presets_options_with_their_defaults_and_no_others(words):
    name, *changes = words.split()
    text = unboxed(succeeds("train", name, *changes, "--help"))
    chosen = {changes[i][2:]: changes[i + 1] for i in range(0, len(changes), 2)}
    preset = PRESETS[name].revised(**chosen)
    values = {**to_dict(preset.data), **to_dict(preset.model), **to_dict(preset.training)}
    assert options_of(text) == {"help", "config", "out", "resume", "device", *values}
    for option, value in values.items():
        shown = "none" if value is None else value
        description = re.split(rf" --{option.replace('_', '-')}(?![a-z-])", text, maxsplit=1)[1]
        assert description.split("(default: ", 1)[1].startswith(f"{shown})"), option


def test_every_option_of_every_system_is_in_some_help():
    """Each part of each choice, chosen: what it has is listed with it, and not without it."""
    for system, kind in SYSTEMS.items():
        preset = next(name for name, config in PRESETS.items() if type(config.model) is kind)
        for selector, parts in choices(kind).items():
            for part_name, part in parts.items():
                listed = options_of(unboxed(succeeds("train", preset, f"--{selector}={part_name}", "--help")))
                assert set(names(part)) <= listed, (system, selector, part_name)
                others = {name for other in parts.values() for name in names(other)} - set(names(part))
                assert not others & listed, (system, selector, part_name)


@dataclass(frozen=True)
class BeginsLow(System):
    """A system of the test's own."""

    name = "begins-low"

    width: int = 3
    """how wide it is"""

    def build(self, data: DataSpec) -> Any:
        raise AssertionError("nothing is built")

    def describe(self) -> str:
        return "a system of the test's own"


def test_a_form_has_the_options_of_a_system_that_flowvae_has_never_seen():
    asked = read_training(Config(model=BeginsLow()), ["--width", "7", "--steps", "2", "--out", "x"], "test")
    assert asked.config == Config(model=BeginsLow(7), training=TrainingConfig(steps=2))
    assert (asked.out, asked.resume) == (Path("x"), None)
    with pytest.raises(UserError, match=r"no option --widht; did you mean --width\?"):
        read_training(Config(model=BeginsLow()), ["--widht", "7"], "test")
    without = read_training(Config(), ["--steps", "2"], "test")
    assert without.config == Config(training=TrainingConfig(steps=2))


def test_a_form_keeps_of_a_part_what_another_part_has_too():
    asked = read_training(PRESETS["realnvp-5"], ["--posterior=iaf", "--hidden", "64"], "test")
    assert isinstance(asked.config.model, VAEOptions)
    expected = {"posterior": "iaf", "transformations": 5, "flow_of": "noise", "hidden": 64}
    assert asked.config.model == from_dict(VAEOptions, {**expected, "covariance": "full"})


@pytest.mark.parametrize("kind", SYSTEMS.values())
def test_every_option_has_a_description(kind):
    parts = [part for known in choices(kind).values() for part in known.values()]
    for each in (kind, *parts):
        assert set(names(each)) <= field_docs(each).keys(), each


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("presets", "completion")])
def test_help_of_a_command_says_what_its_options_are_for(command):
    text = unboxed(succeeds(command, "--help"))
    assert "{None}" not in text
    assert "(default: None)" not in text
    assert "(default: )" not in text
    options = set(re.findall(r" (--(?!help|no-)[a-z][a-z0-9-]*)", text))
    assert options
    for option in options:
        # Its default comes before the next option does.
        assert re.search(rf" {option}\b((?! --(?!no-)[a-z]).)*\(default: [^ )]", text), option


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_the_caller_closed(stream):
    closed = f"import sys; sys.{stream} = None; sys.argv = ['flowvae', '--version']"
    code = f"{closed}; from flowvae.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
