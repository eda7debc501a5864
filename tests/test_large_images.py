"""Images of up to 64 megapixels: read in parts, as if at once, in at most 1 GiB of memory."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from flowvae.data import images
from flowvae.errors import UserError

MADE = {
    "rgba.png": "Image.new('RGBA', SIZE, (9, 8, 7, 200)).save(path, compress_level=1)",
    "deep.png": "Image.new('I;16', SIZE, 999).save(path, compress_level=1)",
    "cmyk.jpg": "Image.new('CMYK', SIZE, (9, 8, 7, 6)).save(path, progressive=True)",
    "lying.jpg": "exif = Image.Exif(); exif[274] = 6; Image.new('RGB', SIZE, 'red').save(path, exif=exif)",
    "float.tif": "Image.new('F', SIZE, 0.5).save(path, compression='tiff_lzw')",
    "pages.tif": "Image.new('RGB', SIZE).save(path, save_all=True, append_images=[Image.new('RGB', SIZE)])",
    "half.webp": "Image.new('RGBA', (8192, 4096), (9, 8, 7, 200)).save(path, lossless=True, method=0)",
}
MAKE = """
import sys
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
SIZE, path = (8192, 8192), sys.argv[1]
"""
READ = """
import resource, sys
from pathlib import Path
from flowvae.data.images import decode_pages, read_headers
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, path, options = peak(), Path(sys.argv[1]), eval(sys.argv[2])
read_headers(path, options.get("value_range"))
for page, known in decode_pages(path, **options):
    assert page.shape[1:] == known.shape[1:]
    del page, known
print(peak() - before)
"""
DEEP = {"value_range": (0.0, 65535.0)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rgba.png", {}),
        ("rgba.png", {"value_range": (0.0, 255.0), "marker": "alpha"}),
        ("deep.png", {**DEEP, "marker": (7.0,)}),
        ("cmyk.jpg", {}),
        ("lying.jpg", {}),
        ("float.tif", {"value_range": (0.0, 1.0), "marker": "nan", "sides": None}),
        ("pages.tif", {"sides": None}),
        ("half.webp", {}),
    ],
)
def test_the_largest_images_are_read_within_1_gib(name, options, tmp_path):
    path = tmp_path / name
    subprocess.run([sys.executable, "-c", MAKE + MADE[name], path], check=True)
    given = repr({"channels": 3, "sides": (28, 28), **options})
    printed = subprocess.run(
        [sys.executable, "-c", READ, path, given], check=True, capture_output=True, text=True
    ).stdout
    assert int(printed) < 2**20, f"{int(printed) / 1024:.0f} MiB"


def test_an_animation_may_have_half_as_many_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 2**17)
    for name in ("some.gif", "some.webp", "some.png"):
        Image.new("RGB", (256, 257)).save(tmp_path / name)
    for name in ("some.gif", "some.webp"):
        with pytest.raises(UserError, match=r"more than 0.0625 megapixels"):
            list(images.decode_pages(tmp_path / name, 1))
    assert len(list(images.decode_pages(tmp_path / "some.png", 1))) == 1


DEPTHS = {"I;16": np.uint16, "I": np.int32, "F": np.float32}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", *DEPTHS])
def test_parts_make_the_same_image(mode, tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (9, 13, 4), np.uint8)
    image = (
        Image.fromarray(values[..., 0].astype(DEPTHS[mode]))
        if mode in DEPTHS
        else Image.fromarray(values).convert(mode)
    )
    image.save(tmp_path / "some.tif")
    ranges = [(0.0, 255.0)] if mode in DEPTHS else [None, (0.0, 255.0)]
    colours = 1 if mode in images.GREY_MODES else 3
    value = np.asarray(image if mode in DEPTHS else images.flattened(image, colours))[4, 5]
    markers = (None, "alpha", tuple(np.atleast_1d(value).tolist()))
    forms = [(1, (5, 7)), (3, (18, 20)), (3, None)]
    for (channels, sides), value_range, marker in itertools.product(forms, ranges, markers):
        options = channels, sides, value_range, marker
        whole, parts = (
            read(tmp_path / "some.tif", at_once, monkeypatch, *options) for at_once in (2**22, 10)
        )
        assert all(np.array_equal(one, other) for one, other in zip(whole, parts, strict=True)), options


def read(path, at_once, monkeypatch, *options):
    monkeypatch.setattr(images, "AT_ONCE", at_once)
    ((pixels, known),) = images.decode_pages(path, *options)
    return pixels, known
