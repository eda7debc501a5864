"""What the explorer computes, apart from its page."""

import base64
import io
import json
import math
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SMALL, flowvae, is_refusal, succeeds
from made_runs import CONFIG, SPEC, moved_model
from pages import REPOSITORY, blocks, run_blocks
from PIL import Image
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.densities import FlowPosterior, FlowPrior
from flowvae.errors import UserError
from flowvae.evaluation.scoring import score
from flowvae.explorer import images, scoring
from flowvae.explorer.charts import histogram
from flowvae.explorer.differences import differences
from flowvae.explorer.explored import Explored, open_runs, seeded
from flowvae.explorer.latent_plane import grid, nearest_labels, plane_through, principal_plane
from flowvae.explorer.unrolled import MASSES, Unrolled, contours, directions, project, unroll
from flowvae.models import Coded
from flowvae.models.real_nvp import RealNVPDensityOptions
from flowvae.models.registry import build_model, preset
from flowvae.runs import create, write_weights

# Images on their way


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 256), (3, 256)])
def test_an_image_comes_back_from_the_pad_as_it_was(channels, levels):
    image = torch.randint(levels, (channels, 6, 4)).float() / (levels - 1)
    torch.testing.assert_close(images.from_text(images.to_text(image), (channels, 6, 4), levels), image)


def test_pixels_of_the_pad_become_those_of_the_model():
    text = base64.b64encode(bytes([0, 100, 200, 255])).decode()
    assert images.from_text(text, (1, 2, 2), 2).flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", None, 7, "AAAAAA=="])
def test_what_is_no_image_of_the_pad_is_refused(text):
    with pytest.raises(UserError, match="no image yet"):
        images.from_text(text, (1, 2, 3), 2)


def test_a_sheet_holds_each_image_where_it_belongs():
    shades = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0])
    sheet = images.canvas(shades.view(5, 1, 1, 1).expand(5, 1, 2, 3), columns=3)
    assert sheet.shape == (4, 9, 1)
    assert sheet[0, ::3, 0].tolist() == [255, 204, 153]
    assert sheet[2, ::3, 0].tolist() == [102, 0, 255], "an empty place is paper"


def written(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def digit(paper: int, ink: int, side: int = 80) -> np.ndarray:
    """A thick L."""
    pixels = np.full((side, side), paper, np.uint8)
    pixels[side // 4 : -side // 4, side // 4 : side // 2] = ink
    pixels[side // 2 : -side // 4, side // 4 : -side // 4] = ink
    return pixels


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (200, 90)])
def test_an_upload_is_ink_on_paper_whichever_is_darker(paper, ink, tmp_path):
    image = images.from_file(written(tmp_path / "l.png", digit(paper, ink)), (1, 8, 8), 2)
    expected = torch.from_numpy(digit(0, 1, side=8)).float()
    torch.testing.assert_close(image[0], expected)


def test_an_upload_fits_without_being_stretched(tmp_path):
    pixels = np.zeros((40, 80), np.uint8)
    pixels[10:30, 20:60] = 255
    image = images.from_file(written(tmp_path / "wide.png", pixels), (1, 8, 8), 2)
    assert image[0].sum(0).tolist() == [0, 0, 2, 2, 2, 2, 0, 0]


@pytest.mark.parametrize(("wide", "high"), [(2000, 10), (10, 2000), (60, 1), (1, 60)])
def test_a_long_thin_upload_keeps_a_pixel_across(wide, high, tmp_path):
    bright = np.arange(max(wide, high)) < max(wide, high) // 4
    pixels = np.broadcast_to(255 * bright[:, None] if high > wide else 255 * bright, (high, wide))
    image = images.from_file(written(tmp_path / "thin.png", pixels.astype(np.uint8)), (1, 8, 8), 2)[0]
    assert sorted((image if high > wide else image.T).sum(0).tolist()) == [0] * 7 + [2]


def test_an_upload_of_sixteen_bits_is_refused(tmp_path):
    path = written(tmp_path / "deep.png", digit(0, 255).astype(np.uint16) * 257)
    with pytest.raises(UserError, match=r"more than 8 bits a pixel \(mode I;16\)"):
        images.from_file(path, (1, 8, 8), 2)


def test_an_empty_sheet_has_no_ink(tmp_path):
    assert not images.from_file(written(tmp_path / "white.png", digit(255, 255)), (1, 8, 8), 2).any()


def test_what_is_transparent_is_paper(tmp_path):
    opaque = np.zeros((8, 8, 4), np.uint8)
    opaque[2:4, 2:6, 3] = 255  # black ink; elsewhere black too, but invisible
    image = images.from_file(written(tmp_path / "alpha.png", opaque), (1, 8, 8), 2)
    assert image[0].nonzero().tolist() == [[row, column] for row in (2, 3) for column in range(2, 6)]


def test_colours_of_an_upload_stay(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = images.from_file(written(tmp_path / "colours.png", pixels), (3, 8, 8), 256)
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy() * 255, pixels, atol=1e-3)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"hello", "cannot be read as an image"), (b"\x89PNG\r\n\x1a\n" + bytes(50), "cannot")],
)
def test_a_file_that_is_no_image_is_refused(content, said, tmp_path):
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        images.from_file(path, (1, 8, 8), 2)


