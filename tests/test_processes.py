"""Several processes that train one run."""

import pytest
from command_line import SMALL, write_images
from processes import ACCELERATE, TORCHRUN, run

from flowvae.runs import read_metrics


@pytest.mark.parametrize("launcher", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)])
def test_two_processes_train_one_run(launcher, tmp_path):
    write_images(tmp_path / "images.npz")
    words = ["train", "vae", *SMALL, "--data", "images.npz", "--steps", 6, "--track", "none", "--out", "two"]
    ended = run(*words, launcher=launcher, folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.err.count("\n2 processes\n") == 1
    assert ended.out == "two is trained; score it with: flowvae evaluate two\n"
    lines = [(line["split"], line["step"]) for line in read_metrics(tmp_path / "two")]
    assert lines == [("valid", 3), ("train", 6), ("valid", 6)]
