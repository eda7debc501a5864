"""Real NVP's affine coupling layer."""

import torch
from torch import Tensor, nn

from flowvae.flows.affine import BoundedAffine
from flowvae.flows.flow import Flow
from flowvae.flows.steps import AffineStep, Step


class AffineCoupling(Flow):
    """One half of ``z`` scales and shifts the other: ``y_1 = z_1``, ``y_2 = z_2 * exp(s(z_1)) + t(z_1)``.

    The Jacobian is triangular, so ``log|det| = sum s(z_1)``, and the inverse needs no inverse of s or t
    (Dinh, Sohl-Dickstein & Bengio 2017, equations 4 to 8). The halves are along the first event axis: the D
    dimensions of a vector, or the channels of a map; for squeezed maps, they are the fields of a checkerboard
    (see `squeeze`). Two layers with swapped halves are one *transformation*, which changes every dimension.

    Args:
        conditioner: any network that maps ``z_1`` [S, B, features, ...] and its context [B, context_features]
            to the raw log scale and the shift of the other half, concatenated along the same axis.
        dimension: size of the first event axis of ``z``.
        swap: whether the second half scales and shifts the first.
        alternate: whether the halves are the even and the odd features, of which there must be an even
            number,
            instead of the first and the second half.
        bounded: bound the log scale (see `BoundedAffine`).

    >>> from flowvae.networks import Dense
    >>> coupling = AffineCoupling(Dense(3, 16, 4), dimension=5)
    >>> z, log_determinant = coupling(torch.ones(2, 7, 5))
    >>> bool((z == 1).all())  # Dense ends in zeros: the identity
    True
    """

    def __init__(
        self,
        conditioner: nn.Module,
        dimension: int,
        swap: bool = False,
        bounded: bool = True,
        alternate: bool = False,
    ) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.context_features = int(getattr(conditioner, "context_features", 0))
        self.swap, self.alternate = swap, alternate
        self.affine = BoundedAffine(self.transformed_features(dimension, swap), bounded)

    @staticmethod
    def transformed_features(dimension: int, swap: bool) -> int:
        """Return how many of ``dimension`` features are transformed; the others go to the conditioner."""
        return dimension - dimension // 2 if swap else dimension // 2

    def _halves(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the half that stays, and the one that it moves."""
        first, second = (z[:, :, 0::2], z[:, :, 1::2]) if self.alternate else z.chunk(2, dim=2)
        return (second, first) if self.swap else (first, second)

    def _joined(self, fixed: Tensor, moved: Tensor) -> Tensor:
        # Features last in memory, the fastest format for convolutions on a CPU; in vectors they are last
        # anyway.
        halves = [half.movedim(2, -1) for half in ((moved, fixed) if self.swap else (fixed, moved))]
        joined = torch.stack(halves, dim=-1).flatten(-2) if self.alternate else torch.cat(halves, dim=-1)
        return joined.movedim(-1, 2)

    def _transform(self, direction, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        fixed, moved = self._halves(z)
        raw, shift = self.conditioner(fixed, context).chunk(2, dim=2)
        moved, log_determinant = direction(moved, raw, shift)
        return self._joined(fixed, moved), log_determinant

    def steps(self, context: Tensor | None = None) -> list[Step]:
        def parameters(z: Tensor) -> tuple[Tensor, Tensor]:
            fixed, _ = self._halves(z)
            raw, shift = self.conditioner(fixed, context).chunk(2, dim=2)
            stays = torch.zeros_like(fixed)
            return self._joined(stays, self.affine.log_scale(raw)), self._joined(stays, shift)

        return [AffineStep(parameters)]

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._transform(self.affine, z, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._transform(self.affine.inverse, z, context)
