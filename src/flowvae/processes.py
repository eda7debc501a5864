"""Several processes of one command, as ``torchrun`` starts them, that share its images."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeVar, cast

import torch
from accelerate import PartialState

from flowvae import shares
from flowvae.devices import device

Piece = TypeVar("Piece")
Result = TypeVar("Result")

OF_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""environment variables of a process: which it is, of all and on its machine, and how many there are"""


def is_first() -> bool:
    """Return whether this process writes and prints: the first one, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def leave_to_first() -> None:
    """End this process if it is not the first: its work is done."""
    if not is_first():
        sys.exit(0)


def work_alone() -> None:
    """Let the first process be the only one, and end the others."""
    leave_to_first()
    for name in OF_LAUNCHER:
        os.environ.pop(name, None)


def end(code: int = 0) -> NoReturn:
    """End this process of several at once.

    The interpreter's own way out may hang or abort, in the threads of the backend Gloo (PyTorch 2.13).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def joined(name: str) -> torch.device:
    """Join the other processes of the command, if there are any, and return the device called ``name``.

    Raises:
        UserError: if there is no such device.
    """
    on = device(name)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return on
    state = PartialState(cpu=on.type == "cpu")
    return cast(torch.device, state.device)


def spread(pieces: Sequence[Piece], work: Callable[[Piece], Result]) -> Iterator[Result]:
    """Yield ``work(piece)`` for all pieces, in their order, of which each process computes every n-th.

    All processes must take all results.
    """
    rank, number = shares.processes()
    for start in range(0, len(pieces), number):
        few = pieces[start : start + number]
        mine = work(few[rank]) if rank < len(few) else None
        yield from shares.everyones(mine)[: len(few)]
