"""Compressed images are restored by another process: in short."""

import sys
from pathlib import Path

import numpy as np
import pytest
from compressible import NAMES

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

pytest.importorskip("constriction")
from campaigns import round_trips


def test_random_data_sets_are_restored_by_another_process():
    found = round_trips.run(20)
    assert found["tried"] == found["equal"] == 20
    assert sum(row["tried"] for row in found["models"].values()) == 20
    assert set(found["models"]) == set(NAMES)
    assert "| all | 20 | 20 |" in round_trips.table(found)


def test_other_images_are_noticed(tmp_path):
    case = round_trips.Case("vae", (1, 3, 5), "noise", 4, 2, 0)
    round_trips.compress([case, case], tmp_path)
    with np.load(tmp_path / "1.npz") as kept:
        np.savez(tmp_path / "1", words=kept["words"], images=1 - kept["images"])
    assert round_trips.restore(tmp_path) == [True, False]


def test_cases_are_always_the_same():
    found = round_trips.cases(100)
    assert found == round_trips.cases(100)
    assert len(set(found)) > 90
    assert {case.name for case in found} == set(NAMES)
    assert {case.kind for case in found} == set(round_trips.KINDS)
