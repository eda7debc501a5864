"""Images by their names: which files and data sets a source is, and in which form they come."""

from pathlib import Path

import numpy as np
import pytest
from data_files import random_images, write_images

from flowvae.batch import DataSpec
from flowvae.config import DataConfig
from flowvae.data.named import named_images, reads_files
from flowvae.errors import UserError

GREY = DataConfig(binarization="none")
SPEC = DataSpec((1, 8, 8), 256)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("split", ["", "test"])
def test_directories_of_classes_may_be_links(tmp_path: Path, real: bool, split: str) -> None:
    """As for training; a link below a class is not followed, since it may lead back."""
    target = tmp_path / "target"
    write_images(target / "deep", random_images(3, 8, 8))
    (target / "back").symlink_to(target)
    folder = tmp_path / "set" / split
    folder.mkdir(parents=True)
    (folder / "linked").symlink_to(target)
    (folder / ".hidden").symlink_to(target)
    expected = [f"linked/deep/000{number}.png" for number in range(3)]
    if real:
        write_images(folder / "real", random_images(2, 8, 8))
        expected += ["real/0000.png", "real/0001.png"]
    assert reads_files("set", None)
    assert named_images(["set"], SPEC, GREY).names == [str(Path(split, name)) for name in expected]


def test_the_name_of_a_data_set_comes_before_a_directory(tmp_path: Path) -> None:
    write_images(tmp_path / "mnist", random_images(1, 28, 28))
    spec = DataSpec((1, 28, 28), 256)
    assert not reads_files("mnist", None)
    assert len(named_images(["mnist"], spec, GREY).names) == 10_000
    assert named_images(["./mnist"], spec, GREY).names == ["0000.png"]


@pytest.mark.parametrize("dtype", ["?", "f4"])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_binary_arrays_are_no_images_of_8_bits(dtype: str, ending: str) -> None:
    bits = random_images(5, 8, 8, high=2).astype(dtype)
    if ending == "npy":
        np.save("bits.npy", bits)
    else:
        np.savez("bits.npz", images=bits)
    with pytest.raises(UserError, match=f"bits.{ending} is binary already.*; save 0 to 255") as refused:
        named_images([f"bits.{ending}"], SPEC, GREY)
    assert "\n" not in str(refused.value)
    found = named_images([f"bits.{ending}"], DataSpec((1, 8, 8), 2), DataConfig()).images
    assert np.array_equal(found[:, 0].numpy(), bits)


@pytest.mark.parametrize("dtype", ["?", "u1", "f4"])
def test_black_arrays_are_images_of_8_bits(dtype: str) -> None:
    np.save("black.npy", np.zeros((2, 8, 8), dtype))
    assert not named_images(["black.npy"], SPEC, GREY).images.any()


def test_a_stated_range_is_that_of_binary_arrays_too() -> None:
    np.save("bits.npy", np.eye(8)[None])
    for largest in (1, 255):
        config = DataConfig(binarization="none", value_range=(0, largest))
        found = named_images(["bits.npy"], SPEC, config).images[0, 0]
        np.testing.assert_allclose(found.numpy(), np.eye(8) / largest, rtol=1e-6)
