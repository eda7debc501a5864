"""Pictures: pixels where they belong, axes that show what is compared, whole files or none."""

import errno
import itertools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from flowvae import figures
from flowvae.colours import TEN
from flowvae.errors import UserError
from flowvae.figures import (
    DPI,
    GAP,
    GAP_SHADE,
    save_curves,
    save_groups,
    save_over_images,
    save_panels,
    save_strips,
    tile,
)

SHADE = round(255 * GAP_SHADE)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that would be written."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    return kept


def test_tiles_stand_row_by_row_as_ink_on_paper():
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 4, 5) / 2  # white, grey, black
    canvas = tile(images, columns=2)
    assert canvas.shape == (2 * (4 + GAP) + GAP, 2 * (5 + GAP) + GAP, 1)
    assert (canvas[GAP : GAP + 4, GAP : GAP + 5] == 255).all()
    assert (canvas[GAP : GAP + 4, 2 * GAP + 5 : 2 * GAP + 10] == 128).all()
    assert (canvas[2 * GAP + 4 : 2 * GAP + 8, GAP : GAP + 5] == 0).all()
    assert (canvas[2 * GAP + 4 :, 2 * GAP + 5 :] == SHADE).all(), "a place without an image"
    assert np.isin(canvas[[0, 1, -1]], [SHADE]).all()


def test_pixels_stand_where_they_stood():
    image = torch.rand(1, 1, 4, 5)
    inner = tile(image, columns=1)[GAP:-GAP, GAP:-GAP, 0]
    np.testing.assert_array_equal(inner, (255 * (1 - image[0, 0])).round().numpy())


def test_colours_stay_what_they_are():
    image = torch.rand(1, 3, 4, 5)
    inner = tile(image, columns=1)[GAP:-GAP, GAP:-GAP]
    np.testing.assert_array_equal(inner, (255 * image[0].permute(1, 2, 0)).round().numpy())


def test_nan_is_no_image():
    assert (tile(torch.full((1, 1, 4, 4), torch.nan), columns=1) == SHADE).all()


def test_rows_that_belong_together_stand_together():
    canvas = tile(torch.zeros(4, 1, 4, 4), columns=1, together=2)
    shades = (canvas[:, GAP, 0] == SHADE).astype(int)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, shades, 0])))[::2]
    assert runs.tolist() == [GAP, GAP, 3 * GAP, GAP, GAP]


