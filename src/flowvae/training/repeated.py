"""Training that a repeated command leaves as it is if it is finished, and otherwise begins or resumes."""

import dataclasses
from pathlib import Path

from flowvae import runs
from flowvae.config import BUDGETS, Config, TrainingConfig
from flowvae.errors import UserError
from flowvae.training.checkpoint import FILE as STATE_FILE
from flowvae.training.loop import train
from flowvae.training.schedule import steps_within


def train_or_resume(run: Path, config: Config) -> None:
    """Train a run, or resume it; do nothing if it is finished.

    Raises:
        UserError: as in `check_unchanged`, and from training.
        KeyboardInterrupt: if it was stopped before its budget was used up.
    """
    check_unchanged(run, config)
    if not train(run, config, resume=(run / STATE_FILE).exists()):
        raise KeyboardInterrupt


def check_unchanged(run: Path, config: Config) -> None:
    """Check that a run, if there is one, has these options, and was not trained for longer.

    Raises:
        UserError: if it differs, as the options of a row may since an earlier version.
    """
    if (run / STATE_FILE).exists():
        runs.check_revision(runs.Run(run), config)
        check_not_longer(run, config.training)


def check_not_longer(run: Path, budget: TrainingConfig) -> None:
    """Check that a run, if there is one, was not trained for longer than a budget allows.

    The end of its own budget may be a little later than its minutes.

    Raises:
        UserError: if it was.
    """
    if not (run / STATE_FILE).exists():
        return
    opened = runs.Run(run)
    if not opened.records or _budgets(opened.config.training) == _budgets(budget):
        return
    last = opened.records[-1]
    steps = steps_within(budget, runs.steps_per_epoch(last))
    over = steps is not None and last["step"] > steps
    if over or (budget.minutes is not None and last["seconds"] > 60 * budget.minutes):
        raise UserError(
            f"{run} has taken {last['step']:,} steps, more than this budget allows; choose a larger one, or "
            "another --out"
        )


def _budgets(settings: TrainingConfig) -> dict[str, float | None]:
    return {name: value for name, value in dataclasses.asdict(settings).items() if name in BUDGETS}
