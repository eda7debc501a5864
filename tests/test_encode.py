"""Codes and images in files: encode, decode, and pictures one by one."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import contents, flowvae, is_refusal, succeeds
from PIL import Image

from flowvae.data.named import named_images
from flowvae.image_files import save_images
from flowvae.models import Inferring
from flowvae.onnx import export_onnx
from flowvae.runs import Run
from flowvae.runs.capability import needs


@pytest.fixture
def files(workspace):
    """Five grey images as PNG, one of them in a sub-directory."""
    folder = workspace / "pictures"
    (folder / "inner").mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(5):
        place = folder / "inner" if number == 3 else folder
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"image{number}.png")
    return folder


def arrays_of(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def test_codes_are_the_centers_with_names_and_the_same_twice(files):
    for out in ("one.npz", "two.npz"):
        assert succeeds("encode", "flow", files, "--out", out) == f"{out}\n"
    one, two = arrays_of("one.npz"), arrays_of("two.npz")
    assert one["names"].tolist() == [
        "image0.png",
        "image1.png",
        "image2.png",
        "image4.png",
        "inner/image3.png",
    ]
    np.testing.assert_array_equal(one["codes"], two["codes"])
    run = Run("flow")
    images = named_images([str(files)], run.spec, run.config.data).images
    with torch.no_grad():
        expected = needs(Inferring, run).center(images)
    np.testing.assert_array_equal(one["codes"], expected.numpy())


@pytest.mark.slow
def test_codes_equal_those_of_the_exported_encoder_without_noise(files, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    succeeds("encode", "flow", files, "--out", "codes.npz")
    run = Run("flow")
    images = named_images([str(files)], run.spec, run.config.data).images.numpy()
    path = next(
        path for path in export_onnx(run.model, run.spec.shape, tmp_path / "onnx") if path.stem == "encoder"
    )
    graph = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    z, _ = graph.run(None, {"images": images, "noise": np.zeros((1, len(images), 3), np.float32)})
    np.testing.assert_allclose(arrays_of("codes.npz")["codes"], z[0], atol=1e-5)


def test_draws_of_an_image_do_not_depend_on_the_others(files):
    succeeds("encode", "flow", files, "--draws", 4, "--seed", 2, "--out", "all.npz")
    succeeds("encode", "flow", files / "image2.png", "--draws", 4, "--seed", 2, "--out", "one.npz")
    succeeds("encode", "flow", files, "--draws", 4, "--seed", 3, "--out", "other.npz")
    codes = arrays_of("all.npz")["codes"]
    assert codes.shape == (4, 5, 3)
    assert codes.std(0).min() > 0
    np.testing.assert_allclose(arrays_of("one.npz")["codes"][:, 0], codes[:, 2], atol=1e-6)
    assert not np.array_equal(arrays_of("other.npz")["codes"], codes)


def test_tables_have_a_row_for_each_code(files):
    succeeds("encode", "plain", files, "--draws", 2, "--out", "codes.csv")
    succeeds("encode", "plain", files, "--draws", 2, "--out", "codes.npz")
    with open("codes.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "draw", "z0", "z1", "z2"]
    assert [row["name"] for row in rows[:2]] == ["image0.png", "image1.png"]
    values = np.array([[float(row[f"z{place}"]) for place in range(3)] for row in rows])
    np.testing.assert_array_equal(values.reshape(2, 5, 3), arrays_of("codes.npz")["codes"])


def test_decoding_gives_the_reconstructions_back_under_their_names(files):
    succeeds("encode", "flow", files, "--out", "codes.npz")
    succeeds("decode", "flow", "codes.npz", "--out", "images.npz")
    assert succeeds("decode", "flow", "codes.npz", "--out", "back/") == "back\n"
    run = Run("flow")
    with torch.no_grad():
        expected = needs(Inferring, run).reconstruct(
            named_images([str(files)], run.spec, run.config.data).images
        )
    decoded = arrays_of("images.npz")
    np.testing.assert_allclose(decoded["images"], expected.numpy(), atol=1e-6)
    assert decoded["names"].tolist()[-1] == "inner/image3.png"
    pixels = np.asarray(Image.open("back/inner/image3.png"))
    np.testing.assert_array_equal(pixels, np.round(decoded["images"][-1, 0] * 255).astype(np.uint8))
    succeeds("encode", "flow", files, "--draws", 2, "--out", "draws.npz")
    succeeds("decode", "flow", "draws.npz", "--out", "draws")
    assert len(contents(files.parent / "draws")) == 10 + 2 * 2  # 0/inner/image3.png


def test_pictures_one_by_one(workspace):
    assert (
        succeeds("sample", "flow", "--images", 12, "--out", "samples.npz") == "samples.npz: means of p(x|z)\n"
    )
    arrays = arrays_of("samples.npz")
    assert (arrays["images"].shape, str(arrays["kind"])) == ((12, 1, 8, 8), "means of p(x|z)")
    succeeds("sample", "flow", "--images", 12, "--out", "samples")
    assert sorted(contents(workspace / "samples")) == [f"{number:02}.png" for number in range(12)]
    succeeds("sample", "flow", "--show", "nearest", "--images", 3, "--out", "nearest.npz")
    assert arrays_of("nearest.npz")["nearest"].shape == (3, 1, 8, 8)
    succeeds("reconstruct", "flow", "--images", 4, "--out", "pairs")
    assert {path.split("/")[0] for path in contents(workspace / "pairs")} == {"images", "reconstructions"}
    succeeds("interpolate", "flow", "plain", "--pairs", 2, "--steps", 3, "--out", "paths.npz")
    paths = arrays_of("paths.npz")
    assert paths["flow"].shape == paths["plain"].shape == (6, 1, 8, 8)
    assert paths["names"].tolist() == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    # A grid as before.
    assert succeeds("sample", "flow", "--out", "grid.png") == "grid.png: means of p(x|z)\n"


def test_older_pictures_are_kept_and_counted(workspace):
    succeeds("sample", "flow", "--images", 12, "--out", "samples")
    assert flowvae("sample", "flow", "--images", 12, "--out", "samples").err == ""
    said = flowvae("sample", "flow", "--images", 3, "--out", "samples").err
    assert said == "flowvae: warning: samples contains 12 other images, from before\n"
    assert len(contents(workspace / "samples")) == 15


def test_names_stay_inside_the_directory(tmp_path, capsys):
    out = tmp_path / "out"
    save_images({"images": torch.zeros(3, 3, 4, 4)}, ["in", "../../up.png", "/etc/passwd"], out)
    assert capsys.readouterr().err == (
        f"flowvae: note: images stay inside {out}, so '../../up.png' is {out / 'up.png'} (2 such names)\n"
    )
    assert set(contents(tmp_path)) == {"out", "out/in.png", "out/up.png", "out/etc", "out/etc/passwd.png"}


def test_refusals(files):
    is_refusal(flowvae("encode", "flow", files, "--out", "codes.txt"), "'.txt'", ".csv")
    is_refusal(flowvae("encode", "flow", files, "--draws", 0, "--out", "codes.npz"), "draws is 0")
    is_refusal(
        flowvae("decode", "flow", "none.npz", "--out", "x"), "none.npz does not exist", "flowvae encode"
    )
    np.savez("wrong.npz", codes=np.zeros((2, 4), np.float32))
    is_refusal(flowvae("decode", "flow", "wrong.npz", "--out", "x"), "(2, 4)", "[N, 3]")
    np.savez("objects.npz", codes=np.array([{}], object))
    is_refusal(flowvae("decode", "flow", "objects.npz", "--out", "x"), "objects.npz contains Python objects")
    np.savez("codes.npz", codes=np.zeros((2, 3), np.float32), names=np.array(["a.png", "a.jpg"]))
    is_refusal(flowvae("decode", "flow", "codes.npz", "--out", "x"), "two images", "a.png")
    is_refusal(flowvae("decode", "flow", "codes.npz", "--out", "x.pdf"), "x.pdf is a picture")
    is_refusal(flowvae("sample", "flow", "--out", "x.txt"), "'.txt'", ".npz")


def test_no_codes_and_codes_in_a_table_are_refused(files):
    succeeds("encode", "flow", files, "--out", "codes.npz")
    np.savez("none.npz", codes=arrays_of("codes.npz")["codes"][:0])
    is_refusal(flowvae("decode", "flow", "none.npz", "--out", "images"), "none.npz has codes of shape (0, ")
    succeeds("encode", "flow", files, "--out", "codes.csv")
    is_refusal(flowvae("decode", "flow", "codes.csv", "--out", "images"), "decode reads .npz")


@pytest.mark.parametrize(
    ("name", "part"), [("a\0b", "no file can have the name"), ("\ud800", "no file can have the name")]
)
def test_names_that_no_file_can_have(workspace, name, part):
    np.savez("codes.npz", codes=np.zeros((2, 3)), names=np.array([name, "b"]))
    is_refusal(flowvae("decode", "plain", "codes.npz", "--out", "images"), part, "write an .npz file")
    assert not (workspace / "images").exists()
    succeeds("decode", "plain", "codes.npz", "--out", "images.npz")


def test_names_of_characters_that_do_not_exist(workspace):
    np.savez("codes.npz", codes=np.zeros((1, 3)), names=np.array([2**21], np.uint32).view("U1"))
    is_refusal(flowvae("decode", "plain", "codes.npz"), "characters that do not exist")


def test_codes_that_overflow_are_refused_without_a_warning(workspace):
    np.savez("codes.npz", codes=np.full((1, 3), 1e300))
    is_refusal(flowvae("decode", "plain", "codes.npz"), "codes that are finite")


def test_what_is_read_is_not_replaced(files):
    before = Path("images.npz").read_bytes()
    is_refusal(flowvae("encode", "plain", "images.npz", "--out", "images.npz"), "images.npz is read")
    assert Path("images.npz").read_bytes() == before
    succeeds("encode", "plain", files, "--out", "codes.npz")
    succeeds("encode", "plain", files, "--out", "codes.npz")
    is_refusal(flowvae("decode", "plain", "codes.npz", "--out", "codes.npz"), "codes.npz is read")
    (picture,) = list(Path(files).glob("*.png"))[:1]
    is_refusal(flowvae("compress", "plain", files, "--out", picture), "is read, and would be replaced")


def test_a_name_as_long_as_a_file_system_allows(workspace):
    long = "n" * 250
    np.savez("codes.npz", codes=np.zeros((1, 3)), names=np.array([long]))
    succeeds("decode", "plain", "codes.npz", "--out", "images")
    assert [path.name for path in (workspace / "images").iterdir()] == [f"{long}.png"]


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "flow", "--samples", 3, "--images", 5],
        ["impute", "flow", "images.npz", "--hide", 0.5],
        ["sample", "flow"],
        ["encode", "flow", "images.npz"],
    ],
)
def test_a_directory_that_may_not_be_written_to_is_refused_before_the_work(words, workspace, monkeypatch):
    """Tests may run as the one user who may write everywhere."""
    before = contents(workspace)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    is_refusal(flowvae(*words), "flow/", "Permission denied; choose another path")
    assert contents(workspace) == before
