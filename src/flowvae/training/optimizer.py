"""Optimizers: Muon for convolution kernels, AdamW for all other parameters."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SMALLEST_SIDE = 16  # of a kernel as a matrix; narrower ones are left to AdamW


class Muon(torch.optim.Optimizer):
    r"""Steps of equal size in all directions of a kernel's matrix [outputs, inputs x height x width].

    ``M <- m M + (1 - m) G``, and the kernel moves by ``-lr 0.2 sqrt(larger side) U V'``: the singular value
    decomposition ``U S V'`` of ``(1 - m) G + m M`` without its singular values, by five Newton-Schulz
    iterations (Jordan et al. 2024). The factor makes a step's root mean square that of AdamW (Liu et al.
    2025), so that one learning rate serves both. PyTorch's own Muon takes matrices only, and always iterates
    in bfloat16, which most CPUs are slow at.

    Args:
        parameters: all parameters; kernels are those of four axes whose matrix has no side below 16.
        learning_rate: learning rate of both optimizers.
        weight_decay: decoupled weight decay of both.
        beta1: decay of AdamW's running mean of gradients.
        iterates_in: type of the numbers of the iterations; None for that of the kernels.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
        beta1: float = 0.9,
        iterates_in: torch.dtype | None = None,
    ) -> None:
        self._type = iterates_in
        parameters = list(parameters)
        kernels = [parameter for parameter in parameters if _is_kernel(parameter)]
        others = [parameter for parameter in parameters if not _is_kernel(parameter)]
        self._adamw = adamw(others, learning_rate, weight_decay, beta1)
        own = {"params": kernels, "lr": learning_rate, "weight_decay": weight_decay}
        super().__init__([*self._adamw.param_groups, own], {})

    def __getstate__(self) -> dict[str, Any]:
        own = {"_adamw": self._adamw, "_type": self._type}  # needed by copies as well
        return {**super().__getstate__(), **own}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closures
        *others, own = self.param_groups
        # Loading a state replaces both.
        self._adamw.state, self._adamw.param_groups = self.state, others
        self._adamw.step()
        same_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for kernel in own["params"]:
            if kernel.grad is not None:
                same_shape[kernel.shape].append(kernel)
        for shape, kernels in same_shape.items():
            momenta = torch.stack([self._momentum(kernel) for kernel in kernels]).flatten(2)
            directions = orthogonalized(momenta.to(self._type or momenta.dtype)).to(momenta)
            size = 0.2 * own["lr"] * max(directions.shape[1:]) ** 0.5
            for kernel, direction in zip(kernels, directions, strict=True):
                kernel.mul_(1 - own["lr"] * own["weight_decay"]).sub_(direction.reshape(shape), alpha=size)

    def _momentum(self, kernel: nn.Parameter) -> Tensor:
        assert kernel.grad is not None
        state = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(kernel)
        momentum = state["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
        return kernel.grad.lerp(momentum, MOMENTUM)  # Nesterov's


def adamw(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, beta1: float = 0.9
) -> torch.optim.Optimizer:
    """Make AdamW for short runs, whose running means must forget the gradients of the first steps soon."""
    return torch.optim.AdamW(
        parameters, learning_rate, betas=(beta1, 0.99), weight_decay=weight_decay, fused=True
    )


def orthogonalized(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Move the singular values of matrices [N, rows, columns] to about 1, between 0.7 and 1.2.

    Values below about 0.3% of the Frobenius norm stay smaller. Iterates ``X <- a X + b (X X') X + c (X X')^2
    X``, which acts on the singular values only, with the coefficients of Jordan et al. (2024), who trade
    exactness for a steep rise at 0.

    >>> matrices = orthogonalized(torch.randn(3, 20, 50))
    >>> singular = torch.linalg.svdvals(matrices)
    >>> bool((singular > 0.6).all() and (singular < 1.3).all())
    True
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _is_kernel(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 4 and min(len(parameter), parameter[0].numel()) >= SMALLEST_SIDE
