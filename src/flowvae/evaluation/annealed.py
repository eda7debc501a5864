"""Annealed importance sampling with Hamiltonian transitions: pure functions of log densities of codes."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from flowvae.noise import normal, uniform

LogDensities = Callable[[Tensor], tuple[Tensor, Tensor]]
"""maps z [C, B, D] to log f_0 and log f_1, [C, B] each; f_0 is normalized"""

STEEPNESS = 4.0
"""delta of the schedule of Wu et al."""
ACCEPTANCE = 0.65
"""share of accepted moves towards which step sizes are adapted"""
FIRST_STEP = 0.2
ADAPTATION = 0.1
"""change of the log step size at late moves, relative to the excess of acceptance"""
JITTER = 0.2
"""largest relative change of a step size from move to move, at random: with the same length each time, some
dimensions could come back to where they started"""
MEMORY = 50
"""number of moves over which `Chains.worst` averages the acceptance"""


class Chains(NamedTuple):
    """What C chains for each of B images have found."""

    log_weights: Tensor
    """float64 [C, B], in nats; the mean of their exponentials estimates the normalizing constant of the last
    distribution divided by that of the first"""
    acceptance: Tensor
    """share of accepted moves, float64 [B]"""
    worst: Tensor
    """beta at which the recent acceptance was lowest, float64 [B]"""


class Position(NamedTuple):
    """Codes of the chains, and the values at them of both log densities."""

    z: Tensor
    """[C, B, D]"""
    log_densities: Tensor
    """[2, C, B]"""
    gradients: Tensor
    """with respect to z, [2, C, B, D]"""

    @classmethod
    def at(cls, z: Tensor, densities: LogDensities) -> "Position":
        """Evaluate both log densities at z [C, B, D]."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            first, second = densities(z)
            gradients = [
                torch.autograd.grad(each.sum(), z, retain_graph=keep)[0]
                for each, keep in ((first, True), (second, False))
            ]
        return cls(z.detach(), torch.stack([first, second]).detach(), torch.stack(gradients))

    def log_density(self, beta: float) -> Tensor:
        """Compute ``(1 - beta) log f_0 + beta log f_1``, [C, B]."""
        return (1 - beta) * self.log_densities[0] + beta * self.log_densities[1]

    def gradient(self, beta: float) -> Tensor:
        """Compute the gradient of ``log_density``, [C, B, D]."""
        return (1 - beta) * self.gradients[0] + beta * self.gradients[1]

    def where(self, condition: Tensor, other: "Position") -> "Position":
        """Return this position where the ``condition`` [C, B] holds, and the other one elsewhere."""
        return Position(
            torch.where(condition.unsqueeze(-1), self.z, other.z),
            torch.where(condition, self.log_densities, other.log_densities),
            torch.where(condition.unsqueeze(-1), self.gradients, other.gradients),
        )


