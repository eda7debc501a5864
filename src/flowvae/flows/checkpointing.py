"""Gradient checkpointing of chains."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def perhaps_checkpointed(
    checkpointed: bool, function: Callable[..., tuple[Tensor, Tensor]], *given: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Apply a part of a chain; if ``checkpointed``, it is recomputed in the backward pass."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
    return function(*given)


def checkpoint_transformations(module: nn.Module) -> int:
    """Let the chains within ``module`` recompute their parts in the backward pass, to save memory.

    (Chen et al. 2016.) Only the values between the parts of a chain are stored; a chain within a chain is one
    part. Gradients are the same, for about a third more of the chain's arithmetic.

    Returns:
        The number of chains, which are the modules with a ``checkpointed``.
    """
    if hasattr(module, "checkpointed"):
        module.checkpointed = True  # type: ignore[assignment]  # a bool, not a module
        return 1
    return sum(checkpoint_transformations(child) for child in module.children())