@pytest.mark.parametrize(("titles", "above"), [([""], False), (["vae", "realnvp-2"], True)])
@pytest.mark.parametrize("side", [4, 28, 100])
def test_every_pixel_of_a_panel_is_a_square_of_whole_pixels(titles, above, side, tmp_path):
    path = tmp_path / "panels.png"
    panels = {title: torch.rand(6, 1, side, side) for title in titles}
    save_panels(panels, path, columns=3)
    with Image.open(path) as file:
        picture = np.asarray(file.convert("L"))
    canvases = [tile(images, 3)[:, :, 0] for images in panels.values()]
    scale = max(1, 84 // side)
    width, height = scale * canvases[0].shape[1], scale * canvases[0].shape[0]
    assert (picture.shape[0] > height) == above
    for index, canvas in enumerate(canvases):
        left = index * (picture.shape[1] - width)  # the first at the left edge, the second at the right one
        shown = picture[-height:, left : left + width]
        np.testing.assert_array_equal(shown, canvas.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("count", [1, 2])
def test_a_title_fits_above_a_grid_that_is_narrower(count, drawn):
    panels = {f"test images, each above its reconstruction {number}": torch.zeros(1, 1, 28, 28)
              for number in range(count)}  # fmt: skip
    save_panels(panels, Path("x.png"), columns=1)
    drawn[0].set_dpi(DPI)
    FigureCanvasAgg(drawn[0]).draw()
    ends = [0.0]
    for axes in drawn[0].axes:
        said, grid = axes.title.get_window_extent(), axes.get_window_extent()
        assert ends[-1] <= said.x0
        assert grid.width == pytest.approx(3 * (28 + 2 * GAP))
        assert (said.x0 + said.x1) / 2 == pytest.approx((grid.x0 + grid.x1) / 2, abs=1)
        ends.append(said.x1)
    assert ends[-1] <= drawn[0].bbox.width


def test_panels_bear_their_titles(drawn):
    save_panels({"vae": torch.zeros(4, 1, 8, 8), "realnvp-2": torch.zeros(4, 1, 8, 8)}, Path("x.png"), 2)
    assert [axes.get_title() for axes in drawn[0].axes] == ["vae", "realnvp-2"]


def test_a_pdf_embeds_fonts_that_publishers_take(tmp_path):
    save_panels({"vae": torch.zeros(4, 1, 8, 8)}, tmp_path / "panels.pdf", columns=2)
    content = (tmp_path / "panels.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content
    assert b"/FontFile2" in content


@pytest.mark.parametrize("name", ["panels.foo", "panels", "panels.jpg"])
def test_another_format_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"known: \.pdf, \.png|did you mean \.p"):
        save_panels({"": torch.zeros(1, 1, 4, 4)}, tmp_path / name, columns=1)
    assert not list(tmp_path.iterdir())


def test_a_picture_too_large_to_draw_is_refused(tmp_path):
    with pytest.raises(UserError, match="give fewer images"):
        save_panels({"": torch.zeros(1000, 1, 8, 8)}, tmp_path / "panels.png", columns=1000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run$^$", "a$b", "costs $5 or $6", r"a\$b"])
def test_names_with_dollars_are_written_as_they_are(name, monkeypatch, tmp_path):
    drawn: list[Figure] = []
    saved = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (drawn.append(figure), saved(figure, path)))
    images = torch.zeros(2, 1, 8, 8)
    save_panels({name: images}, tmp_path / "x.png", columns=2)
    save_groups({name: {name: images}}, tmp_path / "x.pdf")
    save_strips({name: [(images, name)]}, tmp_path / "x.png")
    save_curves({name: VAE}, tmp_path / "x.png")
    save_over_images({name: {400: 90.0, 100: 95.0}}, "nll", tmp_path / "x.png")
    texts = [text for figure in drawn for text in figure.findobj(Text) if text.get_text() == name]
    assert len(texts) == 7
    assert not any(text.get_parse_math() for text in texts)


def test_room_is_made_for_the_characters_of_a_name_and_not_for_a_formula():
    assert figures._width("$x_{2}$") == pytest.approx(figures._width("$x_{2}") + figures._width("$"), abs=30)
    assert figures._width("$x_{2}$") > figures._width("x_{2}")


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "panels.png"
    path.write_bytes(b"old")

    def full(figure: Figure, target: Path, **options: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match=r"panels\.png"):
        save_panels({"": torch.zeros(1, 1, 4, 4)}, path, columns=1)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"panels.png": b"old"}


def records(split: str, *points: tuple[float, float]) -> list[dict[str, Any]]:
    """As in metrics.jsonl, at points (minutes, -ELBO)."""
    return [{"split": split, "seconds": 60 * minutes, "negative_elbo": value} for minutes, value in points]


VAE = records("train", (0, 540.0), (1, 200.0), (5, 110.0), (10, 98.0)) + records(
    "valid", (5, 108.0), (10, 97.0)
)
IAF = records("train", (0, 540.0), (1, 220.0), (4, 100.0), (8, 93.0)) + records("valid", (4, 99.0), (8, 92.0))


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [tuple(point) for point in np.asarray(line.get_xydata()).tolist()]
        for line in axes.get_lines()
    }


def test_curves_show_both_splits_of_every_run_over_minutes(drawn):
    save_curves({"vae": VAE, "iaf-4": IAF}, Path("curves.png"))
    (axes,) = drawn[0].axes
    shown = lines(axes)
    assert shown["vae"] == [(5, 108), (10, 97)]
    assert shown["iaf-4"] == [(4, 99), (8, 92)]
    assert [(0, 540), (1, 200), (5, 110), (10, 98)] in shown.values(), "training"
    assert [text.get_text() for text in axes.texts] == ["iaf-4", "vae"], "from the lowest end to the highest"
    looks = [(line.get_color(), line.get_linestyle()) for line in axes.get_lines()]
    assert looks == [(TEN[0], "-"), (TEN[0], "-"), (TEN[1], "--"), (TEN[1], "--")]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training, minutes", "-ELBO, nats")


