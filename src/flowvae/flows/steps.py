"""Flows as sequences of maps that can be done and undone in whole numbers."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class AffineStep(NamedTuple):
    """The map ``z' = z * exp(s(z)) + t(z)``, in which ``s_i`` and ``t_i`` depend on few of the values.

    Values depend on each other in one direction only: there is an order in which every ``s_i`` and ``t_i``
    depends on the values before i. So z follows from z' by ``depth`` sweeps of
    ``z = (z' - t(z)) * exp(-s(z))``, which start anywhere.
    """

    parameters: Callable[[Tensor], tuple[Tensor, Tensor]]
    """from z [S, B, *event] to s and t, which can be broadcast to its shape"""
    depth: int = 1
    """the longest chain of values that depend on each other; 1 if s and t depend on unchanged values only"""

    def reshaped(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> "AffineStep":
        """Return the same map of values of another shape, which ``there`` turns into those of this one."""

        def parameters(z: Tensor) -> tuple[Tensor, Tensor]:
            z = there(z)
            log_scale, shift = (each.expand_as(z) for each in self.parameters(z))
            return back(log_scale), back(shift)

        return AffineStep(parameters, self.depth)


class MonotoneStep(NamedTuple):
    """The map ``z' = f(z)``, with an increasing function for every value; linear between knots."""

    function: Callable[[Tensor], Tensor]
    """from z [S, B, *event] to z' of the same shape"""
    distance_bits: int
    """knots are the multiples of ``2^-distance_bits``"""
    reach: tuple[int, int]
    """numbers of the first and the last knot"""

    def reshaped(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> "MonotoneStep":
        """Return the same map of values of another shape, as in `AffineStep`."""
        return self._replace(function=lambda z: back(self.function(there(z))))


Step = AffineStep | MonotoneStep
