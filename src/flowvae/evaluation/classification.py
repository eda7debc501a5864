"""The classes of images."""

from typing import Any, Unpack

import torch
from torch import Tensor

from flowvae.batch import Given
from flowvae.data.named import number_of
from flowvae.errors import UserError, check_range
from flowvae.evaluation.bayes import log_posterior, log_prob_of_classes
from flowvae.evaluation.likelihood import CHUNK, at
from flowvae.evaluation.scoring import where_known
from flowvae.models import Classifying, Model
from flowvae.models.base import evaluating
from flowvae.parts import MOST


@torch.no_grad()
def classify(
    model: Model,
    images: Tensor,
    num_samples: int = 500,
    noise: torch.Generator | None = None,
    **given: Unpack[Given],
) -> Tensor:
    """Compute log q(y|x) in nats of each class for images [N, C, H, W] in [0, 1]: [N, classes].

    By the model's own classifier; or, of a model that is conditional on labels, by Bayes' rule with uniform
    p(y). The samples of an image depend on its pixels and on the seed of ``noise`` only, as in `score`.

    Args:
        model: on the device to classify on; in ``eval()`` mode, and left as it was.
        images: of the shape and levels of the model.
        num_samples: S, posterior samples per image, shared by the classes of a conditional model without an
            exact likelihood.
        noise: generator whose ``initial_seed()`` is the seed; None for torch's own. It is not advanced.
        given: ``observed``, bool [N, C, H, W], if only some pixels are known.

    Raises:
        UserError: if the model predicts no classes, does not take such images, or a probability is not
            finite.
    """
    whole: Any = model
    if not (model.conditional or isinstance(model, Classifying)):
        raise UserError("the model has no classifier; choose one with labels")
    given.pop("labels", None)
    unknown = {"labels": torch.zeros(len(images), dtype=torch.int64)} if model.conditional else {}
    model.check(images, **given, **unknown)
    images = where_known(images, given.get("observed"))
    check_range("samples", num_samples, 1, MOST)
    device = next(model.parameters()).device
    seed = torch.initial_seed() if noise is None else noise.initial_seed()
    with evaluating(model):
        if model.conditional:
            rows = [
                log_prob_of_classes(
                    whole,
                    image[None].to(device),
                    model.classes,
                    num_samples,
                    noise=torch.Generator().manual_seed(number_of(image, seed)),
                    **at(given, slice(place, place + 1), device),
                )
                for place, image in enumerate(images)
            ]
            rows = [log_posterior(row) for row in rows]
        else:
            rows = [whole.classify(few.to(device)).cpu() for few in images.split(CHUNK)]
    found = torch.cat(rows)
    if not found.isfinite().all():
        raise UserError("a log probability is not finite; train again with a lower --learning-rate")
    return found
