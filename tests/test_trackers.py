"""Metrics reach the trackers that accelerate knows, and a tracker that is not there is said at once."""

from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType
from tiny_runs import configuration, files

from flowvae.errors import UserError
from flowvae.runs import read_metrics
from flowvae.training import trackers, train

OTHERS = ["wandb", "trackio", "mlflow"]


@pytest.fixture
def stand_in(monkeypatch, request) -> dict[str, Any]:
    """A tracker in the place of the named one, with what it is told."""
    told: dict[str, Any] = {"log": []}

    class Tracker(GeneralTracker):
        name = request.param
        requires_logging_directory = False
        tracker = None

        def __init__(self, project, **options):
            super().__init__()
            told.update(project=project, options=options)

        def store_init_configuration(self, values):
            told["settings"] = values

        def log(self, values, step=None, **options):
            told["log"].append((step, values))

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, request.param, Tracker)
    for place in ("accelerate.tracking", "flowvae.training.trackers"):
        monkeypatch.setattr(f"{place}.get_available_trackers", lambda: [LoggerType(request.param)])
    return told


@pytest.mark.parametrize(("stand_in", "track"), [(name, name) for name in OTHERS], indirect=["stand_in"])
def test_a_tracker_gets_the_settings_and_every_record(stand_in, track, halves, tmp_path):
    train(tmp_path / "mine", configuration(halves, steps=2, track=track))
    assert stand_in["project"] == "flowvae"
    assert "mine" in stand_in["options"].values()
    assert stand_in["settings"]["model.latent"] == 3
    assert stand_in["settings"]["training.steps"] == 2
    records = read_metrics(tmp_path / "mine")
    assert [step for step, _ in stand_in["log"]] == [record["step"] for record in records]
    assert stand_in["log"][-1][1]["valid/kl"] == records[-1]["kl"]


@pytest.mark.parametrize("track", OTHERS)
def test_a_missing_package_is_said_before_anything_is_made(track, halves, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    with pytest.raises(UserError, match=rf"track is {track}, .*pip install {track}"):
        train(tmp_path / "run", configuration(halves, steps=2, track=track))
    assert files(tmp_path) == set()


@pytest.mark.parametrize("stand_in", ["wandb"], indirect=True)
def test_a_tracker_that_refuses_is_one_line(stand_in, halves, tmp_path, monkeypatch):
    def refuse(self, project, **options):
        raise RuntimeError("api_key not configured\nsee the manual")

    monkeypatch.setattr(LOGGER_TYPE_TO_CLASS["wandb"], "__init__", refuse)
    with pytest.raises(
        UserError,
        match=r"wandb does not start .api_key not configured.; .*--track none",
    ):
        train(tmp_path / "run", configuration(halves, steps=2, track="wandb"))
    assert files(tmp_path) == set(), "the same command, once the tracker is mended, would find that it exists"


def test_tensorboard_gets_settings_and_samples(halves, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path / "run", configuration(halves, steps=2, track="tensorboard"))
    logs = sorted((tmp_path / "run" / "logs").rglob("events.out*"))
    tags: set[str] = set()
    for log in logs:
        events = event_accumulator.EventAccumulator(str(log.parent))
        events.Reload()
        tags |= {tag for each in events.Tags().values() if isinstance(each, list) for tag in each}
    assert {"valid/kl", "samples"} <= tags
    assert "model.latent" in "".join(path.read_text() for path in (tmp_path / "run").rglob("hparams.yml"))
