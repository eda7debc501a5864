"""What the command line refuses: one line, exit code 2, and every file as it was."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import NUM_TEST, SMALL, contents, flowvae, is_refusal, succeeds, write_images
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file

REFUSED: list[tuple[str, list[str]]] = [
    ("trian", ["no command 'trian'", "did you mean train?"]),
    ("--frobnicate", ["no command '--frobnicate'", "known: ", "evaluate"]),
    ("train", ["name a preset", "realnvp-5"]),
    ("train --steps 3 vae", ["name a preset first", "realnvp-5"]),
    ("train relnvp-5", ["no preset 'relnvp-5'", "did you mean realnvp-5?"]),
    ("train gaussian", ["no preset 'gaussian'", "known: ", "vae"]),
    ("train vae plain", ["unexpected argument 'plain'", "flowvae train vae --help"]),
    ("train vae --learning-rat 0.1", ["no option --learning-rat;", "did you mean --learning-rate?"]),
    ("train vae --learning-rat=0.1", ["no option --learning-rat;", "did you mean --learning-rate?"]),
    ("train realnvp-2 --no-bounde", ["no option --no-bounde;", "did you mean --no-bounded?"]),
    ("train vae --beta2 0.9", ["no option --beta2;", "did you mean --beta1?"]),
    ("train vae --lr 3", ["no option --lr;", "see flowvae train vae --help"]),
    ("train planar-4 --context yes", ["unexpected argument 'yes'"]),
    ("train vae --steps", ["--steps", "flowvae train vae --help"]),
    ("train vae --steps many", ["--steps", "'many'"]),
    ("train vae --steps 1.5", ["--steps", "'1.5'"]),
    ("train vae --posterior gausian", ["posterior is 'gausian'", "did you mean gaussian?"]),
    ("train vae --posterior iaf --transformations 0", ["transformations is 0"]),
    ("train vae --flow-of noise", ["flow_of has no effect with posterior gaussian", "or iaf"]),
    ("train vae --transformations=3", ["transformations has no effect", "choose planar, realnvp or iaf"]),
    ("train vae --no-context", ["context has no effect with posterior gaussian"]),
    ("train planar-4 --no-bounded", ["bounded has no effect with posterior planar", "realnvp or iaf"]),
    ("train realnvp-2 --posterior planar --hidden 8", ["hidden has no effect with posterior planar"]),
    ("train vae --posterior iaf --posterior planar --hidden 8", ["hidden has no effect", "planar"]),
    ("train vae --prior-hidden 8", ["prior_hidden has no effect with prior normal", "realnvp"]),
    ("train vae --objective importance-weighted --free-bits 1", ["free_bits has no effect", "choose elbo"]),
    ("train pixelcnn --latent 3", ["no option --latent;"]),
    ("train pixelcnn --posterior iaf", ["no option --posterior;"]),
    ("train realnvp-density-mnist --prior vamp", ["no option --prior;"]),
    ("train nowhere:mine", ["nowhere cannot be imported", "name an importable module"]),
    ("train json:dumps", ["json has no Config 'dumps'", "MODULE:NAME"]),
    ("train json:missing", ["json has no Config 'missing'"]),
    ("train vae --covariance full --code map", ["a code that is a map", "--covariance diagonal"]),
    ("train vae --covariance full --prior vamp", ["the vamp prior", "--covariance diagonal"]),
    ("train realnvp-2 --flow-of nois", ["--flow-of", "'nois'", "noise"]),
    ("train vae --minutes -3 --data images.npz", ["minutes is -3"]),
    ("train vae --minutes nan --data images.npz", ["minutes is nan"]),
    ("train vae --epochs 0 --data images.npz", ["epochs is 0"]),
    ("train vae --samples 0 --data images.npz", ["samples is 0"]),
    ("train vae --seed -1 --data images.npz", ["seed is -1"]),
    ("train vae --seed 99999999999999999999 --data images.npz", ["seed is 9999"]),
    ("train vae --steps 3 --data images.npz --out plain", ["plain already exists", "--resume plain"]),
    ("train vae --steps 3 --data images.npz --out images.npz", ["images.npz already exists"]),
    ("train vae --steps 3 --data missing.npz", ["missing.npz"]),
    ("train vae --steps 3 --data plain/config.json", ["plain/config.json"]),
    ("train vae --steps 3 --data images.npz --binarization dynamic", ["binary already"]),
    ("train --resume", ["--resume has no value"]),
    ("train --resume=", ["--resume has no value"]),
    ("train --resume missing", ["missing is not a directory"]),
    ("train --resume images.npz", ["images.npz is not a directory"]),
    ("train --resume .", ["config.json is missing"]),
    ("train vae --resume plain", ["remove 'vae'"]),
    ("train --resume plain --out other", ["remove --out"]),
    ("train --resume nowhere --resume plain --latent 4", ["started with latent = 3"]),
    ("train --resume plain --latent 4", ["started with latent = 3", "cannot be resumed with 4"]),
    ("train --resume plain --data larger.npz", ["started with data = ", "larger.npz"]),
    ("train --resume plain --seed 1", ["started with seed = 0"]),
    ("train --resume plain --steps 0", ["steps is 0"]),
    ("evaluate", ["RUN", "required", "flowvae evaluate --help"]),
    ("evaluate missing", ["missing is not a directory; give the directory of a run", "(density-mnist)"]),
    ("evaluate density", ["density is not a directory; train this preset and give the directory of a run"]),
    ("evaluate images.npz", ["images.npz is not a directory"]),
    ("evaluate .", ["config.json is missing"]),
    ("evaluate plain flow", ["unexpected argument 'flow'"]),
    ("evaluate plain --samples 0", ["samples is 0"]),
    ("evaluate plain --samples -5", ["samples is -5"]),
    ("evaluate plain --images 0", ["images is 0", f"1 to {NUM_TEST}"]),
    ("evaluate plain --images 31", ["images is 31", f"1 to {NUM_TEST}"]),
    ("evaluate plain --images 1000000000000000000000", ["images is 1000000000000000000000"]),
    ("evaluate plain --split tets", ["--split", "'tets'", "test"]),
    ("evaluate plain --seed -1 --images 3", ["seed is -1"]),
    ("evaluate plain --seed 9223372036854775808 --images 3", ["seed is 9223372036854775808"]),
    ("evaluate plain --data missing --images 3", ["missing"]),
    ("evaluate plain --data larger.npz --images 3", ["larger.npz", "1 x 12 x 12", "1 x 8 x 8"]),
    ("evaluate plain --sampels 3", ["no option --sampels;", "did you mean --samples?"]),
    ("sample plain --images 0", ["images is 0"]),
    ("sample plain --images 99999999999999", ["images is 99999999999999", "10,000"]),
    ("sample plain --seed 99999999999999999999999", ["seed is 999"]),
    ("sample plain --data images.npz", ["--data", "--show nearest"]),
    (
        "sample plain --out missing/samples.png",
        ["missing/samples.png: No such file", "create the directory"],
    ),
    ("sample plain --out images.npz/samples.png", ["images.npz/samples.png", "choose another path"]),
    ("sample plain --out samples.foo", ["samples.foo ends in '.foo'", ".png"]),
    ("reconstruct plain --images 0", ["images is 0"]),
    ("reconstruct plain --images 31", ["31 test images", "has 30"]),
    ("reconstruct plain --images 99999999999999", ["images is 99999999999999"]),
    ("interpolate", ["at least one"]),
    ("interpolate plain missing --pairs 3", ["missing is not a directory"]),
    ("interpolate plain --pairs 0", ["pairs is 0"]),
    ("interpolate plain --pairs 16", ["32 test images", "has 30"]),
    ("interpolate plain --steps 1", ["steps is 1"]),
    ("interpolate plain --steps 99999999999999", ["steps is 99999999999999", "10,000"]),
    ("interpolate plain --pairs 1 --steps 9999", ["too large", "fewer images"]),
    ("table", ["at least one"]),
    ("table missing", ["missing"]),
    ("table flow plain", ["plain/evaluation.json is missing", "flowvae evaluate plain"]),
    ("table flow --out table.txt", ["table.txt ends in '.txt'", ".md"]),
    ("table flow --out missing/table.md", ["missing/table.md", "No such file"]),
    ("presets all", ["unexpected argument 'all'"]),
    ("demo --minutes -1 --out new", ["minutes is -1"]),
    ("demo --out flow", ["flow already exists"]),
]


@pytest.mark.parametrize(("words", "parts"), REFUSED, ids=[words for words, _ in REFUSED])
def test_a_mistake_is_one_line_and_changes_nothing(words, parts, finished, monkeypatch):
    monkeypatch.chdir(finished)
    before = contents(finished)
    is_refusal(flowvae(*words.split()), *parts)
    assert contents(finished) == before


def test_the_training_split_of_dynamic_data_is_refused(workspace):
    write_images(workspace / "grey.npz", levels=256)
    words = ["--data", "grey.npz", "--binarization", "dynamic", "--steps", "1", "--track", "none"]
    succeeds("train", "vae", *SMALL, *words, "--out", "run")
    refusal = flowvae("evaluate", "run", "--split", "train", "--images", "3", "--samples", "2")
    is_refusal(refusal, "redrawn for every batch", "choose valid or test")
    succeeds("evaluate", "run", "--split", "test", "--images", "3", "--samples", "2")


def replaced(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


DAMAGE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "truncated configuration": (
        lambda run: os.truncate(run / "config.json", 100),
        ["config.json is not valid JSON"],
    ),
    "binary configuration": (
        lambda run: (run / "config.json").write_bytes(bytes(range(256))),
        ["config.json is not valid JSON"],
    ),
    "misspelt configuration": (
        lambda run: replaced(run / "config.json", lambda values: values["model"].update(latnet=3)),
        ["config.json", "latnet", "did you mean latent?"],
    ),
    "truncated weights": (
        lambda run: os.truncate(run / "model.safetensors", 1000),
        ["model.safetensors is damaged"],
    ),
    "weights of another model": (
        lambda run: shutil.copy(run.parent / "flow" / "model.safetensors", run),
        ["model.safetensors is damaged or from another model or version"],
    ),
    "no weights": (lambda run: (run / "model.safetensors").unlink(), ["model.safetensors is missing"]),
}


@pytest.mark.parametrize(
    ("command", "damage"),
    [
        *(("evaluate", damage) for damage in DAMAGE),
        *((command, "truncated weights") for command in ("sample", "reconstruct", "interpolate")),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(command, damage, workspace):
    spoil, parts = DAMAGE[damage]
    spoil(workspace / "plain")
    before = contents(workspace)
    number = ["--pairs" if command == "interpolate" else "--images", "3"]
    is_refusal(flowvae(command, "plain", *number), *parts)
    assert contents(workspace) == before


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "holds no evaluation"),
        ('{"nll": "low"}', "nll is 'low'"),
        ('{"kl": [1]}', "kl is [1]"),
        ('{"images": 1.5}', "images is 1.5"),
        ('{"samples": true}', "samples is True"),
    ],
)
def test_a_damaged_evaluation_is_one_line_that_names_the_file(text, part, workspace):
    (workspace / "flow" / "evaluation.json").write_text(text)
    is_refusal(flowvae("table", "flow"), "flow/evaluation.json", part, "evaluat")


def test_data_of_a_run_that_are_gone_can_be_replaced(workspace):
    file = workspace / "flow" / "config.json"
    config = json.loads(file.read_text())
    config["data"]["data"] = "gone.npz"
    file.write_text(json.dumps(config))
    refused = flowvae("evaluate", "flow")
    is_refusal(refused, "no data set", "gone.npz", "flow was trained on it", "--data names other images")
    words = ["--samples", 2, "--images", 3]
    assert "flow" in succeeds("evaluate", "flow", "--data", "images.npz", *words)


# A disk that is full.


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half(path: Path, text: str, **options: Any) -> None:
    path.write_bytes(text.encode()[: len(text) // 2])
    full()


def half_a_figure(figure: Figure, path: Path, **options: Any) -> None:
    path.write_bytes(b"half")
    full()


@pytest.mark.parametrize(
    ("words", "target", "name", "writer"),
    [
        ("evaluate flow --samples 2 --images 3", Path, "write_text", half),
        ("evaluate plain --samples 2 --images 3", Path, "write_text", half),
        ("evaluate plain --samples 2 --images 3", os, "replace", full),
        ("table flow --out table.json", Path, "write_text", half),
        ("sample flow --images 3 --out picture.png", Figure, "savefig", half_a_figure),
        ("reconstruct flow --images 3", Figure, "savefig", half_a_figure),
        ("interpolate flow --pairs 3", Figure, "savefig", half_a_figure),
        ("train vae --steps 1 --data images.npz --out new", os, "replace", full),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_no_half_a_file(
    words, target, name, writer, workspace, monkeypatch
):
    (workspace / "picture.png").write_bytes(b"old")
    before = contents(workspace)
    monkeypatch.setattr(target, name, writer)
    is_refusal(flowvae(*words.split()), "No space left on device", "free some disk space")
    assert contents(workspace) == before


@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate"])
def test_no_picture_is_made_of_what_is_not_finite(command, workspace):
    """Weights that are finite, and too large for a product of two of them."""
    path = workspace / "plain" / "model.safetensors"
    weights = {name: torch.full_like(value, 3e38) for name, value in load_file(path).items()}
    save_file(weights, path)
    few = ["--pairs", 2] if command == "interpolate" else ["--images", 4]
    is_refusal(flowvae(command, "plain", *few), "images that are not finite")
    assert not list((workspace / "plain").glob("*.png"))
