"""What every test starts from: one thread, one seed, and the data sets that are too large to bundle."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# One thread a process, and in the processes that tests start: the tensors of tests are too small for more.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from command_line import finished as finished
from command_line import rows_in_this_process as rows_in_this_process
from command_line import workspace as workspace
from made_runs import run as run
from tiny_runs import halves as halves
from tiny_runs import unbroken as unbroken

from flowvae.data import load

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def mnist_is_read_once() -> Iterator[None]:
    """Decompressing it takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load.OWN, "mnist", cache(load.OWN["mnist"]))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets that are not bundled: FLOWVAE_SHARED_DATA, or ../shared/data."""
    named = os.environ.get("FLOWVAE_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: FLOWVAE_SHARED_DATA names the one with the data sets")
    return folder
