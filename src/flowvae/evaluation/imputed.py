"""How well missing pixels are filled in, where their values are known after all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowvae.data.named import number_of
from flowvae.evaluation.likelihood import bounds
from flowvae.models import Bounded, Completing, Model
from flowvae.models.base import evaluating


@torch.no_grad()
def missing_scores(
    model: Model,
    images: Tensor,
    observed: Tensor,
    num_samples: int = 1000,
    completions: Sequence[int] = (1, 5, 20),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Score the completions of images [N, C, H, W], of which the model sees the ``observed`` pixels only.

    The samples of an image depend on its pixels, its mask and ``seed`` only.

    Args:
        model: fills in pixels, and has a bound.
        images: complete images.
        observed: bool, of their shape.
        num_samples: S, for both probabilities, and number of candidates.
        completions: numbers M of completions of which the best counts.
        seed: random seed.

    Returns:
        By name, float64 [N]:

        - ``missing_nll``: -log p(x_missing | x_known) = log p(x_known) - log p(x), in nats, both by
          importance sampling
        - ``missing_nll_error``: its standard error over samples
        - ``error``: mean absolute error of hidden pixels by the mean of the candidates; of binary pixels, the
          share that is wrong, with the mean rounded
        - ``best_of_M``: the least such error among M completions
        - ``effective_sample_size``: of the candidates' weights
    """
    assert isinstance(model, Completing)
    assert isinstance(model, Bounded)
    rows: list[dict[str, Tensor]] = []
    with evaluating(model):
        for image, known in zip(images.split(1), observed.split(1), strict=True):
            noise = torch.Generator().manual_seed(number_of(torch.cat([image, known.to(image.dtype)]), seed))
            found = model.impute(image, known, max(completions), num_samples, noise)
            whole = bounds(model, image, num_samples, noise=noise)
            size = whole.effective_sample_size
            assert size is not None
            of_whole = (num_samples / size - 1).clamp(min=0) / max(1, num_samples - 1)
            errors = _errors(found.images, image, known, model.levels)
            rows.append(
                {
                    "missing_nll": found.log_prob + whole.negative_log_marginal,
                    "missing_nll_error": (found.standard_error.square() + of_whole).sqrt(),
                    "error": _errors(found.mean[None], image, known, model.levels)[0],
                    **{f"best_of_{count}": errors[:count].amin(0) for count in completions},
                    "effective_sample_size": found.effective_sample_size,
                }
            )
    return {name: torch.cat([row[name] for row in rows]).double() for name in rows[0]}


def _errors(guesses: Tensor, images: Tensor, observed: Tensor, levels: int | None) -> Tensor:
    """Compute the mean absolute error of hidden pixels, [M, N], of guesses [M, N, C, H, W]."""
    guesses = guesses.round() if levels == 2 else guesses
    wrong = torch.where(observed, 0.0, (guesses - images).abs()).flatten(2).sum(2)
    return wrong / (~observed).flatten(1).sum(1).clamp(min=1)
