"""The command line from end to end on small images, Ctrl-C, and help."""

import csv
import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL, Result, contents, flowvae, is_refusal, succeeds, write_images
from PIL import Image
from torch import Tensor

import flowvae as package
from flowvae import cli, commands, training
from flowvae.config import Config, DataConfig, ModelConfig, TrainingConfig
from flowvae.presets import PRESETS
from flowvae.runs import load_vae, read_config, read_metrics

# From one end to the other.


def test_training_makes_a_run_and_says_what_is_next(workspace):
    result = flowvae("train", "planar-4", *SMALL, "--data", "images.npz", "--steps", "4", "--out", "new/run")
    assert result.code == 0
    assert result.out == "new/run is trained; flowvae evaluate new/run scores it\n"
    assert "-ELBO" in result.err, "progress"
    names = {"config.json", "model.safetensors", "metrics.jsonl", "resume/state.pt", "logs"}
    assert names <= contents(workspace / "new" / "run").keys()
    config, shape = read_config(workspace / "new" / "run")
    assert shape == (1, 8, 8)
    assert (config.model.posterior, config.model.transformations, config.model.latent) == ("planar", 4, 3)
    assert (config.training.steps, config.training.minutes, config.training.batch_size) == (4, None, 16)


def test_a_run_is_named_after_its_preset(workspace):
    succeeds("train", "vae", *SMALL, "--data", "images.npz", "--steps", "1", "--track", "none")
    assert (workspace / "runs" / "vae" / "model.safetensors").exists()


def test_every_option_of_training_reaches_its_run(workspace):
    chosen = Config(
        DataConfig("images.npz", "static"),
        ModelConfig(
            posterior="realnvp",
            transformations=1,
            latent=4,
            features=8,
            channels=4,
            blocks=2,
            hidden=8,
            context=False,
            normalization="weight",
            flow_batch_norm=True,
            bounded=False,
        ),
        TrainingConfig(
            epochs=2,
            steps=3,
            minutes=1.5,
            batch_size=8,
            objective="importance-weighted",
            samples=2,
            learning_rate=0.01,
            learning_rate_warm_up=3,
            weight_decay=0.2,
            kl_warm_up=0,
            free_bits=0.0,
            gradient_clipping=5.0,
            averaging=0.5,
            validation_images=7,
            track="none",
            seed=3,
        ),
    )
    words = []
    for part in (chosen.data, chosen.model, chosen.training):
        for name, value in dataclasses.asdict(part).items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            elif value is not None:
                words += [f"--{option}", str(value)]
    succeeds("train", "vae", *words, "--out", "run")
    assert read_config(workspace / "run")[0] == chosen


def test_resuming_goes_on_with_the_budget_given(workspace):
    before = read_metrics(workspace / "flow")
    assert succeeds("train", "--resume", "flow", "--epochs", "4", "--track", "none").startswith(
        "flow is trained"
    )
    training = read_config(workspace / "flow")[0].training
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
    scores = json.loads((workspace / "plain" / "evaluation.json").read_text())
    assert (scores["dataset"], scores["images"]) == ("others", 12)


@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate"])
def test_a_picture_is_that_of_its_seed(command, workspace):
    number = ["--pairs" if command == "interpolate" else "--images", "3"]
    pictures = {}
    for out, seed in (("a.png", "0"), ("b.png", "0"), ("c.png", "1")):
        assert succeeds(command, "flow", *number, "--seed", seed, "--out", out) == f"{out}\n"
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
    assert succeeds(*words.split()) == f"{out}\n"
    with Image.open(workspace / out) as picture:
        assert picture.size == size


@pytest.fixture
def panels(monkeypatch) -> dict[str, Tensor]:
    """The panels, by title, of a picture that would be drawn."""
    kept: dict[str, Tensor] = {}
    monkeypatch.setattr(commands.figures, "save_panels", lambda given, *rest, **options: kept.update(given))
    return kept


def test_reconstructions_stand_under_their_images(workspace, panels):
    succeeds("reconstruct", "flow", "--images", "12", "--seed", "3")
    (shown,) = panels.values()
    images = commands.test_images(Path("flow"), 12, seed=3, data=None)
    model = load_vae("flow")
    with torch.no_grad():
        expected = [images[:10], model.reconstruct(images)[:10], images[10:], model.reconstruct(images)[10:]]
    rows = [row[~row.flatten(1).isnan().any(1)] for row in shown.split(10)]
    for row, want in zip(rows, expected, strict=True):
        torch.testing.assert_close(row, want)


def test_a_walk_goes_from_one_image_to_the_other(workspace, panels):
    succeeds("interpolate", "plain", "flow", "--pairs", "3", "--steps", "5", "--seed", "2")
    images = commands.test_images(Path("flow"), 6, seed=2, data=None)
    assert list(panels) == ["plain", "flow"]
    for run, shown in panels.items():
        walks = shown.unflatten(0, (3, 5))
        with torch.no_grad():
            ends = load_vae(run).reconstruct(images)
        torch.testing.assert_close(walks[:, 0], ends[:3])
        torch.testing.assert_close(walks[:, -1], ends[3:])


