"""One row of the campaign on several processes, and what counts as equal."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

from campaigns.processes import _difference, run, table


@pytest.mark.slow
def test_a_row_is_trained_and_compared():
    found = run(1)
    assert found["tried"] == found["equal"] == 1
    assert found["rows"][0]["numbers"] > 5
    assert "1 of 1 are equal" in table(found)


@pytest.mark.parametrize(("other", "equal"), [(100 + 1e-8, True), (100 + 2e-7, False)])
def test_numbers_that_differ_by_more_than_rounding_are_not_equal(other, equal, tmp_path):
    for name, value in (("one", 100.0), ("two", other)):
        (tmp_path / name).mkdir()
        line = {"split": "train", "step": 1, "epoch": 0.5, "seconds": value, "nll": value}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    found = _difference(tmp_path / "one", tmp_path / "two")
    assert found["numbers"] == 3
    assert found["equal"] == equal
