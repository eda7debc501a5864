"""Missing pixels at the command line: images with holes in, completed images out."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, flowvae, is_refusal, succeeds
from PIL import Image
from test_encode import arrays_of

from flowvae.commands import imputing


@pytest.fixture
def holed(workspace):
    """Four grey images with transparent holes, one of them in a sub-directory."""
    folder = workspace / "photos"
    (folder / "inner").mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(4):
        pixels = np.full((8, 8, 2), 255, np.uint8)
        pixels[..., 0] = 255 * random.integers(0, 2, (8, 8))
        pixels[number : number + 3, 2:6, 1] = 0
        place = folder / "inner" if number == 3 else folder
        Image.fromarray(pixels, "LA").save(place / f"photo{number}.png")
    return folder


def test_images_with_holes_are_repaired(holed):
    words = ["impute", "flow", holed, "--missing", "alpha", "--samples", 3, "--candidates", 40]
    assert succeeds(*words, "--out", "repaired") == "repaired\n"
    found = arrays_of("repaired/completions.npz")
    assert sorted(found["names"]) == ["inner/photo3.png", "photo0.png", "photo1.png", "photo2.png"]
    assert found["images"].shape == (3, 4, 1, 8, 8)
    assert found["spread"].shape == found["mean"].shape == (4, 1, 8, 8)
    assert (found["effective_sample_size"] >= 1 - 1e-9).all()
    for place, name in enumerate(found["names"]):
        original = np.asarray(Image.open(holed / name))
        known = original[..., 1] > 0
        for number in range(3):
            written = np.asarray(Image.open(f"repaired/{number + 1}/{name}"))
            assert written.shape == (8, 8)
            np.testing.assert_array_equal(written[known], original[..., 0][known])
            np.testing.assert_allclose(written / 255, found["images"][number, place, 0], atol=0.002)
        assert (found["spread"][place, 0][known] == 0).all()
        assert (found["spread"][place, 0][~known] > 0).all()
        mean = np.asarray(Image.open(f"repaired/mean/{name}"))
        np.testing.assert_allclose(mean / 255, found["mean"][place, 0], atol=0.002)


def test_a_picture_has_a_row_per_image(holed):
    words = ["impute", "flow", holed, "--missing", "alpha", "--samples", 2, "--candidates", 30]
    assert succeeds(*words, "--out", "rows.png") == "rows.png\n"
    high, wide = np.asarray(Image.open("rows.png")).shape[:2]
    succeeds(*words[:-4], "--samples", 4, "--candidates", 30, "--out", "wide.png")
    higher, wider = np.asarray(Image.open("wide.png")).shape[:2]
    assert higher == high
    assert wider > 1.3 * wide
    succeeds("impute", "flow", holed / "photo2.png", *words[3:], "--out", "one.png")
    assert np.asarray(Image.open("one.png")).shape[0] < 0.5 * high


def test_completions_of_an_image_do_not_depend_on_the_others(holed):
    words = ["--missing", "alpha", "--samples", 2, "--candidates", 30, "--seed", 2]
    succeeds("impute", "flow", holed, *words, "--out", "all.npz")
    succeeds("impute", "flow", holed / "photo2.png", *words, "--out", "one.npz")
    everything, one = arrays_of("all.npz"), arrays_of("one.npz")
    place = everything["names"].tolist().index("photo2.png")
    np.testing.assert_allclose(one["images"][:, 0], everything["images"][:, place], atol=1e-6)
    np.testing.assert_allclose(one["log_prob"], everything["log_prob"][[place]], rtol=1e-6)


def test_a_model_trained_with_missing_pixels_scores_encodes_and_repairs(workspace):
    data = ["--data", "images.npz", "--hide", 0.4, "--steps", 4, "--out", "masked", "--track", "none"]
    succeeds("train", "vae", *SMALL, *data)
    assert json.loads((workspace / "masked/config.json").read_text())["missing"] is True
    succeeds("evaluate", "masked", "--samples", 3, "--images", 10)
    evaluation = json.loads((workspace / "masked/evaluation.json").read_text())
    assert 0.5 < evaluation["observed"] < 0.7
    rows = list(csv.DictReader(io.StringIO(succeeds("score", "masked", "images.npz", "--samples", 5))))
    assert len(rows) == 30
    succeeds("encode", "masked", "images.npz", "--out", "codes.npz")
    succeeds("reconstruct", "masked", "--images", 5)
    succeeds("impute", "masked", "images.npz", "--samples", 2, "--candidates", 10, "--out", "filled.npz")
    found = arrays_of("filled.npz")
    assert found["images"].shape == (2, 30, 1, 8, 8)
    with np.load("images.npz") as arrays:
        complete = arrays["test"]
    known = found["spread"][:, 0] == 0
    # Where a pixel does not vary between completions it is known, and then it has its value.
    assert 0.5 < known.mean() < 0.7
    np.testing.assert_array_equal(found["images"][0, :, 0][known], complete[known])


def test_what_cannot_be_filled_in_is_refused(holed):
    is_refusal(flowvae("impute", "flow", "images.npz"), "no pixel of these images is missing", "--hide 0.5")
    is_refusal(flowvae("impute", "flow", holed, "--hide", 0.5), "is read as image files", "--missing")
    words = ["impute", "flow", holed, "--missing", "alpha"]
    is_refusal(
        flowvae(*words, "--samples", 21, "--out", "a.png"),
        "picture of 4 images, 21",
        "a directory or .npz",
    )
    is_refusal(flowvae(*words, "--samples", 0), "samples is 0")
    is_refusal(flowvae(*words, "--candidates", 0), "candidates is 0")
    is_refusal(flowvae(*words, "--label", 1), "is not conditional on labels")
    is_refusal(flowvae("impute", "flow", holed, "--missing", "purple"), "missing is 'purple'")


def test_few_effective_candidates_are_said(holed, monkeypatch):
    words = ["impute", "flow", holed, "--missing", "alpha", "--candidates", 50, "--out", "out.npz"]
    monkeypatch.setattr(imputing, "FEW", 0.5)
    assert flowvae(*words).err == ""
    monkeypatch.setattr(imputing, "FEW", 1000.0)
    assert "4 of 4 images have an effective sample size below 1000 of 50 candidates" in flowvae(*words).err


def test_images_that_are_named_by_their_whole_path(holed):
    source = holed / "photo0.png"
    words = ["impute", "flow", source, "--missing", "alpha", "--samples", 2, "--candidates", 10]
    result = flowvae(*words, "--out", "repaired")
    assert result.code == 0, result.err
    place = source.resolve().relative_to("/")
    for group in ("1", "2", "mean"):
        assert (Path("repaired") / group / place).is_file()


def test_what_cannot_be_saved_is_refused_before_the_work(holed, monkeypatch):
    monkeypatch.setattr(imputing, "spread", None)  # a call would be an error of another kind
    Image.open(holed / "photo0.png").save(holed / "photo0.webp", lossless=True)
    words = ["impute", "flow", holed, "--missing", "alpha", "--samples", 2, "--candidates", 10]
    is_refusal(flowvae(*words, "--out", "repaired"), "two images would be written to repaired/1/photo0.png")
    is_refusal(flowvae(*words, "--out", "absent/all.npz"), "absent/all.npz: No such file or directory")
    is_refusal(flowvae(*words, "--out", "absent/all.png"), "absent/all.png: No such file or directory")
    is_refusal(flowvae(*words, "--out", "images.npz/folder"), "images.npz/folder: Not a directory")
    is_refusal(flowvae(*words, "--out", holed / "photo0.png"), "photo0.png is read, and would be replaced")
