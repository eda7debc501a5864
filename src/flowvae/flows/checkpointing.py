"""Gradient checkpointing of chains."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def perhaps_checkpointed(
    checkpointed: bool, function: Callable[..., tuple[Tensor, Tensor]], *given: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A part of a chain, applied; of a checkpointed chain, to be computed again for its gradient."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
    return function(*given)


def checkpoint_transformations(module: nn.Module) -> int:
    """Let the chains within ``module`` compute their parts again for the gradient, instead of keeping it all.

    (Chen et al. 2016.) What is kept of a chain is then the value between its parts; a chain within a chain is
    a part like any other. The gradient is the same, for about a third more of the chain's arithmetic.

    Returns:
        How many chains there are: modules with a ``checkpointed``.
    """
    if hasattr(module, "checkpointed"):
        module.checkpointed = True  # type: ignore[assignment]  # a bool, and no module
        return 1
    return sum(checkpoint_transformations(child) for child in module.children())
