"""A conditional model at one class."""

from collections.abc import Callable
from typing import Any

import torch

from flowvae.batch import Given
from flowvae.models import Model

OF_IMAGES_OR_CODES = (
    "center",
    "decode",
    "draws_for",
    "encode",
    "impute",
    "log_prob",
    "reconstruct",
    "unroll",
)
OF_A_NUMBER = ("sample", "sample_codes")


class OneClass:
    """A conditional model whose methods need no labels: all images and codes are of the class ``label``.

    ``isinstance`` finds the capabilities of the model.

    >>> from flowvae.models.vae import vae
    >>> model = OneClass(vae((1, 8, 8), latent=2, classes=3), label=1)
    >>> model.decode(torch.zeros(5, 2)).shape, model.sample(4).shape
    (torch.Size([5, 1, 8, 8]), torch.Size([4, 1, 8, 8]))
    """

    conditional = False

    def __init__(self, model: Model, label: int) -> None:
        self._model, self._label = model, label

    @property
    def __class__(self) -> type:  # type: ignore[override]  # for isinstance
        return type(self._model)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._model, name)
        if name == "path":
            return lambda first, second, steps: method(
                first, second, steps, tuple(Given(labels=self._labels(len(each))) for each in (first, second))
            )
        if name in OF_IMAGES_OR_CODES or name in OF_A_NUMBER:
            return self._with_labels(method, len if name in OF_IMAGES_OR_CODES else int)
        return method

    def _with_labels(self, method: Callable[..., Any], count: Callable[[Any], int]) -> Callable[..., Any]:
        return lambda first, *rest, **options: method(
            first, *rest, labels=self._labels(count(first)), **options
        )

    def _labels(self, number: int) -> torch.Tensor:
        return torch.full((number,), self._label)
