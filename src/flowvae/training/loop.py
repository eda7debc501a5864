"""The training loop."""

import dataclasses
import math
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from flowvae import devices, runs, shares
from flowvae.batch import Batch, DataSpec
from flowvae.config import Config, TrainingConfig
from flowvae.data import (
    Dataset,
    Split,
    as_float,
    describe,
    load_configured,
    steps_per_epoch,
    training_batch,
)
from flowvae.densities.posterior import BATCH_NORMS
from flowvae.errors import UserError
from flowvae.evaluation import check_labels, check_levels, check_missing
from flowvae.flows import checkpoint_transformations
from flowvae.models import Model
from flowvae.models.registry import build_model, is_registered
from flowvae.shares import ProcessEndedError, Share, measured
from flowvae.training.averaging import averaged
from flowvae.training.callbacks import Callback, TrainingProgress, told_to_stop
from flowvae.training.checkpoint import State
from flowvae.training.finite import diverged
from flowvae.training.interrupt import interruptible
from flowvae.training.lock import locked
from flowvae.training.overfitting import overfits, regularize, set_dropout
from flowvae.training.parallel import agreed, from_main
from flowvae.training.players import make_players, refuse_unused, take_step
from flowvae.training.progress import display
from flowvae.training.records import Records
from flowvae.training.schedule import rate_factor, seconds_of, spent, steps_per_validation, steps_within
from flowvae.training.seeding import seed_everything
from flowvae.training.trackers import check_tracker, start_tracker, track_samples

SAVE_EVERY = 60.0  # seconds
IMAGES_AT_ONCE = 256  # in validation, and in the pass before training
START_IMAGES = 10_000  # to initialize a model from data


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    run: str | Path,
    config: Config,
    resume: bool = False,
    model: Model | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> bool:
    """Train into the directory ``run`` until the budget is used up, or until a signal or a callback.

    Writes the averaged weights with the best validation score (``model.safetensors``), the metrics, and after
    every epoch and every minute the state to resume from. Batches and noise are a pure function of (seed,
    step): with a budget in steps or epochs, a run that was killed and resumed ends with the same weights as
    an uninterrupted one, bit for bit on a CPU. The caller's generators are left unchanged.

    Only one process at a time trains a run. A run that was killed before it saved anything is started again,
    with or without ``resume``.

    Args:
        run: directory to create.
        config: data, model and training.
        resume: resume the run in the directory.
        model: a newly built module of your own, in place of ``config.model``. It ends with the last weights,
            not with the averaged ones of the run, which `flowvae.load` reads into a module.
        device: "auto", "cpu" or an accelerator such as "cuda:1", as for `flowvae.devices.device`.
        callbacks: called after every step and every validation, and may stop the run.

    Returns:
        Whether the budget is used up; False if the run was stopped before.

    Raises:
        UserError: if the directory exists (with ``resume``, if it has nothing to resume), another process
            trains the run, the data or the initial weights cannot be read, a loss stops being finite, or the
            directory is removed.
    """
    run, settings = Path(run), config.training
    system = _system(config, model)
    check_tracker(settings.track)
    on = devices.device(device)
    if on.index is not None:
        torch.accelerator.set_device_index(on.index)
    with unchanged_environment():
        accelerator = Accelerator(
            mixed_precision="no",  # the run's own setting applies, not accelerate's
            log_with=None if settings.track == "none" else settings.track,
            project_dir=run,
            cpu=on.type == "cpu",
        )
    main = accelerator.is_main_process
    if resume:
        opened = runs.Run(run)
        if opened.bundled:
            name = opened.name
            raise UserError(f"{name} has no state to resume from; start a new run with --start-from {name}")
        runs.check_revision(opened, config, system)
        resume = not (run / runs.BEGUN).exists()
    dataset = load_configured(config.data)
    if resume:
        _check_unchanged(dataset.spec, opened)
    with torch.random.fork_rng():
        state = _start(config, dataset, accelerator.device, resume, model)
        made = main and not resume and runs.claim(run, config, dataset.spec, system)
        with locked(run) if main else nullcontext(), _removed_unless_saved(run, made):
            accelerator.wait_for_everyone()  # for the lock: another process may have saved a state before
            if resume:
                state.restore(run)
                set_dropout(state)
            if main and resume:
                runs.revise(runs.Run(run), config)
                runs.cut_metrics(run, state.metrics_bytes)
            elif main:
                runs.create(run, config, dataset.spec, system)
            accelerator.wait_for_everyone()
            start_tracker(accelerator, run, config)
            try:
                finished = _take_steps(accelerator, state, dataset, run, settings, callbacks)
            except shares.SeparateError as error:
                raise UserError(
                    "this loss depends on all images of a batch at once; remove --gradient-accumulation"
                ) from error
            except FileNotFoundError as error:
                if run.exists():
                    raise
                raise UserError(
                    f"{run} was removed or renamed in training; resume it where it is now, or train again"
                ) from error
            except ProcessEndedError as error:
                raise UserError(
                    f"another process of the training ended after step {state.step}; start all of them "
                    f"again, with --resume {shlex.quote(str(run))} if it was saved"
                ) from error
            if finished:
                track_samples(accelerator, state)
            accelerator.wait_for_everyone()  # no process ends while another still needs it
            for tracker in accelerator.trackers:
                tracker.finish()
    return finished


