"""Stochastic-gradient Hamiltonian Monte Carlo over the weights of networks, as an optimizer."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

DECAY = 0.99
"""decay of the running mean of squared gradients"""
LIGHTEST = 1e-5
"""lower bound of masses, in units of the gradient"""


class SGHMC(torch.optim.Optimizer):
    r"""Draws parameters $\theta$ from $p(\theta) \propto \exp(-U(\theta) / T)$ (Chen, Fox & Guestrin 2014).

    U is the loss, and its gradient may be estimated from a batch. A step updates the momentum r first, then
    the parameters by the new momentum. With masses of 1:

        ``r     <- (1 - a) r - sqrt(lr) dU/dtheta + N(0, 2 (a - b) T)``
        ``theta <- theta + sqrt(lr) r``

    In terms of the velocity ``v = sqrt(lr) r`` this is their equation 15: gradient descent with the learning
    rate lr and the momentum ``1 - a``, plus noise of the variance ``2 (a - b) lr T``. With T = 0 it is
    `torch.optim.SGD`; with a = 0 as well it is the symplectic Euler method, whose energy ``U + |r|^2 / 2``
    stays within O(sqrt(lr)) of its start. With a = 1 it is stochastic-gradient Langevin dynamics. The state
    keeps r, not v, because the stationary distribution of r does not depend on a learning rate that follows a
    schedule.

    For a Gaussian target the mean is exact, and the variance along a direction of curvature c of U is too
    large by the factor ``1 + lr c / (4 - 2 a)``, up to O(lr^2), for b = 0. On a flat U, the variance of r is
    ``T / (1 - a / 2)``.

    A parameter with the mass m has the learning rate ``lr / m``. Masses adapt in the first steps only and are
    fixed afterwards, so they do not affect the target (Springenberg et al. 2016):
    ``m = sqrt(mean of squared gradients) + 1e-5``, the running mean of Adam. With T = 0 and a = 1, these
    first steps are those of `torch.optim.Adam` with ``betas=(0, 0.99)``. Afterwards, the mean is the largest
    of the second half of these steps: masses that belong to the smallest gradients are too light, and the
    chain is unstable, once gradients grow again.

    Noise comes from torch's generator.

    Args:
        parameters: theta.
        lr: square of the integration step.
        friction: a, in [0, 1].
        noise_estimate: b, in [0, a]: half of lr / T times the variance of the noise of the gradient, which
            heats the chain as well. It is one number for all parameters.
        temperature: T, at least 0.
        adaptation: number of steps in which masses adapt; 0 for masses of 1.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        friction: float = 0.1,
        noise_estimate: float = 0.0,
        temperature: float = 1.0,
        adaptation: int = 0,
    ) -> None:
        if not (lr >= 0 and 0 <= noise_estimate <= friction <= 1 and temperature >= 0):
            raise ValueError(
                f"lr = {lr}, friction = {friction}, noise_estimate = {noise_estimate}, temperature = "
                f"{temperature}; none may be negative, and noise_estimate <= friction <= 1"
            )
        options = {"lr": lr, "friction": friction, "noise_estimate": noise_estimate}
        super().__init__(parameters, {**options, "temperature": temperature, "adaptation": adaptation})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closures
        for group in self.param_groups:
            friction = group["friction"]
            deviation = (2 * (friction - group["noise_estimate"]) * group["temperature"]) ** 0.5
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                    if group["adaptation"]:
                        state["step"] = torch.zeros((), dtype=torch.int64)
                        state["exp_avg_sq"] = torch.zeros_like(parameter)
                        state["largest"] = torch.zeros_like(parameter)
                stride = group["lr"] ** 0.5 * self._root_of_inverse_mass(
                    state, parameter.grad, group["adaptation"]
                )
                momentum = state["momentum"].mul_(1 - friction).sub_(stride * parameter.grad)
                if deviation:
                    momentum.add_(torch.randn_like(momentum), alpha=deviation)
                parameter.add_(stride * momentum)

    def _root_of_inverse_mass(self, state: dict[str, Tensor], gradient: Tensor, adaptation: int) -> Tensor:
        if not adaptation:
            return torch.ones_like(gradient)
        if state["step"] == adaptation:
            unbiased = state["largest"].clone()
        else:
            state["step"] += 1
            state["exp_avg_sq"].lerp_(gradient.square(), 1 - DECAY)
            unbiased = state["exp_avg_sq"] / (1 - DECAY ** int(state["step"]))
            if 2 * state["step"] >= adaptation:
                torch.maximum(state["largest"], unbiased, out=state["largest"])
        return unbiased.sqrt_().add_(LIGHTEST).rsqrt_()