def sigmoid_schedule(distributions: int) -> Tensor:
    """Return T + 1 values beta from 0 to 1, float64, for T distributions after the first.

    ``beta_t = (s_t - s_0) / (s_T - s_0)``, ``s_t = sigmoid(delta (2 t / T - 1))``, delta = 4 (Wu et al. 2017,
    section 6.2): denser near 0 and 1, where the distributions change most.

    >>> sigmoid_schedule(4)
    tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    values = torch.linspace(-STEEPNESS, STEEPNESS, distributions + 1, dtype=torch.float64).sigmoid()
    return (values - values[0]) / (values[-1] - values[0])


def leapfrog(
    position: Position,
    momentum: Tensor,
    step_size: Tensor,
    beta: float,
    steps: int,
    densities: LogDensities,
) -> tuple[Position, Tensor]:
    """Follow Hamilton's equations for ``steps`` steps: volume-preserving, and reversible up to rounding.

    The energy is ``|momentum|^2 / 2 - log_density(beta)``. It is conserved up to ``O(step_size^2)``.

    Args:
        position: where to start.
        momentum: [C, B, D].
        step_size: [B].
        beta: of the density.
        steps: L, number of steps; each needs one gradient.
        densities: the log densities.

    Returns:
        The last position and momentum.
    """
    step = step_size.unsqueeze(-1)
    momentum = momentum + step / 2 * position.gradient(beta)
    for left in reversed(range(steps)):
        position = Position.at(position.z + step * momentum, densities)
        momentum = momentum + (step if left else step / 2) * position.gradient(beta)
    return position, momentum


def move(
    position: Position,
    step_size: Tensor,
    beta: float,
    steps: int,
    densities: LogDensities,
    noise: torch.Generator | None = None,
) -> tuple[Position, Tensor]:
    """Make one Hamiltonian Monte Carlo move, which leaves the density at ``beta`` invariant.

    (Duane et al. 1987; Neal 2011.) New standard normal momentum, `leapfrog`, and Metropolis's rule. A
    proposal with a density that is not finite is rejected.

    Returns:
        The position afterwards, and the probability with which the proposal was accepted, [C, B].
    """
    momentum = normal(noise, position.z.shape, position.z)
    proposed, after = leapfrog(position, momentum, step_size, beta, steps, densities)
    kinetic = (momentum.square().sum(2) - after.square().sum(2)) / 2
    gain = proposed.log_density(beta) - position.log_density(beta) + kinetic
    probability = gain.nan_to_num(nan=-math.inf, posinf=-math.inf).clamp(max=0).exp()
    accepted = uniform(noise, probability.shape, probability) < probability
    return proposed.where(accepted, position), probability


def anneal(
    start: Tensor,
    densities: LogDensities,
    betas: Tensor,
    leapfrog_steps: int = 10,
    noise: torch.Generator | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> Chains:
    """Take chains from one distribution to another in small steps, and weight them (Neal 2001).

    ``log f_beta = (1 - beta) log f_0 + beta log f_1``, for ``beta`` in ``betas``. With ``z_0 = start``,

    ``log w = sum_t log f_{beta_t}(z_{t-1}) - log f_{beta_{t-1}}(z_{t-1})``, ``z_t`` a move at beta_t from
    z_{t-1}.

    From 0 to 1, with exact draws of the normalized f_0, the mean of w is the normalizing constant of f_1: its
    logarithm is at most that in expectation. From 1 to 0, with exact draws of f_1, the mean of w is the
    inverse of that constant.

    The step size of an image is adapted after every move by the mean acceptance of its chains: after move n,
    its logarithm changes by 0.1 + 1 / n times the excess over 0.65. So a move depends on the past of its own
    chains, and the statements above hold exactly only for step sizes that do not; with many chains, an
    image's step sizes are nearly the same whatever its chains do. Wu et al. (2017) adapt to the same chains
    as well, with one step size for all images: by 2% after each move, up or down, as a moving average of the
    acceptance is above or below the target.

    Args:
        start: z [C, B, D]: C chains for each of B images.
        densities: log f_0 and log f_1.
        betas: from 0 to 1 or from 1 to 0, float64 [T + 1], T at least 2.
        leapfrog_steps: L, number of steps of one move.
        noise: generator to draw from, or None for torch's own.
        report: called with the finished fraction.
    """
    path = betas.tolist()
    position = Position.at(start, densities)
    step_size = start.new_full(start.shape[1:2], FIRST_STEP)
    log_weights = torch.zeros(start.shape[:2], dtype=torch.float64)
    total = torch.zeros(start.shape[1], dtype=torch.float64)
    recent, lowest = torch.full_like(total, ACCEPTANCE), torch.full_like(total, math.inf)
    worst = torch.full_like(total, path[0])
    for number, (before, beta) in enumerate(pairwise(path), 1):
        first, second = position.log_densities.cpu().double()
        log_weights += (beta - before) * (second - first)
        if number == len(path) - 1:  # no weight depends on a move at the last beta
            break
        jittered = step_size * (1 + JITTER * (2 * uniform(noise, step_size.shape, step_size) - 1))
        position, probability = move(position, jittered, beta, leapfrog_steps, densities, noise)
        accepted = probability.mean(0)
        step_size = step_size * ((ADAPTATION + 1 / number) * (accepted - ACCEPTANCE)).exp()
        accepted = accepted.cpu().double()
        total += accepted
        recent += (accepted - recent) / MEMORY
        worst = torch.where(recent < lowest, beta, worst)
        lowest = lowest.minimum(recent)
        report(number / (len(path) - 1))
    return Chains(log_weights, total / (len(path) - 2), worst)
