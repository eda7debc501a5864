"""The rule about numbers that are not finite: training stops at the first, and none is saved."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from flowvae.errors import UserError
from flowvae.models import Model

DIVERGED = "stopped being finite"


def diverged(what: str, step: int, hint: str = "") -> UserError:
    """Make the error that ends a training when ``what`` is not finite at a step."""
    return UserError(
        f"{what} {DIVERGED} at step {step}{hint}; lower --learning-rate, or the model's own rate, and train "
        "again (what was saved is kept)"
    )


@torch.no_grad()
def broken(model: Model, optimizers: Mapping[str, torch.optim.Optimizer], average: nn.Module) -> str | None:
    """Name the first value of a training's state that is not finite, with its player; None if all are.

    First `broken_weight`, then statistics, then averages.
    """
    titles = _titles(model)
    values = [(titles[name], value) for name, value in model.state_dict().items()]
    values += [(f"the average of {titles[name]}", value) for name, value in average.state_dict().items()]
    return broken_weight(model, optimizers) or _first_broken(values)


@torch.no_grad()
def broken_weight(model: Model, optimizers: Mapping[str, torch.optim.Optimizer]) -> str | None:
    """Name the first weight that is not finite, or of which an optimizer keeps a value that is not."""
    titles = _titles(model)
    names = {id(weight): titles[name] for name, weight in model.named_parameters()}
    weights = [(names[id(weight)], weight) for weight in model.parameters()]
    moments = [
        (f"{kind} of {names[id(weight)]}", value)
        for optimizer in optimizers.values()
        for weight, kept in optimizer.state.items()
        for kind, value in kept.items()
        if isinstance(value, Tensor)
    ]
    return _first_broken([*weights, *moments])


def broken_gradient(model: Model) -> str | None:
    """Name the first weight whose gradient is not finite, with its player; None if there is none."""
    titles = _titles(model)
    gradients = ((titles[name], weight.grad) for name, weight in model.named_parameters())
    name = _first_broken((title, gradient) for title, gradient in gradients if gradient is not None)
    return name and f"the gradient of {name}"


@torch.no_grad()
def largest_weight(player: nn.Module) -> str:
    """Say which weight of a player is the largest, as a hint in parentheses."""
    weights = ((name, weight) for name, weight in player.named_parameters() if weight.numel())
    size, name = max((weight.abs().max().item(), name) for name, weight in weights)
    return f" (its largest weight is {size:.3g}, in {name})"


def _first_broken(values: Iterable[tuple[str, Tensor]]) -> str | None:
    return next((name for name, value in values if not value.isfinite().all()), None)


def _titles(model: Model) -> dict[str, str]:
    """Return the names of weights and statistics with the player that each belongs to, by the name alone."""
    owners = {
        id(part): player
        for player, module in model.players().items()
        for part in (*module.parameters(), *module.buffers())
    }
    return {
        name: f"{name} of {owners[id(part)]}" if id(part) in owners else name
        for name, part in model.state_dict(keep_vars=True).items()
    }
