"""Stochastic-gradient Hamiltonian Monte Carlo over the weights of networks, as an optimizer."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class SGHMC(torch.optim.Optimizer):
    r"""Draws parameters $\theta$ from $p(\theta) \propto \exp(-U(\theta) / T)$ (Chen, Fox & Guestrin 2014).

    U is the loss, and its gradient may be estimated from a batch. A step updates the momentum r first, then
    the parameters by the new momentum; masses are 1:

        ``r     <- (1 - a) r - sqrt(lr) dU/dtheta + N(0, 2 (a - b) T)``
        ``theta <- theta + sqrt(lr) r``

    In terms of the velocity ``v = sqrt(lr) r`` this is their equation 15: gradient descent with the learning
    rate lr and the momentum ``1 - a``, plus noise of the variance ``2 (a - b) lr T``. With T = 0 it is
    `torch.optim.SGD`; with a = 0 as well it is the symplectic Euler method, whose energy ``U + |r|^2 / 2``
    stays within O(sqrt(lr)) of its start. The state keeps r, not v, because the stationary distribution of r
    does not depend on a learning rate that follows a schedule.

    For a Gaussian target the mean is exact, and the variance along a direction of curvature c of U is too
    large by the factor ``1 + lr c / (4 - 2 a)``, up to O(lr^2), for b = 0. On a flat U, the variance of r is
    ``T / (1 - a / 2)``.

    Noise comes from torch's generator.

    Args:
        parameters: theta.
        lr: square of the integration step.
        friction: a, in [0, 1].
        noise_estimate: b, in [0, a]: half of lr / T times the variance of the noise of the gradient, which
            heats the chain as well. It is one number for all parameters.
        temperature: T, at least 0.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        friction: float = 0.1,
        noise_estimate: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        if not (lr >= 0 and 0 <= noise_estimate <= friction <= 1 and temperature >= 0):
            raise ValueError(
                f"lr = {lr}, friction = {friction}, noise_estimate = {noise_estimate}, temperature = "
                f"{temperature}; none may be negative, and noise_estimate <= friction <= 1"
            )
        super().__init__(
            parameters,
            {"lr": lr, "friction": friction, "noise_estimate": noise_estimate, "temperature": temperature},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closures
        for group in self.param_groups:
            friction, temperature = group["friction"], group["temperature"]
            deviation = (2 * (friction - group["noise_estimate"]) * temperature) ** 0.5
            stride = group["lr"] ** 0.5
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self._momentum(parameter)
                momentum.mul_(1 - friction).sub_(parameter.grad, alpha=stride)
                if deviation:
                    momentum.add_(torch.randn_like(momentum), alpha=deviation)
                parameter.add_(momentum, alpha=stride)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]
