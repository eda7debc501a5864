"""Players: the parts of a model with an optimizer each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn, random

from flowvae.batch import Batch
from flowvae.config import TrainingConfig
from flowvae.errors import UserError, did_you_mean
from flowvae.models import Model, Update
from flowvae.shares import ALL, Share, sharing
from flowvae.training.finite import broken_gradient, broken_weight, diverged, largest_weight
from flowvae.training.optimizer import Muon, adamw
from flowvae.training.parallel import add_up

LOSS = ""  # in `Player.sums`; no number that is shown has this name


@dataclass
class Player:
    """Parameters with their optimizer; ``rates`` are the highest learning rates of its groups."""

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    rates: list[float]
    sums: dict[str, Tensor] = field(default_factory=dict)
    """the loss and what is shown, of the updates since the last step"""

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def add(self, update: Update, weight: float = 1.0) -> None:
        """Add the gradient of an update's loss, and the numbers that it shows, with a weight."""
        (weight * update.loss).backward(inputs=self.parameters)  # other players' gradients cost nothing
        for name, value in {LOSS: update.loss, **update.shown}.items():
            self.sums[name] = self.sums.get(name, 0) + weight * value.detach()

    def total(self) -> tuple[dict[str, Tensor], Tensor]:
        """Add up over processes; return the loss and what was shown, and the norm of the gradient."""
        sums, self.sums = self.sums, {}
        gradients = [each.grad for each in self.parameters if each.grad is not None]
        add_up([*sums.values(), *gradients])
        return sums, nn.utils.get_total_norm(gradients)

    def step(self, factor: float, norm: Tensor, clipping: float) -> None:
        """Take a step at ``factor`` times the highest rate, with a gradient of this norm, clipped."""
        nn.utils.clip_grads_with_norm_(self.parameters, clipping, norm)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = factor * rate
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_players(model: Model, settings: TrainingConfig) -> dict[str, Player]:
    """Make the model's players, by name; the run's optimizer is used unless the model has its own for one."""
    own = model.optimizers()
    made = {}
    for name, module in model.players().items():
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if name in own:
            optimizer = own[name](parameters)
        else:
            options = (parameters, settings.learning_rate, settings.weight_decay, settings.beta1)
            half = torch.bfloat16 if settings.precision == "bfloat16" else None
            optimizer = Muon(*options, half) if settings.optimizer == "muon" else adamw(*options)
        made[name] = Player(parameters, optimizer, [group["lr"] for group in optimizer.param_groups])
    return made


def has_one_loss(model: Model) -> bool:
    """Return whether training lowers one loss, which validation measures as well."""
    return len(model.players()) == 1 and not model.draws_weights


def refuse_unused(model: Model, settings: TrainingConfig) -> None:
    """Refuse options of training, other than their defaults, that have no effect on the model.

    Raises:
        UserError: if there are any.
    """
    unused = {}
    if model.draws_weights:
        unused["averaging"] = "whose weights are draws from a posterior, and are not averaged"
    if model.optimizers().keys() == model.players().keys():
        of_run = ("optimizer", "learning_rate", "weight_decay", "beta1")
        unused |= dict.fromkeys(of_run, "which has optimizers of its own, with their own options")
    if settings.patience and not has_one_loss(model):
        unused["patience"] = "whose validation does not measure what it learns"
    for name, reason in unused.items():
        if getattr(settings, name) != getattr(TrainingConfig(), name):
            raise UserError(f"{name} has no effect on this model, {reason}; remove it")


def updates(
    model: Model, players: Mapping[str, Player], batch: Batch, step: int, half: bool, share: Share = ALL
) -> Iterator[Update]:
    """Yield the model's updates of one step, checked, from the images of a share of its batch.

    With ``half``, its networks compute in bfloat16.

    Raises:
        UserError: for an update of an unknown player, or a loss that is not a scalar.
    """
    iterator = model.updates(batch, step)
    while True:
        with sharing(share), torch.autocast(batch.images.device.type, torch.bfloat16, enabled=half):
            update = next(iterator, None)
        if update is None:
            return
        if update.player not in players:
            raise UserError(
                f"no player {update.player!r} at step {step}; {did_you_mean(update.player, players)}"
            )
        if update.loss.ndim:
            raise UserError(
                f"the loss of {update.player} has the shape {tuple(update.loss.shape)} at step {step}; "
                "it must be a scalar"
            )
        yield update


def take_step(
    model: Model,
    players: Mapping[str, Player],
    batch: Batch,
    step: int,
    factor: float,
    settings: TrainingConfig,
    portions: Sequence[Share],
) -> dict[str, Tensor]:
    """Take the model's updates of one step, and return what they show, of the whole batch.

    Args:
        model, players: what is trained.
        batch: the images of this process.
        step: position in training.
        factor: factor on the highest learning rate.
        settings: those of the run.
        portions: shares of the whole batch; the i-th of n has every n-th image of ``batch``, from the i-th.

    Raises:
        UserError: as `updates`, and if a loss, a number that is shown, or a gradient is not finite.
    """
    of_portions = [
        updates(
            model,
            players,
            batch.at(slice(place, None, len(portions))),
            step,
            settings.precision == "bfloat16",
            share,
        )
        for place, share in enumerate(portions)
    ]
    device, numbers = batch.images.device, dict[str, Tensor]()
    while True:
        update = None
        for place, (portion, share) in enumerate(zip(of_portions, portions, strict=True)):
            # All but the last leave the generators as they were, so that all portions have the same noise.
            with random.fork_rng(
                [] if device.type == "cpu" else [device],
                enabled=place < len(portions) - 1,
                device_type=device.type if device.type != "cpu" else "cuda",
            ):
                update = next(portion, None)
            if update is None:
                return numbers
            players[update.player].add(update, share.weight)
        assert update is not None, "there is at least one portion"
        player = players[update.player]
        shown, norm = player.total()
        if not torch.stack([*shown.values(), norm]).isfinite().all():  # at once: a GPU is waited for
            raise _broken_step(model, players, update.player, shown, step)
        player.step(factor, norm, settings.gradient_clipping)
        numbers |= {name: value for name, value in shown.items() if name != LOSS}


def _broken_step(
    model: Model, players: Mapping[str, Player], name: str, shown: Mapping[str, Tensor], step: int
) -> UserError:
    """Say what made the loss of a player, a number that it shows, or its gradient not finite."""
    weight = broken_weight(model, {name: player.optimizer for name, player in players.items()})
    if weight is not None:
        return diverged(weight, step)
    for of_loss, value in shown.items():
        if not value.isfinite():
            what = f"{of_loss or 'the loss'} of {name}"
            return diverged(what, step, largest_weight(model.players()[name]))
    return diverged(broken_gradient(model) or f"the gradient of {name}", step)
