"""Experiments and tables of the user's own, from files."""

import json

import pytest
from command_line import NUM_TEST, SMALL, flowvae, is_refusal, succeeds

from flowvae.config_files import read_config
from flowvae.models.registry import preset
from flowvae.runs import Run

YAML = """
preset: realnvp-2
data: images.npz
latent: 3
hidden: 8
learning-rate: 1e-3
flow_batch_norm: true
steps: 2
track: none
"""


@pytest.fixture
def files(workspace):
    (workspace / "mine.yaml").write_text(YAML + "features: 8\nchannels: 4\nbatch_size: 16\n")
    return workspace


def test_a_file_is_the_preset_with_its_options(files):
    options = {"latent": 3, "hidden": 8, "learning_rate": 0.001, "flow_batch_norm": True, "steps": 2}
    sizes = {"features": 8, "channels": 4, "batch_size": 16}
    expected = preset("realnvp-2").revised(data="images.npz", track="none", **options, **sizes)
    assert read_config(files / "mine.yaml") == expected


def test_training_by_a_file_and_by_the_configuration_of_the_run(files):
    succeeds("train", "--config", "mine.yaml", "--steps", 3)
    run = Run("runs/mine")
    assert (run.config.training.steps, run.config.training.learning_rate) == (3, 0.001)
    succeeds("train", "--config", "runs/mine/config.json", "--seed", 1, "--out", "again")
    again = Run("again").config
    assert again == run.config.revised(seed=1)
    is_refusal(flowvae("train", "--config=mine.yaml"), "runs/mine already exists")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("preset: relnvp-2", ["bad.yaml: no preset 'relnvp-2'; did you mean realnvp-2?"]),
        ("latent: 3", ["bad.yaml names no preset"]),
        ("preset: vae\nlaten: 3", ["no option 'laten'; did you mean latent?"]),
        ("preset: vae\nepoch: 3", ["no option 'epoch'; did you mean epochs?"]),
        ("preset: vae\nhidden: 8", ["hidden has no effect with posterior gaussian"]),
        ("preset: vae\nlatent: many", ["latent is 'many'; expected int"]),
        ("preset: vae\nlatent: 3\nlatent: 4", ["bad.yaml is not valid YAML (latent twice in line 3)"]),
        ("preset: vae\nbatch-size: 3\nbatch_size: 4", ["bad.yaml has 'batch_size' twice"]),
        ("preset: vae\nposterior: [iaf]", ["posterior is ['iaf']; did you mean iaf?"]),
        ("preset: vae\n? [1, 2]\n: 3", ["bad.yaml"]),
        ("preset: [vae", ["bad.yaml is not valid YAML", "line 1"]),
        ("- vae", ["expected names and values"]),
        ("!!python/object/apply:os.system [ls]", ["bad.yaml is not valid YAML"]),
    ],
)
def test_what_is_wrong_is_named(text, parts, files):
    (files / "bad.yaml").write_text(text)
    is_refusal(flowvae("train", "--config", "bad.yaml", "--out", "new"), *parts)
    assert not (files / "new").exists()


def test_refusals(files):
    is_refusal(flowvae("train", "vae", "--config", "mine.yaml"), "remove vae")
    is_refusal(flowvae("train", "--config", "mine.yaml", "--resume", "flow"), "remove --resume")
    is_refusal(flowvae("train", "--config", "none.yaml"), "none.yaml is not a file")
    is_refusal(flowvae("train", "--config"), "--config has no value")
    is_refusal(flowvae("reproduce", "tabel1"), "no table or file 'tabel1'; did you mean table1?")


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("a: {preset: vae, seed: 3}", "has seed, which is that of all rows"),
        ("a: {preset: vae, latent: 0}", "row a: latent is 0"),
        ("a/b: vae", "a row 'a/b'"),
        ("a: 3", "row a is 3"),
        ("a: {preset: vae, start_from: my run}", "'my run'; values cannot contain spaces"),
        ("{}", "has no rows"),
    ],
)
def test_rows_are_checked_before_anything_is_trained(row, part, files):
    (files / "rows.yaml").write_text(row)
    is_refusal(flowvae("reproduce", "rows.yaml", "--epochs", 1), part)
    assert not (files / "runs").exists()


@pytest.mark.usefixtures("rows_in_this_process")
def test_a_table_of_ones_own(files):
    options = {
        word[2:].replace("-", "_"): int(value) for word, value in zip(SMALL[::2], SMALL[1::2], strict=True)
    }
    plain = {"preset": "vae", **options}
    rows = {"plain": {**plain, "start_from": None}, "wide": {**plain, "latent": 5}}
    (files / "sizes.yaml").write_text(json.dumps(rows))  # JSON is YAML
    words = [
        "--data",
        "images.npz",
        "--epochs",
        1,
        "--samples",
        2,
        "--images",
        NUM_TEST,
        "--rows",
        "plain",
        "wide",
    ]
    out = succeeds("reproduce", "sizes.yaml", *words)
    assert "plain-seed0" in out
    assert "wide-seed0" in out
    assert Run("runs/sizes/runs/wide-seed0").config == Run("runs/sizes/runs/plain-seed0").config.revised(
        latent=5
    )
    written = (files / "runs/sizes/wide-seed0.json").stat().st_mtime_ns
    succeeds("reproduce", "sizes.yaml", *words)
    assert (files / "runs/sizes/wide-seed0.json").stat().st_mtime_ns == written, (
        "a finished row was made again"
    )
