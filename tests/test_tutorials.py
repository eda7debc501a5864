"""The tutorials, the notebook and the page on likelihoods run as they stand, and do what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pages import REPOSITORY, blocks, cells, run_blocks

from flowvae.runs import Run

TUTORIALS = REPOSITORY / "docs" / "tutorials"


def run(name: str, folder: Path):
    return run_blocks(name, blocks(TUTORIALS / name), folder)


def test_first_posterior(tmp_path, capsys):
    defined = run("first-posterior.md", tmp_path)
    printed = capsys.readouterr().out
    assert "gaussian " in printed
    assert "realnvp " in printed
    assert defined["scores"]["nll"] < defined["scores"]["negative_elbo"] < 206  # what the mean image costs
    assert defined["z"].shape == (1000, 1, 2)
    assert torch.isfinite(defined["log_density"]).all()
    assert (tmp_path / "posterior.png").stat().st_size > 1000


def test_own_flow(tmp_path):
    defined = run("own-flow.md", tmp_path)
    assert defined["chain"].context_features == 4 + 16 + 4
    trained = Run(tmp_path / "runs" / "rotations")
    losses = [record["negative_elbo"] for record in trained.records if record["split"] == "train"]
    assert losses[-1] < losses[0] - 5
    rotation = defined["trained"].posterior.flow.flows[0]
    assert isinstance(rotation, defined["Rotation"])
    assert defined["scores"]["nll"] < defined["scores"]["negative_elbo"] < 206
    assert torch.isfinite(defined["update"].loss)


def test_own_model(tmp_path):
    defined = run("own-model.md", tmp_path)
    trained, scores = defined["model"], defined["scores"]
    assert trained.logits.shape == (40, 784), "the option of the command line"
    assert Run(tmp_path / "runs" / "mixture").described.options == {"components": 40}
    assert scores["nll"] < 206 - 10  # what the mean image costs
    assert "samples" not in scores, "log p(x) is exact"
    assert "negative_elbo" not in scores
    assert defined["images"].shape == (16, 1, 28, 28)
    # A mixture of one component is independent pixels.
    one = defined["Mixture"]((1, 28, 28), components=1)
    image = torch.ones(2, 1, 28, 28)
    torch.testing.assert_close(one.log_prob(image), one.logits.sigmoid().log().sum(1).expand(2))


def test_own_images(tmp_path):
    defined = run("own-images.md", tmp_path)
    assert len(defined["costs"]) == 30
    assert (tmp_path / "runs" / "bars" / "evaluation.json").exists()
    # What the page promises: noise is dearer than any bar.
    assert defined["strange"].min() > defined["costs"].max()


@pytest.mark.slow
def test_few_labels(tmp_path):
    defined = run("few-labels.md", tmp_path)
    assert len(defined["found"]) == 600
    assert defined["wrong"] <= 12
    assert (tmp_path / "labels.csv").exists()


@pytest.mark.slow
def test_repair(tmp_path):
    defined = run("repair.md", tmp_path)
    assert len(defined["mean"]) == 600
    assert np.mean(defined["errors"]) < 0.5 * np.mean(defined["of_mean_image"])


def test_likelihoods(tmp_path):
    page = REPOSITORY / "docs" / "likelihoods.md"
    gaps = run_blocks(page.name, blocks(page), tmp_path)["gaps"]
    assert gaps.amortization.shape == (4,)
    assert torch.isfinite(gaps.approximation).all()


def test_annealed(tmp_path):
    page = REPOSITORY / "docs" / "annealed.md"
    run_blocks(page.name, blocks(page), tmp_path)


@pytest.mark.slow  # make docs runs the notebooks too, in a kernel
@pytest.mark.parametrize(
    "notebook", sorted((REPOSITORY / "examples").glob("*.ipynb")), ids=lambda path: path.name
)
def test_notebook(notebook, tmp_path):
    if "sklearn" in notebook.read_text(encoding="utf-8"):
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    code = cells(notebook)
    assert len(code) > 3
    defined = run_blocks(notebook.name, code, tmp_path)
    # Nothing is kept of an earlier run, which would not be this one's.
    assert '"outputs": []' in notebook.read_text(encoding="utf-8")
    if notebook.stem == "bent_posteriors":
        assert defined["scores"]["nll"] < 206
    else:
        noise = {f"horizontal-{number:03}.png" for number in range(7, 400, 80)}
        assert {defined["files"][place].name for place in defined["lowest"][:5]} == noise
        assert defined["accuracy"] > 0.9