@pytest.mark.parametrize(("side", "said"), [(10_000, "10,000 x 10,000 pixels"), (20_000, "too many pixels")])
def test_a_hundred_megapixels_are_refused_before_they_are_decoded(side, said, tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90_000_000)
    Image.new("1", (side, side)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=said):
        images.from_file(path, (1, 8, 8), 2)


# The latent plane


def test_the_principal_plane_lies_along_what_varies_most():
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    scales = torch.tensor([5.0, 3.0, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    codes = torch.randn(5000, 6, dtype=torch.float64) * scales @ axes + 7
    plane = principal_plane(codes)
    torch.testing.assert_close(plane.origin, codes.mean(0))
    for direction, scale, axis in ((plane.across, 5, axes[0]), (plane.up, 3, axes[1])):
        assert direction.norm().item() == pytest.approx(scale, rel=0.05)
        assert abs(direction @ axis).item() == pytest.approx(scale, rel=0.05)
    spread = plane.coordinates(codes).std(0)
    torch.testing.assert_close(spread, torch.ones_like(spread))


def test_coordinates_lead_back_to_where_a_point_of_the_plane_came_from():
    plane = plane_through(*torch.randn(3, 5, dtype=torch.float64))
    x, y = torch.randn(2, 9, dtype=torch.float64)
    torch.testing.assert_close(plane.coordinates(plane.at(x, y)), torch.stack([x, y], 1))


def test_the_plane_through_three_points_has_them_at_its_corners():
    corners = torch.randn(3, 4)
    plane = plane_through(*corners)
    at = plane.at(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(at, corners)


def test_one_dimension_has_a_plane_that_leads_nowhere():
    assert not principal_plane(torch.randn(10, 1)).up.any()


def test_a_point_takes_the_label_of_its_nearest_neighbour():
    codes = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    points = torch.tensor([[1.0, 1.0], [7.0, 2.0], [4.0, 0.0]])
    assert nearest_labels(points, codes, torch.tensor([3, 8])).tolist() == [3, 8, 3]
    assert len(grid(-1, 1, 3)[0]) == 9


# The posterior unrolled


def test_samples_are_followed_transformation_by_transformation():
    model = moved_model().eval()  # two couplings and a batch norm are one transformation
    unrolled = unroll(model, torch.zeros(1, 8, 8), 7, seeded(1))
    assert unrolled.z.shape == (2, 7, 3)
    with torch.no_grad():
        z, log_density = model.posterior(model.encoder(torch.zeros(1, 1, 8, 8)), 7, seeded(1))
    torch.testing.assert_close(unrolled.z[-1], z[:, 0])
    torch.testing.assert_close(unrolled.log_density[-1], log_density[:, 0])
    assert isinstance(model.posterior, FlowPosterior)
    with torch.no_grad():
        _, context = model.posterior.parameters_of(model.encoder(torch.zeros(1, 1, 8, 8)))
        _, log_determinant = model.posterior.flow(unrolled.z[0].unsqueeze(1), context)
    torch.testing.assert_close(unrolled.log_determinants, log_determinant.mean(0))


def stretched(scales: list[float]) -> tuple[Unrolled, Tensor]:
    """A cloud that a linear map stretches along directions of its own, given as the rows of a matrix."""
    size = len(scales)
    axes = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    spread = torch.rand(size, dtype=torch.float64) + 0.5
    z = torch.randn(20_000, size, dtype=torch.float64) * spread
    moved = z / spread @ axes * torch.tensor(scales, dtype=torch.float64) @ axes.T * spread + 3
    return Unrolled(torch.stack([z, moved]), torch.zeros(2, len(z))), axes.T / spread


def test_a_code_of_more_dimensions_than_samples_has_a_plane():
    torch.manual_seed(0)
    z = torch.randn(200, 500)
    axis = torch.nn.functional.normalize(torch.randn(500), dim=0)
    moved = z + 3 * (z @ axis).unsqueeze(1) * axis
    functionals = directions(Unrolled(torch.stack([z, moved]), torch.zeros(2, 200)))
    assert torch.isfinite(functionals).all()
    assert torch.nn.functional.cosine_similarity(functionals[0], axis, dim=0).abs() > 0.95


def test_the_plane_shows_the_directions_that_the_flow_changes_most():
    unrolled, axes = stretched([1.0, 4.0, 1.1, 0.9, 0.1])
    functionals = directions(unrolled)
    for functional, axis in zip(functionals, axes[[1, 4]], strict=True):
        cosine = torch.nn.functional.cosine_similarity(functional, axis, dim=0)
        assert abs(cosine).item() > 0.99
    points = project(unrolled, functionals)
    torch.testing.assert_close(torch.cov(points[0].T), torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert points[1].std(0).tolist() == pytest.approx([4, 0.1], rel=0.05)
    torch.testing.assert_close(points[0].mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)


def test_one_dimension_cannot_be_unrolled_in_a_plane():
    with pytest.raises(UserError, match="one dimension"):
        directions(Unrolled(torch.randn(2, 50, 1), torch.zeros(2, 50)))


def test_contours_of_a_gaussian_are_circles_around_their_share_of_it():
    levels = contours(torch.randn(60_000, 2))
    for mass, lines in zip(MASSES, levels, strict=True):
        (line,) = [line for line in lines if len(line) > 20]
        radii = np.hypot(*np.array(line).T)
        assert radii.mean() == pytest.approx(math.sqrt(-2 * math.log(1 - mass)), rel=0.06)
        assert radii.std() < 0.12


def test_each_step_of_a_posterior_has_its_own_scale():
    pytest.importorskip("gradio")
    from flowvae.explorer.views.posterior import _extents

    cloud = torch.randn(1000, 2)
    small, large = _extents(torch.stack([cloud * 0.01, cloud * torch.tensor([100.0, 1.0]) + 7]))
    assert 0.04 < small[1] - small[0] < 0.1
    assert 400 < large[1] - large[0] < 1000
    assert 4 < large[3] - large[2] < 10
    assert (large[2] + large[3]) / 2 == pytest.approx(7, abs=0.5)


# Scores


def test_both_tails_of_the_test_images_look_out_of_distribution():
    others = torch.arange(1000.0)
    assert scoring.verdict(scoring.place(500, others)) is None
    assert "less likely than 100%" in str(scoring.verdict(scoring.place(2000, others)))
    assert "more likely than 100%" in str(scoring.verdict(scoring.place(-1, others)))


@pytest.fixture
def run(workspace, monkeypatch) -> Explored:
    """A run without kept scores, and an empty cache."""
    monkeypatch.setenv("FLOWVAE_CACHE", "cache")
    (run,) = open_runs([Path("flow")])
    return replace(run, scores=None)


def test_test_images_are_scored_piece_by_piece_and_once(run, monkeypatch):
    reference = scoring.Reference(run)
    assert list(reference.progress()) == [4, 8, 12, 16, 20, 24, 28, 30]
    others = reference.scores()
    alone = score(run.model, run.sample_images, scoring.SAMPLES, seeded(0))["nll"]
    torch.testing.assert_close(others, alone, atol=0, rtol=0)
    monkeypatch.setattr(scoring, "score", lambda *_: pytest.fail("scored again"))
    kept = scoring.Reference(run).scores()
    assert torch.equal(kept, others)


def test_requests_share_the_scoring_of_test_images(run, monkeypatch):
    scored = []

    def counting(model, images, *others):
        scored.extend(images)
        return score(model, images, *others)

    monkeypatch.setattr(scoring, "score", counting)
    reference = scoring.Reference(run)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: reference.scores(), range(4)))
    assert len(scored) == 30
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("damage", ["cut", "other length", "not finite", "not an array"])
def test_scores_in_the_cache_are_checked(run, damage):
    others = scoring.Reference(run).scores()
    (file,) = Path("cache/explorer").iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "not an array":
        file.write_bytes(b"no array")
    else:
        np.save(file, np.zeros(7) if damage == "other length" else np.full(30, np.nan))
    again = scoring.Reference(run).scores()
    assert torch.equal(again, others)


def test_other_weights_have_other_scores(run):
    others = scoring.Reference(run).scores()
    with torch.no_grad():
        next(iter(run.model.parameters())).add_(0.5)
    moved = scoring.Reference(run).scores()
    assert not torch.equal(moved, others)


def test_without_a_cache_images_are_scored_all_the_same(run):
    Path("cache").write_text("not a directory")
    others = scoring.Reference(run).scores()
    assert others.shape == (30,)


def test_scores_of_an_evaluation_are_taken(workspace):
    succeeds("evaluate", "flow", "--samples", 2)
    (run,) = open_runs([Path("flow")])
    reference = scoring.Reference(run)
    others = reference.scores()
    assert (reference.samples, len(others)) == (2, 30)
    assert others.mean().item() == pytest.approx(run.evaluation["nll"])
    (elsewhere,) = open_runs([Path("flow")], "images.npz")
    assert elsewhere.scores is None, "the evaluation was of the run's own images"


def test_images_with_missing_pixels_are_compared_with_scores_made_in_the_same_way(workspace, monkeypatch):
    """The evaluation scores known pixels only, and the page whole images."""
    monkeypatch.setenv("FLOWVAE_CACHE", "cache")
    data = ["--data", "images.npz", "--hide", 0.3, "--steps", 2, "--track", "none"]
    succeeds("train", "vae", *SMALL, *data, "--out", "hidden")
    succeeds("evaluate", "hidden", "--samples", 2)
    (run,) = open_runs([Path("hidden")])
    shown = torch.stack([run.test_image(int(number)) for number in run.sample])
    reference = scoring.Reference(run)
    alone = score(run.model, shown, reference.samples, seeded(0))["nll"]
    torch.testing.assert_close(reference.scores(), alone, atol=0, rtol=0)


def test_exact_scores_of_an_evaluation_are_taken(kinds):
    succeeds("evaluate", "pixels")
    (run,) = open_runs([Path("pixels")])
    assert "samples" not in run.evaluation
    others = scoring.Reference(run).scores()
    assert others.mean().item() == pytest.approx(run.evaluation["nll"])


def test_several_files_become_a_table(run, tmp_path):
    pytest.importorskip("gradio")
    from flowvae.explorer.views.score import _files

    paths = [written(tmp_path / f"<{ink}>.png", digit(255, ink)) for ink in (0, 100)]
    shown = _files(scoring.Reference(run), paths)
    assert shown.count("<tr>") == 3
    assert "&lt;100&gt;.png" in shown
    address = shown.split("href='data:text/csv;base64,")[1].split("'")[0]
    head, *rows = base64.b64decode(address).decode().splitlines()
    assert head == "file,-ELBO,-log p(x),% of test images more likely"
    assert [row.split(",")[0] for row in rows] == ["<0>.png", "<100>.png"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png: the file cannot be read"):
        _files(scoring.Reference(run), [*paths, broken])
    with pytest.raises(UserError, match="101 files at once"):
        _files(scoring.Reference(run), [paths[0]] * 101)


def test_an_upload_is_shown_in_its_own_colours(tmp_path):
    path = written(tmp_path / "wide.png", np.full((300, 600, 3), (200, 30, 30), np.uint8))
    address = images.preview(path)
    with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as picture:
        assert picture.size == (256, 128)
        assert picture.getpixel((5, 5)) == (200, 30, 30)


def test_pixels_that_depend_on_each_other_are_filled_in(kinds):
    pytest.importorskip("gradio")
    from flowvae.explorer.views.fill_in import _filled, _upper_half

    causal = moved_model(CONFIG.revised(likelihood="causal", causal_channels=4, causal_blocks=1)).eval()
    run = replace(kinds[0], title="causal", model=causal)
    shape = run.dataset.shape
    sheet = _filled(run, f"{images.to_text(torch.zeros(shape))}|{_upper_half(shape)}", 4, 20, 0)
    assert sheet.count("<figure>") == 5, "the mean and four completions"
    assert "50% of the pixels are hidden" in sheet


def test_a_chart_marks_where_the_image_falls():
    chart = histogram([1.0, 2.0, 3.0], 9.0, "a < b")
    assert "this image: 9.0" in chart
    assert "a &lt; b" in chart
    assert chart.count("<rect") == 30


# Opening runs


def test_runs_are_opened_with_their_data_once(workspace):
    flow, plain = open_runs([Path("flow"), Path("plain")])
    assert flow.dataset is plain.dataset
    assert (flow.title, flow.model.transformations, plain.model.transformations) == ("flow", 2, 0)
    assert flow.evaluation["samples"] == 3
    assert plain.evaluation == {"name": "plain"}
    assert flow.sample_codes.shape == (30, 3)
    assert sorted(flow.sample.tolist()) == list(range(30))
    torch.testing.assert_close(flow.test_image(31), flow.test_image(1))


def test_runs_of_other_images_are_explored_apart(workspace):
    shutil.copytree("flow", "other")
    text = Path("other/config.json").read_text()
    Path("other/config.json").write_text(text.replace("8\n  ]", "12\n  ]", 1))
    with pytest.raises(UserError, match="other has images of another shape than flow"):
        open_runs([Path("flow"), Path("other")])


def test_runs_of_other_test_images_are_explored_apart(workspace):
    np.savez("grey.npz", images=np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8))
    values = json.loads(Path("flow/config.json").read_text())
    for binarization in ("static", "dynamic", "threshold"):
        shutil.copytree("flow", binarization)
        values["data"] |= {"data": "grey.npz", "binarization": binarization}
        (Path(binarization) / "config.json").write_text(json.dumps(values))
    assert len(open_runs([Path("static"), Path("dynamic")])) == 2  # of which the test images are the same
    for other in ("flow", "threshold"):
        with pytest.raises(UserError, match=f"{other} has other test images than static"):
            open_runs([Path("static"), Path(other)])


@pytest.mark.parametrize(
    ("options", "shared"),
    [({"value_range": [0.0, 255.0]}, False), ({"hide": 0.3}, False), ({"training_images": 20}, True)],
    ids=["value range", "hidden pixels", "fewer training images"],
)
def test_each_run_has_the_data_that_its_options_describe(options, shared, workspace):
    np.savez("grey.npz", images=np.random.default_rng(0).integers(0, 200, (90, 8, 8)) / 200 * 255)
    values = json.loads(Path("plain/config.json").read_text())
    for name, own in (
        ("one", {"value_range": [0.0, 300.0]}),
        ("other", {"value_range": [0.0, 300.0]} | options),
    ):
        shutil.copytree("plain", name)
        values["data"] = {**values["data"], "data": "grey.npz", "hide": None, "training_images": None, **own}
        (Path(name) / "config.json").write_text(json.dumps(values))
    opened = [Path("one"), Path("other")]
    if not shared:
        with pytest.raises(UserError, match="other has other test images than one"):
            open_runs(opened)
        return
    one, other = open_runs(opened)
    assert torch.equal(one.dataset.test.images, other.dataset.test.images)
    assert (len(one.dataset.train.images) > 20, len(other.dataset.train.images)) == (True, 20)


def test_mistakes_are_one_line(workspace):
    is_refusal(flowvae("explore"), "directory of at least one")
    is_refusal(flowvae("explore", "nowhere"), "nowhere is not a directory")
    is_refusal(flowvae("explore", "flow", "--port", 0), "port is 0", "1 to 65535")
    is_refusal(flowvae("explore", "flow", "--data", "larger.npz"), "12 x 12", "8 x 8")


def test_without_gradio_one_line_says_how_to_get_it(workspace, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    is_refusal(flowvae("explore", "flow"), "pip install 'flowvae[explore]'")


# Views, by what models can do


@pytest.fixture
def kinds(workspace) -> list[Explored]:
    """An autoencoder, and a PixelCNN of the same images."""
    config = preset("pixelcnn").revised(causal_channels=8, causal_blocks=1, data="images.npz", steps=1)
    assert config.model is not None
    create(Path("pixels"), config, SPEC, "pixelcnn")
    write_weights(Path("pixels"), build_model(config.model, SPEC))
    return open_runs([Path("flow"), Path("pixels")])


def test_a_view_is_built_for_the_runs_that_can_do_what_it_needs(kinds):
    pytest.importorskip("gradio")
    from flowvae.explorer.views import VIEWS

    density = build_model(RealNVPDensityOptions(transformations=1, hidden=4), DataSpec((1, 8, 8)))
    opened = [*kinds, replace(kinds[0], title="density", model=density)]
    assert {title: [run.title for run in view.runs(opened)] for title, view in VIEWS.items()} == {
        "Runs": ["flow", "pixels", "density"],
        "Latent plane": ["flow"],
        "Interpolate": ["flow", "density"],
        "Posterior": ["flow"],
        "Score": ["flow", "pixels", "density"],
        "Samples": ["flow", "pixels", "density"],
        "Fill in": ["flow", "pixels"],
    }


def test_a_score_has_the_numbers_that_the_model_gives(kinds):
    pytest.importorskip("gradio")
    from flowvae.explorer.views.score import _numbers

    flow, pixels = kinds
    image = flow.test_image(3).unsqueeze(0)
    with torch.no_grad():
        exact = -pixels.model.log_prob(image)
    (((name, value, note),), nll, _) = _numbers(pixels.model, image, 5)
    assert nll == float(value)
    assert (name, note) == ("-log p(x)", "exact")
    torch.testing.assert_close(value.float(), exact)
    values = {name: float(value) for name, value, _ in _numbers(flow.model, image, 5)[0]}
    assert list(values) == ["-log p(x|z)", "KL", "-ELBO", "-log p(x), S = 5", "effective samples"]
    assert 1 <= values["effective samples"] <= 5
    scored = score(flow.model, image, 5, seeded(0))
    assert values["-ELBO"] == scored["negative_elbo"].item()
    assert values["-log p(x), S = 5"] == scored["nll"].item(), "as on the command line"
    assert values["-ELBO"] == pytest.approx(values["-log p(x|z)"] + values["KL"])
    density = RealNVPDensityOptions(transformations=1, hidden=4).build(DataSpec((1, 8, 8))).eval()
    names = [name for name, _, _ in _numbers(density, image, 5)[0]]
    assert names == ["-ELBO", "-log p(x), S = 5", "effective samples"], (
        "without a code there are no two terms"
    )


def test_settings_that_one_run_has_not_got_are_left_empty(kinds):
    flow, pixels = (run.config for run in kinds)
    told = {name: (one, other) for name, one, other in differences(flow, pixels)}
    assert told["system"] == ("vae", "pixelcnn")
    assert told["posterior"] == ("realnvp", "")
    assert told["causal_blocks"] == ("", 1)
    assert told["steps"] == (6, 1)
    assert "seed" not in told, "the same in both"
    assert "epochs" not in told, "None in both"
    assert not differences(flow, flow)


def test_samples_are_those_of_the_seed_whatever_else_is_asked(kinds):
    """Requests come in several threads."""
    pytest.importorskip("gradio")
    from flowvae.explorer.views.samples import _sheet

    asked = [(run, seed) for run in kinds for seed in range(3)]
    before = torch.random.get_rng_state()
    alone = [_sheet(run, 4, 1.0, seed) for run, seed in asked]
    assert len(set(alone)) == len(asked)
    with ThreadPoolExecutor(len(asked)) as threads:
        at_once = list(threads.map(lambda each: _sheet(each[0], 4, 1.0, each[1]), asked))
    assert at_once == alone
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(UserError, match="no code to apply a temperature to"):
        _sheet(kinds[1], 4, 0.5, 0)


def test_a_model_without_a_bound_walks_without_a_curve(kinds):
    pytest.importorskip("gradio")
    from flowvae.explorer.views.interpolate import STEPS, _strip

    class Plain(Coded):
        """Images are their own codes."""

        def center(self, images):
            return images.flatten(1)

        def decode(self, codes, noise=None):
            return codes.view(-1, 1, 8, 8)

        def path(self, first, second, steps):
            weights = torch.linspace(0, 1, steps).view(1, -1, 1)
            return torch.lerp(first.flatten(1).unsqueeze(1), second.flatten(1).unsqueeze(1), weights)

    flow = kinds[0]
    ends = [images.to_text(flow.test_image(number)) for number in (0, 1)]
    assert len(np.array(_strip(flow, *ends)["scores"])) == STEPS
    assert _strip(replace(flow, model=Plain()), *ends)["scores"] == []


# The page, without a browser


BUILD = """
import json, pathlib, sys
from flowvae.explorer.explored import open_runs
from flowvae.explorer.page import build_app

told = []
for name in sys.argv[1:]:
    page = build_app(open_runs([pathlib.Path(name)])).routes[-1].app.get_blocks()
    config = page.get_config_file()
    parts = {"parts": config["components"], "listeners": config["dependencies"], "kept": page.delete_cache}
    told.append(parts)
json.dump(told, sys.stdout, default=str)
"""


def told_of(*names: str) -> list[dict[str, Any]]:
    """What gradio is told of a page of each run; in another process, since it leaves loops open."""
    pytest.importorskip("gradio")
    command = [sys.executable, "-c", BUILD, *names]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def test_pages_are_built_for_few_images_lose_no_change_and_have_only_tabs_that_a_run_fills(kinds):
    told, of_pixels = told_of("flow", "pixels")
    tabs = [part["props"]["label"] for part in of_pixels["parts"] if part["type"] == "tabitem"]
    assert tabs == ["Runs", "Score", "Samples", "Fill in"]
    numbers = [part["props"] for part in told["parts"] if part["type"] == "number"]
    of_images = [number for number in numbers if number["maximum"] == 29]
    assert len(of_images) == 8
    for number in of_images:
        assert 0 <= number["value"] <= 29
    shown = {part["id"] for part in told["parts"] if part["type"] == "html"}
    listened = [
        (event, listener["trigger_mode"])
        for listener in told["listeners"]
        for _, event in listener["targets"]
        if shown & set(listener["outputs"])
    ]
    assert len(listened) > 30
    assert {mode for event, mode in listened if event not in ("select", "load")} == {"always_last"}
    assert "release" not in {event for event, _ in listened}, "sliders are moved by keys, too"
    assert told["kept"] == [3600, 3600], "uploads do not stay"


def test_two_images_and_the_middle_of_a_flow_prior_span_a_plane(workspace):
    pytest.importorskip("gradio")
    from flowvae.explorer.views.plane import map_of

    torch.manual_seed(0)
    model = moved_model(CONFIG.revised(prior="realnvp", prior_transformations=1)).eval()
    run = replace(open_runs([Path("flow")])[0], model=model)
    drawn = map_of(run, False, (1, 2, None))
    middle = torch.tensor(drawn["origin"]) + torch.tensor(drawn["up"])
    assert isinstance(model.prior, FlowPrior)
    with torch.no_grad():
        base, _ = model.prior.flow(middle.view(1, 1, 3))
    torch.testing.assert_close(base, torch.zeros(1, 1, 3), atol=1e-5, rtol=0)


def test_images_without_a_label_lend_the_plane_no_colour(workspace):
    pytest.importorskip("gradio")
    from flowvae.explorer.views.plane import map_of

    def sheet(labels: Tensor | None) -> object:
        run = open_runs([Path("flow")])[0]
        vars(run)["sample_labels"] = labels  # of a cached property
        return map_of(run, True, [])["sheet"]

    ones = torch.ones(len(open_runs([Path("flow")])[0].sample), dtype=torch.int64)
    assert sheet(-ones) == sheet(None)
    assert sheet(torch.where(torch.arange(len(ones)) == 3, ones, -ones)) == sheet(ones) != sheet(None)


def test_a_point_of_the_plane_is_decoded(workspace):
    pytest.importorskip("gradio")
    from flowvae.explorer.views.plane import decoder

    decode_code = decoder(open_runs([Path("flow")]))
    assert decode_code({"run": "flow", "code": [0.0] * 3})["image"].startswith("data:image/png")
    assert "3 numbers" in decode_code({"run": "flow", "code": [0.0]})["error"]
    assert "load the page again" in decode_code({"run": "gone", "code": [0.0]})["error"]


def test_the_page_about_it_runs_as_it_stands(tmp_path):
    defined = run_blocks("explorer.md", blocks(REPOSITORY / "docs" / "explorer.md"), tmp_path)
    assert defined["points"].shape == (3, 500, 2)
