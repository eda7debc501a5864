"""Runs of the density presets, small: trained, scored, pictured, and started from one another."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from command_line import SMALL_FLOW, flowvae, is_refusal, succeeds, write_images
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.commands import picturing
from flowvae.densities import CausalLikelihood
from flowvae.errors import UserError
from flowvae.evaluation import nearest
from flowvae.models.causal_density import CausalDensity
from flowvae.models.registry import build_model, preset
from flowvae.networks import CausalNetwork
from flowvae.noise import Noise
from flowvae.runs import Run, load

NETWORK = ["--causal-channels", "6", "--causal-blocks", "1"]
CAUSAL = [*SMALL_FLOW, *NETWORK]
FOUR_ORDERS = ["--causal-orders", "4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("densities")
    write_images(folder / "images.npz")
    for name, chosen, sizes in (
        ("density-small", "density-small", [*CAUSAL, *FOUR_ORDERS]),
        ("one-order", "density-small", [*CAUSAL, "--causal-orders", "1"]),
        ("pixelcnn", "pixelcnn", [*NETWORK, "--batch-size", "16"]),
    ):
        words = ["--data", folder / "images.npz", "--steps", 6, "--track", "none", "--out", folder / name]
        succeeds("train", chosen, *sizes, *words)
    return folder


@pytest.fixture
def place(trained, monkeypatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture
def panels(monkeypatch) -> dict[str, Tensor]:
    """The panels, by title, of a picture that would be drawn."""
    kept: dict[str, Tensor] = {}
    monkeypatch.setattr(picturing.figures, "save_panels", lambda given, *rest, **options: kept.update(given))
    return kept


def test_a_run_without_a_code_is_scored_exactly(place):
    succeeds("evaluate", "pixelcnn", "--samples", "3", "--images", "10")
    scores = json.loads((place / "pixelcnn" / "evaluation.json").read_text())
    absent = {"kl", "reconstruction", "negative_elbo", "active_units", "samples"}
    assert not absent & scores.keys(), "it has no code, and nothing is drawn to score it"
    assert scores["bits_per_dim"] == pytest.approx(scores["nll"] / math.log(2) / 64)
    assert scores["nll_standard_error"] > 0
    assert isinstance(load("pixelcnn"), CausalDensity)
    is_refusal(flowvae("reconstruct", "pixelcnn"), "(pixelcnn) has no code for an image")
    is_refusal(flowvae("sample", "pixelcnn", "--show", "crossed"), "(pixelcnn) has no posterior over codes")


@pytest.mark.parametrize("run", ["density-small", "one-order"])
def test_a_run_with_a_causal_likelihood_is_scored(place, run):
    succeeds("evaluate", run, "--samples", "3", "--images", "10")
    scores = json.loads((place / run / "evaluation.json").read_text())
    assert scores["negative_elbo"] == pytest.approx(scores["reconstruction"] + scores["kl"])
    assert scores["nll"] <= scores["negative_elbo"]


@pytest.mark.parametrize("words", ["sample", "sample --show crossed", "sample --show nearest", "reconstruct"])
def test_pictures_of_a_causal_likelihood_are_of_drawn_images(words, place, panels):
    succeeds(*words.split()[:1], "density-small", *words.split()[1:], "--images", "20")
    (shown,) = panels.values()
    assert len(shown) == (20 if "reconstruct" not in words and "nearest" not in words else 40)
    assert set(shown.unique().tolist()) == {0.0, 1.0}


def test_crossed_samples_share_their_codes_and_differ_in_noise(place, panels):
    """Every row is drawn for the same ten codes, with a noise of its own."""
    seen: list[Tensor] = []
    images = CausalLikelihood.images

    def spied(self: CausalLikelihood, z: Tensor, noise: Noise = None) -> Tensor:
        seen.append(z)
        return images(self, z, noise)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalLikelihood, "images", spied)
        succeeds("sample", "density-small", "--show", "crossed", "--images", "30")
    (codes,) = seen
    assert codes.shape == (1, 30, 3)
    codes = codes.unflatten(1, (3, 10))[0]
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])
    rows = next(iter(panels.values())).unflatten(0, (3, 10))
    assert not torch.equal(rows[0], rows[1]), "the noise of the rows is the same"


def test_samples_without_a_causal_likelihood_are_not_crossed(finished):
    is_refusal(flowvae("sample", finished / "plain", "--show", "crossed"), "an autoregressive likelihood")


def test_samples_stand_above_their_nearest_training_images(place, panels):
    succeeds("sample", "density-small", "--show", "nearest", "--images", "10")
    (shown,) = panels.values()
    with torch.no_grad():
        training = Run("density-small").dataset.train.images.float()
    for sample, below in zip(shown[:10], shown[10:], strict=True):
        changed = (training - sample).abs().flatten(1).sum(1)
        assert (below - sample).abs().sum() == changed.min()


def test_nearest_images_in_order():
    images, among = torch.rand(5, 1, 4, 4), torch.rand(50, 1, 4, 4)
    found = nearest(images, among, count=3, chunk=7)
    distances = (images.unsqueeze(1) - among).square().flatten(2).sum(2)
    expected = distances.sort(1)
    assert torch.equal(found.indices, expected.indices[:, :3])
    torch.testing.assert_close(found.distances, expected.values[:, :3])
    grey, set_of_grey = (torch.randint(0, 256, (number, 1, 4, 4), dtype=torch.uint8) for number in (5, 50))
    found = nearest(grey / 255, set_of_grey, count=3, levels=256, chunk=7)
    assert torch.equal(found.indices, nearest(grey / 255, set_of_grey / 255, count=3).indices)
    with pytest.raises(ValueError, match="the set has 1 to 50"):
        nearest(images, among, count=51)


def start(place: Path, out: Path, *words: str):
    given = ["--data", place / "images.npz", "--track", "none", "--start-from", place / "density-small"]
    return flowvae("train", "density-small", *CAUSAL, *FOUR_ORDERS, *given, "--out", out, *words)


def test_a_run_starts_from_the_weights_of_another(place, tmp_path):
    """With a learning rate of next to nothing, it ends where the other did."""
    out = tmp_path / "tuned"
    words = ["--objective", "importance-weighted", "--samples", "2", "--causal-dropout", "0.1"]
    assert start(place, out, "--steps", "2", "--learning-rate", "1e-30", *words).code == 0
    before, after = load(place / "density-small").state_dict(), load(out).state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)
    assert json.loads((out / "config.json").read_text())["training"]["start_from"].endswith("density-small")


def test_a_run_that_started_from_another_goes_on_without_it(trained, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(trained, place)
    assert start(place, tmp_path / "tuned", "--steps", "2").code == 0
    shutil.rmtree(place / "density-small")
    succeeds("train", "--resume", tmp_path / "tuned", "--steps", "4")


def causal_network(run: Path) -> CausalNetwork:
    (found,) = (part for part in load(run).modules() if isinstance(part, CausalNetwork))
    return found


def test_a_run_starts_from_the_weights_of_one_with_fewer_orders(place, tmp_path):
    """The orders of both give every image the same density, and the others one of their own."""
    out = tmp_path / "more"
    words = ["--causal-orders", "9", "--steps", "1", "--learning-rate", "1e-30"]
    assert start(place, out, *words).code == 0
    fewer, more = (causal_network(run) for run in (place / "density-small", out))
    torch.manual_seed(0)
    images, maps = torch.rand(5, 1, 8, 8).round(), torch.randn(5, fewer.condition_channels, 4, 4)

    def log_prob(network: CausalNetwork, order: int) -> Tensor:
        with torch.no_grad():
            return network.log_prob(images, maps, torch.full((5,), order))

    assert fewer.orders == 4
    for order in range(4):
        torch.testing.assert_close(log_prob(more, order), log_prob(fewer, order))
    assert more.order is not None
    assert torch.equal(more.order[4:8], more.order[:4])
    of_all = torch.stack([log_prob(more, order) for order in range(9)])
    assert (of_all[:, None] - of_all).abs().amax(-1).add(torch.eye(9)).min() > 1e-4
    result = flowvae(
        *("train", "density-small", *CAUSAL, "--data", place / "images.npz", "--causal-orders", "2"),
        *("--start-from", place / "density-small", "--steps", "1", "--out", tmp_path / "less"),
    )
    is_refusal(result, "causal_orders = 4", "do not fit 2")


def test_weights_of_another_model_are_refused(place, tmp_path):
    result = start(place, tmp_path / "tuned", "--steps", "2", "--latent", "4")
    is_refusal(result, "latent = 3", "do not fit 4")
    assert not (tmp_path / "tuned").exists()


def test_colours_are_no_symbols():
    model = preset("pixelcnn").model
    assert model is not None
    with pytest.raises(UserError, match="images have 3 channels"):
        build_model(model, DataSpec((3, 8, 8)))
