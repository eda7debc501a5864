"""Callbacks see what metrics.jsonl says, can stop a run, and change nothing else."""

from tiny_runs import PER_EPOCH, STEPS, assert_ended_as, configuration

from flowvae.runs import read_metrics
from flowvae.training import Callback, TrainingProgress, train


class Watching(Callback):
    def __init__(self, last: int = STEPS + 1) -> None:
        self.last = last
        self.steps: list[TrainingProgress] = []
        self.validations: list[TrainingProgress] = []

    def on_step(self, progress):
        self.steps.append(progress)
        return progress.step >= self.last

    def on_validation(self, progress):
        self.validations.append(progress)


class StopAtValidation(Callback):
    def on_validation(self, progress):
        return progress.epoch >= 2


def test_callbacks_see_every_step_and_validation_and_change_nothing(halves, unbroken, tmp_path):
    watching = Watching()
    assert train(tmp_path / "run", configuration(halves), callbacks=[watching])
    assert_ended_as(tmp_path / "run", unbroken)
    assert [each.step for each in watching.steps] == list(range(1, STEPS + 1))
    assert [each.fraction for each in watching.steps] == [step / STEPS for step in range(1, STEPS + 1)]
    lines = [line for line in read_metrics(tmp_path / "run") if line["split"] == "valid"]
    assert [each.step for each in watching.validations] == [line["step"] for line in lines]
    for seen, line in zip(watching.validations, lines, strict=True):
        assert seen.epoch == line["epoch"]
        assert {name: line[name] for name in seen.numbers} == seen.numbers
        assert next(iter(seen.numbers)) == "negative_elbo"


def test_a_callback_stops_at_once_and_the_run_can_be_resumed(halves, unbroken, tmp_path):
    run, config = tmp_path / "run", configuration(halves)
    watching = Watching(last=7)
    assert not train(run, config, callbacks=[Callback(), watching])
    assert len(watching.steps) == 7
    assert (run / "model.safetensors").exists()
    watching.last = STEPS + 1
    assert not train(run, config, resume=True, callbacks=[watching, StopAtValidation()])
    assert watching.steps[-1].step == 2 * PER_EPOCH
    assert train(run, config, resume=True)
    assert_ended_as(run, unbroken)