def test_scores_over_numbers_of_images_are_curves_in_the_order_of_the_numbers(drawn):
    save_over_images({"vae": {400: 90.0, 100: 95.0}, "iaf-4": {100: 94.0}}, "nll", Path("images.png"))
    (axes,) = drawn[0].axes
    assert [line.get_xydata().tolist() for line in axes.get_lines()] == [[[100, 95], [400, 90]], [[100, 94]]]
    assert [text.get_text() for text in axes.texts] == ["vae", "iaf-4"], "from the lowest end to the highest"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "400"]
    assert axes.get_ylabel() == "-log p(x), nats"


def test_names_of_ten_curves_that_end_together_do_not_overlap(drawn):
    many = {
        f"run-{seed}": records("valid", (1.0, 90 + seed / 1e3), (2.0, 80 + seed / 1e3)) for seed in range(10)
    }
    save_curves(many, Path("curves.png"))
    (axes,) = drawn[0].axes
    drawn[0].draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines that lead there
    assert len(boxes) == 10
    assert all(upper.y0 >= lower.y1 - 1 for lower, upper in itertools.pairwise(boxes))
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}) == 10


def test_runs_that_are_validated_by_other_numbers_have_panels_of_their_own(drawn):
    def judged(number: str, value: float) -> list[dict[str, Any]]:
        places = ({"split": split, "step": 1, "seconds": 60.0, "epoch": 1.0} for split in ("train", "valid"))
        return [{**place, number: value} for place in places]

    runs = {"vae": VAE, "pixelcnn": judged("nll", 80.0), "gan": judged("energy_score", 5.0), "iaf-4": IAF}
    save_curves(runs, Path("curves.png"))
    panels = drawn[0].axes
    labels = ["-ELBO, nats", "-log p(x), nats", "energy score"]
    assert [axes.get_ylabel() for axes in panels] == labels
    shown = [{name for name in lines(axes) if not name.startswith("_")} for axes in panels]
    assert shown == [{"vae", "iaf-4"}, {"pixelcnn"}, {"gan"}]
    assert lines(panels[1])["pixelcnn"] == [(1, 80)]


def test_curves_are_over_epochs_when_asked(drawn):
    runs = {
        "vae": [
            {"split": "valid", "seconds": 60.0 * e, "epoch": e, "negative_elbo": 99.0 - e} for e in (1, 2)
        ]
    }
    save_curves(runs, Path("curves.png"), over="epochs")
    (axes,) = drawn[0].axes
    assert lines(axes)["vae"] == [(1, 98), (2, 97)]
    assert axes.get_xlabel() == "training, epochs"


def test_the_axis_shows_what_one_compares_and_not_the_first_steps(drawn):
    save_curves({"vae": VAE, "iaf-4": IAF}, Path("curves.png"))
    low, high = drawn[0].axes[0].get_ylim()
    assert 85 < low < 92
    assert 110 < high < 115


@pytest.mark.parametrize(
    "values",
    [
        [],
        records("train", (0.1, 500.0)),
        records("valid", (0.0, 90.0)),
        records("valid", (1.0, 90.0), (2.0, 90.0)),
        records("valid", (1.0, -300.0), (2.0, -310.0)),
        records("train", (1.0, math.nan), (2.0, math.inf)),
    ],
    ids=["nothing", "training alone", "one at 0", "a constant", "negative", "not finite"],
)
def test_curves_of_odd_runs_are_drawn(values, tmp_path):
    save_curves({"odd": values, "vae": VAE}, tmp_path / "both.png")
    save_curves({"odd": values}, tmp_path / "alone.pdf")
    with Image.open(tmp_path / "both.png") as file:
        assert file.size[0] > 500
    assert (tmp_path / "alone.pdf").read_bytes().startswith(b"%PDF")


def test_strips_stand_over_their_captions(drawn):
    strip = torch.rand(5, 1, 8, 8)
    save_strips(
        {"vae": [(strip, "one"), (strip, "two")], "iaf-4": [(strip, "three"), (strip, "four")]}, Path("x.png")
    )
    axes = drawn[0].axes
    assert sorted(axis.get_xlabel() for axis in axes) == ["four", "one", "three", "two"]
    assert {axis.get_title() for axis in axes} == {"vae", "iaf-4", ""}
    shown = np.asarray(axes[0].get_images()[0].get_array())
    np.testing.assert_array_equal(shown, tile(strip, 5)[:, :, 0])
