"""Intervals contain the exact value, and the warning fires where the estimate is wrong: in short."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

from campaigns.coverage import error_rates, intervals, scored, table, warnings
from campaigns.independent import IndependentPixels, drawn_images
from flowvae.evaluation import bounds


@pytest.mark.parametrize("loading", [0.3, 0.8])
@pytest.mark.parametrize("deviation", [0.1, 0.12])
def test_the_exact_posterior_gives_the_exact_value(deviation, loading):
    model = IndependentPixels(deviation, loading)
    images = drawn_images(5, 6, seed=0).batch("test", torch.arange(5)).images
    found = bounds(model, images, 3)
    torch.testing.assert_close(-found.negative_elbo, model.exact(images))
    torch.testing.assert_close(-found.negative_log_marginal, model.exact(images))


def test_intervals_contain_the_exact_value():
    rows = [*intervals(40, (30,), 1000), *scored(60, [(200, 1.3)])]
    assert [row["command"] for row in rows] == ["evaluate", "table", "score"]
    for row in rows:
        assert row["coverage"] > 0.8  # of 40: four standard errors below 95%
        assert abs(row["bias"]) < row["standard_error"]


def test_the_warning_fires_where_the_estimate_is_wrong():
    rows = list(warnings(10, (100,), [{"shift": 0.1}, {"stretch": 0.2}, {"shift": 2.0}], (6,)))
    assert [row["warning"] for row in rows] == [False, True, True]
    rates = error_rates(rows)
    assert rates == [
        {"samples": 100, "wrong": 2, "wrong_without_warning": 0, "right": 1, "right_with_warning": 0}
    ]
    assert "| 100 | 2 | 0 | 1 | 0 |" in table({"warnings": rows})