def _system(config: Config, model: Model | None) -> str:
    """Return the name of the run's system.

    Raises:
        UserError: if there are two models, or none.
    """
    if (config.model is None) == (model is None):
        raise UserError("give one model: either config.model, or a module with config.model None")
    if config.model is not None and is_registered(config.model):
        return config.model.name
    kind = type(model if config.model is None else config.model)
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_unchanged(spec: DataSpec, run: runs.Run) -> None:
    """Check that images are still those for which the model was built; there may be more or fewer of them.

    Raises:
        UserError: if they are not.
    """
    for name in ("shape", "levels", "missing", "classes"):
        was, value = getattr(run.spec, name), getattr(spec, name)
        if value != was and not (name == "classes" and not was):  # which the first format did not record
            raise UserError(
                f"the data of {run.path} have changed: {name} was {was} and is {value}; resume it with "
                "the data that it was started with, or train a new run"
            )


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """Restore the environment variables afterwards, which libraries set."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _removed_unless_saved(run: Path, made: bool) -> Iterator[None]:
    """On an error, remove the directory if this process ``made`` it and nothing was saved into it."""
    try:
        yield
    except BaseException:
        if made and (run / runs.BEGUN).exists():
            shutil.rmtree(run, ignore_errors=True)
        raise


def _take_steps(
    accelerator: Accelerator,
    state: State,
    dataset: Dataset,
    run: Path,
    settings: TrainingConfig,
    callbacks: Sequence[Callback],
) -> bool:
    """Train, validate and save until the budget is used up; return False after a signal or a callback."""
    main, processes = accelerator.is_main_process, accelerator.num_processes
    process = accelerator.process_index
    model, players = state.model, state.players
    images_at_hand = len(dataset.train.images)
    per_epoch = steps_per_epoch(images_at_hand, settings.batch_size)
    parts = settings.gradient_accumulation
    whole = min(settings.batch_size, images_at_hand)
    validated = min(settings.validation_images, len(dataset.valid.images))
    per_validation = steps_per_validation(per_epoch, whole, validated)
    portions = [Share(process + place * processes, parts * processes, whole) for place in range(parts)]
    if parts > 1 and whole < parts * processes:
        raise UserError(
            f"gradient_accumulation is {parts}, and a process has {whole // processes} images per step; "
            "choose at most as many"
        )

    with (
        display(run.name, main) as shown,
        (run / runs.METRICS).open("ab") as metrics,
        interruptible() as interrupted,
    ):
        scores: dict[str, float] = {}
        records = Records(metrics, shown, accelerator, state, per_epoch)
        began, saved = time.monotonic() - state.seconds, state.seconds

        def used(seconds: float, ending: float = 0.0) -> float:
            return 1.0 if state.ended else spent(settings, state.step, per_epoch, seconds, ending)

        fraction, stop = used(state.seconds), False
        ending = _validation_seconds(state, dataset, settings, accelerator.device)
        from_main(accelerator, [*model.parameters(), *model.buffers()])
        shown.line(describe(dataset))
        for note in dataset.notes:
            shown.line(f"flowvae: warning: {dataset.name}: {note}")
        if processes > 1:
            shown.line(f"{processes} processes")
        narrow = main and settings.precision == "bfloat16"
        if narrow and (said := devices.bfloat16_caveat(accelerator.device)):
            shown.line(f"flowvae: warning: {said}")
        if state.ended:
            shown.line(f"training ended at step {state.step:,}, where validation had stopped improving")
        while fraction < 1 and not stop:
            seed_everything(settings.seed, state.step, 0)  # the same in all processes, see `flowvae.shares`
            factor = rate_factor(settings, state.step, fraction)
            batch = training_batch(
                dataset, settings.batch_size, settings.seed, state.step, process, processes
            ).to(accelerator.device)
            numbers = take_step(model, players, batch, state.step, factor, settings, portions)
            model.after_step()
            if not model.draws_weights:  # whose buffers are large, and are of weights only
                from_main(accelerator, model.buffers())
            state.average.update_parameters(model)
            state.step += 1
            seconds, wish = max(time.monotonic() - began, state.seconds), False  # some clocks are set back
            if main and callbacks:
                fraction = used(seconds, ending)
                latest = {name: value.item() for name, value in numbers.items()}
                progress = TrainingProgress(state.step, state.step / per_epoch, seconds, fraction, latest)
                wish = told_to_stop(callbacks, "on_step", progress)
            state.seconds, ending, stop = agreed(accelerator, seconds, ending, interrupted() or wish)
            fraction = used(state.seconds, ending)
            records.training(numbers, fraction, whole)

            # A budget in minutes holds another validation only if it holds the last one as well.
            after = used(state.seconds + ending, ending)
            validate = fraction >= 1 or (state.step % per_validation == 0 and after < 1)
            save = validate or stop or state.seconds - saved > SAVE_EVERY
            if save:
                state.check()
            if validate:
                shown.busy("validating")
                scores = _validate(state, dataset, settings, accelerator.device)
                for name, value in scores.items():
                    if not math.isfinite(value):
                        raise diverged(f"{name} of validation images", state.step)
                value = scores[model.best]
                if value < state.level_best:
                    state.level_best, state.level_best_step = value, state.step
                if value < state.best or model.draws_weights:
                    state.best = min(value, state.best)
                    if main:
                        runs.write_weights(run, state.average.module)
                ending = max(time.monotonic() - began - state.seconds, 0.0)
                state.seconds, ending, _ = agreed(accelerator, state.seconds + ending, ending, False)
                records.validation(scores, fraction)
                if fraction >= 1 and used(state.seconds) < 1:
                    # What was kept for this validation and not needed is no time for another step.
                    state.seconds = seconds_of(settings)
                if fraction < 1 and overfits(state, settings.patience, per_validation):
                    shown.line(regularize(state))
                    fraction = used(state.seconds)
            if validate and callbacks:
                progress = TrainingProgress(
                    state.step, state.step / per_epoch, state.seconds, fraction, scores
                )
                wish = main and told_to_stop(callbacks, "on_validation", progress)
                state.seconds, ending, stop = agreed(accelerator, state.seconds, ending, stop or wish)
            if save:
                saved = state.seconds
                if main:
                    state.save(run, metrics)
        if main and stop and fraction < 1:
            if not (run / runs.WEIGHTS).exists():  # stopped before the first validation
                runs.write_weights(run, state.average.module)
            path = shlex.quote(str(run))
            shown.line(f"stopped at step {state.step}; resume with: flowvae train --resume {path}")
        elif main:
            try:
                model.check_steps(state.step)
            except UserError as error:
                shown.line(f"flowvae: warning: {error}")
    return fraction >= 1


def _start(
    config: Config, dataset: Dataset, device: torch.device, resume: bool = False, model: Model | None = None
) -> State:
    settings = config.training
    seed_everything(settings.seed)
    if model is None:
        assert config.model is not None
        try:
            model = build_model(config.model, dataset.spec)
        except UserError as error:
            # Labels that are left out may be what the model misses.
            why = [note for note in dataset.notes if "labels" in note and "labels" in str(error)]
            raise UserError("; ".join([str(error), *why])) from None
    check_levels(model, dataset)
    check_missing(model, dataset)
    check_labels(model, dataset)
    if settings.gradient_checkpointing:
        _checkpoint(model)
    check_budget(model, dataset, settings)
    refuse_unused(model, settings)
    if not resume:
        for name, source in model.sources().items():
            runs.load_part(source, model.get_submodule(name))
    model.initialize(_some_images(dataset, settings.seed))
    model.initialize_each(all_images(dataset))
    if settings.start_from is not None and not resume:
        runs.load_weights(Path(settings.start_from), config.model, model)
    model.to(device)
    decay = 0.0 if model.draws_weights else settings.averaging
    state = State(model, averaged(model, decay), make_players(model, settings))
    if settings.compile:  # not the average, which is used too rarely
        for module in model.players().values():
            module.compile()
    return state


def check_budget(model: Model, dataset: Dataset, settings: TrainingConfig) -> None:
    """Check that a budget in epochs or steps is enough for the model.

    Raises:
        UserError: if it is not.
    """
    steps = steps_within(settings, steps_per_epoch(len(dataset.train.images), settings.batch_size))
    if steps is not None:
        model.check_steps(steps)


def _checkpoint(model: Model) -> None:
    if any(isinstance(part, BATCH_NORMS) for part in model.modules()):
        raise UserError(
            "gradient_checkpointing would update the statistics of batch norm twice per step; choose "
            "--normalization weight or act"
        )
    if not checkpoint_transformations(model):
        raise UserError(
            "gradient_checkpointing needs a chain of transformations, and this model has none; remove it"
        )


def _some_images(dataset: Dataset, seed: int) -> Tensor:
    """Draw training images to initialize from, as `_filled`."""
    count = len(dataset.train.images)
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return _filled(dataset, dataset.train.take(chosen[:START_IMAGES]), _means(dataset))


def all_images(dataset: Dataset) -> Iterator[Batch]:
    """Yield the training images in their order, as `_filled`."""
    means = _means(dataset)
    for places in torch.arange(len(dataset.train.images)).split(IMAGES_AT_ONCE):
        chosen = dataset.train.take(places)
        yield Batch(_filled(dataset, chosen, means), places, chosen.labels, chosen.observed)


def _means(dataset: Dataset) -> Tensor | None:
    """Means of the known values of each training pixel, [C, H, W] in [0, 1], 0 without any.

    None if no pixel is missing.
    """
    images, observed = dataset.train.images, dataset.train.observed
    if observed is None:
        return None
    return images.sum(0) / observed.sum(0).clamp(min=1) / (dataset.training_levels - 1)


def _filled(dataset: Dataset, chosen: Split, means: Tensor | None) -> Tensor:
    """Training images with ``means`` in place of missing pixels; with dynamic binarization, intensities."""
    images = as_float(chosen.images, dataset.training_levels)
    return images if chosen.observed is None or means is None else images.where(chosen.observed, means)


@torch.no_grad()
def _validate(
    state: State,
    dataset: Dataset,
    settings: TrainingConfig,
    device: torch.device,
) -> dict[str, float]:
    """Score the averaged weights on validation images; the number that chooses the weights comes first.

    Images and noise are the same every time, for every seed and any number of processes, which share the
    images: the choice of 2,000 images changes the mean by more than most seeds do.
    """
    available = len(dataset.valid.images)
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(0))
    batch = dataset.batch("valid", chosen[: settings.validation_images]).to(device)
    model = cast(Model, state.average.module).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [measured(few, model.validate) for few in batch.split(IMAGES_AT_ONCE)]
    scores = {name: torch.cat([part[name] for part in parts]).double().mean().item() for name in parts[0]}
    if model.best not in scores:
        raise UserError(
            f"validate returns {', '.join(scores)}; it must return {model.best}, which chooses the weights"
        )
    return {model.best: scores.pop(model.best), **scores}


def _validation_seconds(
    state: State,
    dataset: Dataset,
    settings: TrainingConfig,
    device: torch.device,
) -> float:
    """Estimate how long a validation takes from a part of it, if the budget is in minutes."""
    if settings.minutes is None and (settings.epochs or settings.steps):
        return 0.0
    few = dataclasses.replace(settings, validation_images=min(IMAGES_AT_ONCE, settings.validation_images))
    began = time.monotonic()
    _validate(state, dataset, few, device)
    images = min(settings.validation_images, len(dataset.valid.images))
    return (time.monotonic() - began) * images / min(IMAGES_AT_ONCE, images)
