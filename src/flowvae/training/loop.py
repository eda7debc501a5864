"""The training loop."""

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from flowvae import runs
from flowvae.build import build_model
from flowvae.config import Config, TrainingConfig
from flowvae.data import Dataset, as_float, load_dataset, steps_per_epoch, training_batch
from flowvae.densities import LogDensities, take_path_derivative
from flowvae.errors import UserError
from flowvae.evaluation import Bounds, bounds, check_levels
from flowvae.flows import checkpoint_transformations
from flowvae.memory import keep_freed_memory
from flowvae.models import Model
from flowvae.objectives import elbo, free_bits_elbo, importance_weighted_bound, warm_up
from flowvae.training.averaging import averaged
from flowvae.training.checkpoint import State
from flowvae.training.interrupt import interruptible
from flowvae.training.lock import locked
from flowvae.training.optimizer import Muon, adamw
from flowvae.training.progress import display
from flowvae.training.records import Records
from flowvae.training.schedule import learning_rate, spent
from flowvae.training.trackers import check_tracker, start_tracker

SAVE_EVERY = 60.0  # seconds
DIVERGED = "the loss stopped being finite"
START_IMAGES = 10_000  # from which a model takes what it starts with, such as the mean image


def train(run: str | Path, config: Config, resume: bool = False) -> bool:
    """Train into the folder ``run`` until a budget of the configuration is used up, or Ctrl-C or SIGTERM.

    The folder gets the averaged weights that score best on validation images (``model.safetensors``), the
    metrics, and the state to resume from, after every epoch and every minute. Batches and noise are a pure
    function of (seed, step): with a budget in steps or epochs, a run that was killed and resumed ends with
    the weights of an unbroken one, bit for bit on a CPU. One process at a time trains a run. A run that was
    killed before anything of it was saved is begun again, with ``resume`` or without.

    Returns:
        Whether the budget is used up: False where a signal came first.

    Raises:
        UserError: the folder exists (or, with ``resume``, holds nothing to resume), another process trains
            it, the data or the weights to start from cannot be read, or the loss stops being finite.
    """
    keep_freed_memory()
    run, settings = Path(run), config.training
    check_tracker(settings.track)
    accelerator = Accelerator(
        mixed_precision="no",  # ours is a setting of the run, whatever accelerate's own is
        log_with=None if settings.track == "none" else settings.track,
        project_dir=run,
    )
    main = accelerator.is_main_process
    if resume:
        if runs.is_bundled(run):
            raise UserError(f"{run} comes without a state to resume; train anew with --start-from {run}")
        runs.check_revision(run, config)
        resume = not (run / runs.BEGUN).exists()
    dataset = load_dataset(config.data.data, config.data.binarization, image_size=config.data.image_size)
    state = _start(config, dataset, accelerator.device, resume)
    made = main and not resume and runs.claim(run)
    with locked(run) if main else nullcontext(), _removed_unless_saved(run, made):
        accelerator.wait_for_everyone()  # before the lock, another process may have saved another state
        if resume:
            state.restore(run)
        if main and resume:
            runs.revise(run, config)
            runs.cut_metrics(run, state.metrics_bytes)
        elif main:
            runs.create(run, config, dataset.shape)
        accelerator.wait_for_everyone()
        start_tracker(accelerator, run, config)
        finished = _take_steps(accelerator, state, dataset, run, settings)
        accelerator.end_training()
    return finished


@contextmanager
def _removed_unless_saved(run: Path, made: bool) -> Iterator[None]:
    """A folder that was made here goes where nothing was saved: there is nothing in it to look at."""
    try:
        yield
    except BaseException:
        if made and (run / runs.BEGUN).exists():
            shutil.rmtree(run, ignore_errors=True)
        raise


