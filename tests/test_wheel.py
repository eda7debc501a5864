"""The wheel holds the whole package and nothing else, and stays small."""

import zipfile
from pathlib import Path

import pytest

flit = pytest.importorskip("flit_core.buildapi", reason="flit_core is not installed")
REPOSITORY = Path(__file__).parents[1]
MOST_BYTES = 16_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        return zipfile.ZipFile(folder / flit.build_wheel(str(folder)))


def test_the_wheel_is_small(wheel):
    assert wheel.filename is not None
    assert Path(wheel.filename).stat().st_size < MOST_BYTES


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    source = REPOSITORY / "src"
    package = {
        path.relative_to(source).as_posix()
        for path in (source / "flowvae").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == package
    assert {"flowvae/py.typed", "flowvae/data/mnist.npz", "flowvae/data/MNIST.md"} <= held


def test_the_wheel_says_what_it_is(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode()
    for version in ("3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {version}\n" in metadata
    assert "Classifier: Typing :: Typed\n" in metadata
    assert "Requires-Python: >=3.11\n" in metadata
    entry_points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "flowvae=flowvae.cli:main" in entry_points.replace(" ", "")
    assert any(name.endswith("LICENSE") for name in wheel.namelist())