def test_runs_of_one_name_are_told_apart(workspace, panels):
    shutil.copytree(workspace / "flow", workspace / "copies" / "flow")
    succeeds("interpolate", "flow", "copies/flow", "plain", "--pairs", "2")
    assert list(panels) == ["flow", "copies/flow", "plain"]
    assert "| copies/flow |" in succeeds("table", "flow", "copies/flow")


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
    named = [{"name": name, **scores} for name, scores in zip(("plain", "flow"), evaluations, strict=True)]
    assert json.loads((workspace / "table.json").read_text()) == named
    with (workspace / "table.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in named] == read


def test_a_table_says_where_protocols_differ(workspace):
    succeeds("evaluate", "plain", "--samples", "3", "--images", "10", "--split", "valid")
    header, _, plain, flow = succeeds("table", "plain", "flow").splitlines()
    assert [cell.strip() for cell in header.split("|")[1:3]] == ["model", "split"]
    assert [line.split("|")[2].strip() for line in (plain, flow)] == ["valid", "test"]


def test_a_model_that_comes_with_the_package_has_a_name(workspace):
    words = ["evaluate", "density-mnist", "--data", "mnist", "--samples", "2", "--images", "2"]
    assert "| density-mnist |" in succeeds(*words)
    is_refusal(flowvae("table", "density-mnist"), "density-mnist has no scores")
    is_refusal(flowvae("train", "--resume", "density-mnist"), "density-mnist comes without a state")
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
    assert succeeds(*words.split()).split() == written
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
    lines = succeeds("presets").splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert "posterior realnvp, K = 20, D = 40" in lines[list(PRESETS).index("realnvp-20")]


@pytest.fixture
def small_demo(tmp_path, monkeypatch) -> None:
    """The demo, with small models on small images."""
    write_images(tmp_path / "images.npz", num_test=1000)

    def small(name: str) -> Config:
        preset = PRESETS[name]
        model = dataclasses.replace(preset.model, latent=3, features=8, channels=4, hidden=8)
        training = dataclasses.replace(preset.training, batch_size=16, track="none")
        return Config(DataConfig(str(tmp_path / "images.npz")), model, training)

    monkeypatch.setattr(commands, "preset", small)
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
    assert read_config(folder / "realnvp-2")[0].training.minutes == 0.005
    before = contents(folder)
    is_refusal(flowvae("demo"), "runs/demo exists already")
    assert contents(folder) == before


# Ctrl-C.


def test_ctrl_c_ends_with_130_and_without_a_traceback(workspace, monkeypatch):
    def press(*arguments: Any) -> None:
        raise KeyboardInterrupt

    before = contents(workspace)
    monkeypatch.setattr(commands, "evaluate", press)
    assert flowvae("evaluate", "flow") == Result(130, "", "flowvae: interrupted\n")
    assert contents(workspace) == before


def test_a_training_that_ctrl_c_stopped_is_not_called_finished(workspace, monkeypatch):
    monkeypatch.setattr(training, "train", lambda run, config, resume: False)
    assert flowvae("train", "vae", "--data", "images.npz") == Result(130, "", "flowvae: interrupted\n")


@pytest.mark.usefixtures("small_demo")
def test_ctrl_c_stops_the_whole_demo(monkeypatch):
    trained: list[Path] = []
    monkeypatch.setattr(commands, "train", lambda run, config: trained.append(run))  # which is not True
    assert flowvae("demo") == Result(130, "", "flowvae: interrupted\n")
    assert len(trained) == 1


# As a program of its own.


def start(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], text=True, check=False, timeout=600, **options)


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["evaluate", "-h"], ["train", "relnvp-5"], ["presets"]]
)
def test_what_needs_no_model_imports_nothing_heavy(words):
    program = (
        "import sys\n"
        "from flowvae.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('imported', *sys.modules)"
    )
    done = start("-c", program, *words, capture_output=True)
    imported = done.stdout.splitlines()[-1].split()
    assert imported[0] == "imported", done.stderr
    heavy = {"torch", "numpy", "matplotlib", "accelerate", "safetensors", "PIL", "tensorboard"}
    assert not heavy & set(imported)


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
    assert (done.returncode, done.stdout) == (0, "run is trained; flowvae evaluate run scores it\n")
    before = contents(tmp_path)
    done = start("-m", "flowvae", "evaluate", "run", "--images", "999", capture_output=True, cwd=tmp_path)
    is_refusal(Result(done.returncode, done.stdout, done.stderr), "images is 999")
    assert contents(tmp_path) == before


def test_a_reader_that_has_had_enough_is_no_mistake():
    reader, writer = os.pipe()
    os.close(reader)
    done = start("-m", "flowvae", "presets", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    with Path("/dev/full").open("w") as file:
        done = start("-m", "flowvae", "presets", stdout=file, stderr=subprocess.PIPE)
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


def test_help_of_training_has_every_option_with_the_presets_default():
    text = unboxed(succeeds("train", "planar-20", "--help"))
    preset = PRESETS["planar-20"]
    for part in (preset.data, preset.model, preset.training):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            assert f"--{field.name.replace('_', '-')}" in text
            shown = "none" if value is None else value
            description = text.split(f"--{field.name.replace('_', '-')}", 1)[1]
            assert description.split("(default: ", 1)[1].startswith(f"{shown})"), field.name


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "presets"])
def test_help_of_a_command_says_what_its_options_are_for(command):
    text = unboxed(succeeds(command, "--help"))
    assert "{None}" not in text
    assert "(default: None)" not in text
    assert "(default: )" not in text
    options = set(re.findall(r" (--(?!help|no-)[a-z][a-z-]*)", text))
    assert options
    for option in options:
        # Its default comes before the next option does.
        assert re.search(rf" {option}\b((?! --(?!no-)[a-z]).)*\(default: [^ )]", text), option