def _take_steps(
    accelerator: Accelerator, state: State, dataset: Dataset, run: Path, settings: TrainingConfig
) -> bool:
    """Train, validate and save until the budget is used up, or, with False, a signal comes."""
    main, process, processes = (
        accelerator.is_main_process,
        accelerator.process_index,
        accelerator.num_processes,
    )
    parallel, state.optimizer = accelerator.prepare(state.model, state.optimizer)
    forward = torch.compile(parallel) if settings.compile else parallel
    half = settings.precision == "bfloat16"
    images_at_hand = len(dataset.train.images)
    per_epoch = steps_per_epoch(images_at_hand, settings.batch_size)

    with (
        display(run.name, main) as shown,
        (run / runs.METRICS).open("ab") as metrics,
        interruptible() as interrupted,
    ):
        records = Records(metrics, shown, accelerator, state, per_epoch)
        began, saved = time.monotonic() - state.seconds, state.seconds
        fraction, stop = spent(settings, state.step, per_epoch, state.seconds), False
        while fraction < 1 and not stop:
            runs.seed_everything(settings.seed, state.step, process)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(settings, state.step, fraction)
            images = training_batch(
                dataset, settings.batch_size, settings.seed, state.step, process, processes
            )
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=half):
                densities = forward(images.to(accelerator.device), settings.samples)
            loss = -_objective(settings, densities, state.step)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(parallel.parameters(), settings.gradient_clipping)
            if not math.isfinite(loss.item() + float(norm or 0)):
                raise _not_finite(state.step)
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.average.update_parameters(state.model)
            state.step += 1
            state.seconds, stop = _agreed(accelerator, time.monotonic() - began, interrupted())
            fraction = spent(settings, state.step, per_epoch, state.seconds)
            records.training(densities, fraction, min(settings.batch_size, images_at_hand))

            validate = fraction >= 1 or state.step % per_epoch == 0
            if main and validate:
                scores = _validate(state, dataset, settings, accelerator.device)
                weighted = settings.objective == "importance-weighted"
                score = scores.negative_log_marginal if weighted else scores.negative_elbo
                if not all(bound.isfinite().all() for bound in scores):
                    raise _not_finite(state.step)  # before a state is saved that no resuming could mend
                if (value := score.mean().item()) < state.best:
                    state.best = value
                    runs.write_weights(run, state.average.module)
                state.seconds = time.monotonic() - began
                records.validation(scores, settings.objective)
            if main and (validate or state.seconds - saved > SAVE_EVERY):
                state.save(run, metrics)
                saved = state.seconds
        if main and stop and fraction < 1:
            state.save(run, metrics)
            if not (run / runs.WEIGHTS).exists():  # no validation yet, but something to look at
                runs.write_weights(run, state.average.module)
            shown.line(f"stopped at step {state.step}; go on with: flowvae train --resume {run}")
    return fraction >= 1


def _start(config: Config, dataset: Dataset, device: torch.device, resume: bool = False) -> State:
    settings = config.training
    runs.seed_everything(settings.seed)
    model = build_model(config.model, dataset.shape)
    check_levels(model, dataset)
    if settings.gradient_checkpointing and not checkpoint_transformations(model):
        raise UserError("gradient_checkpointing is for chains of transformations, and this model has none")
    model.initialize(_some_images(dataset, settings.seed))
    if settings.start_from is not None and not resume:
        runs.load_weights(Path(settings.start_from), config.model, model)
    if settings.path_derivative and settings.objective == "elbo":
        take_path_derivative(model)
    model.to(device)
    make = Muon if settings.optimizer == "muon" else adamw
    optimizer = make(model.parameters(), settings.learning_rate, settings.weight_decay)
    return State(model, averaged(model, settings.averaging), optimizer)


def _some_images(dataset: Dataset, seed: int) -> Tensor:
    """Training images to start from, drawn at random; intensities where every batch is binarized anew."""
    everything = dataset.train.images
    chosen = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))
    return as_float(everything[chosen[:START_IMAGES]], dataset.training_levels)


def _not_finite(step: int) -> UserError:
    return UserError(
        f"{DIVERGED} at step {step}; lower --learning-rate and train again (the model and "
        "the state saved before, if any, are kept)"
    )


def _agreed(accelerator: Accelerator, seconds: float, stop: bool) -> tuple[float, bool]:
    """The main process's clock and wish to stop: processes that leave the loop apart wait for ever."""
    if accelerator.num_processes == 1:
        return seconds, stop
    said = broadcast(torch.tensor([seconds, stop], dtype=torch.float64, device=accelerator.device))
    seconds, wish = cast(Tensor, said).tolist()
    return seconds, bool(wish)


def _objective(settings: TrainingConfig, densities: LogDensities, step: int) -> Tensor:
    beta = warm_up(step, settings.kl_warm_up)
    if settings.objective == "importance-weighted":
        return importance_weighted_bound(densities, beta).mean()
    if settings.free_bits:
        return free_bits_elbo(densities, settings.free_bits, beta)
    return elbo(densities, beta).mean()


def _validate(state: State, dataset: Dataset, settings: TrainingConfig, device: torch.device) -> Bounds:
    """The averaged weights on validation images: the same ones, and the same noise, every time.

    Whatever the seed of the run: the choice of 2,000 images moves the mean by more than most seeds do.
    """
    everything = dataset.valid.images
    chosen = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    images = as_float(everything[chosen[: settings.validation_images]], dataset.levels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        samples = settings.samples if settings.objective == "importance-weighted" else 1
        return bounds(cast(Model, state.average.module).eval(), images.to(device), samples)
