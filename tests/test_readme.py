"""The Python of the README runs as it stands there, block after block, and does what the text says."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import REPOSITORY, blocks, run_blocks

from flowvae.forms import read_training
from flowvae.models.registry import preset
from flowvae.parts import to_dict

BLOCKS = blocks(REPOSITORY / "README.md")


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, Any]:
    """What the blocks define."""
    return run_blocks("README.md", BLOCKS, tmp_path_factory.mktemp("readme"))


def test_blocks_run_and_give_what_they_promise(names):
    assert len(BLOCKS) == 3
    assert names["densities"].posterior.shape == (5, 16)
    scores = names["scores"]
    assert scores["samples"] == 10
    assert scores["images"] == 100
    assert 0 < scores["nll"] <= scores["negative_elbo"] < 560
    assert isinstance(names["stretched"].posterior.flow, names["Stretch"])
    assert 0 < names["of_stretched"]["nll"] <= names["of_stretched"]["negative_elbo"] < 560


def test_own_flow_obeys_the_laws_of_flows(names):
    dimension = 5
    flow = names["Stretch"](dimension)
    z = torch.randn(2, 3, dimension, dtype=torch.float64, requires_grad=True)
    context = torch.randn(3, dimension, dtype=torch.float64)
    moved, log_determinant = flow(z, context)
    # Element by element: the Jacobian is the diagonal of derivatives.
    (derivative,) = torch.autograd.grad(moved.sum(), z)
    torch.testing.assert_close(log_determinant, derivative.log().sum(2))
    back, inverse_log_determinant = flow.inverse(moved, context)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(inverse_log_determinant, -log_determinant)
    same, nothing = flow(z, torch.zeros_like(context))
    torch.testing.assert_close(same, z)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))


def pages() -> list[Path]:
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    relative = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    missing = [link for link in relative if link and not (page.parent / link).exists()]
    assert not missing


def trainings() -> list[str]:
    """The words after ``flowvae train`` of every command that begins a run of a preset."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"^flowvae train (?!--|\w+:)(.*)$", text, re.MULTILINE)
    return found


@pytest.mark.parametrize("words", trainings())
def test_trainings_have_options_that_there_are(words):
    name, *options = shlex.split(words, comments=True)
    chosen = read_training(preset("realnvp-5" if name == "PRESET" else name), options, "flowvae train")
    config = chosen.config
    values = {**to_dict(config.data), **to_dict(config.model), **to_dict(config.training), "out": chosen.out}
    for option in re.split(r"(?:^| )--", " ".join(options))[1:]:
        key, *given = option.split()
        taken = values[key.replace("-", "_")]
        expected = taken if isinstance(taken, tuple) else [] if taken is True else [taken]
        assert [type(part)(word) for part, word in zip(expected, given, strict=True)] == list(expected), (
            option
        )
