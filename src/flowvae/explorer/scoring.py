"""Where an image falls among the test images."""

from torch import Tensor

from flowvae.evaluation import log_marginal
from flowvae.explorer.explored import Explored, seeded

IMAGES, SAMPLES = 300, 32
EXTREME = 0.99


def reference(run: Explored, num_images: int = IMAGES, num_samples: int = SAMPLES) -> Tensor:
    """-log p(x) of random test images in nats, sorted, [N]."""
    images = run.sample_images[:num_images]
    return (-log_marginal(run.model, images, num_samples, noise=seeded(0))).sort().values


def place(nll: float, others: Tensor) -> float:
    """The share of ``others`` [N] that the model finds likelier than an image with this -log p(x).

    >>> import torch
    >>> place(85.0, torch.tensor([70.0, 80.0, 90.0, 100.0]))
    0.5
    """
    return (others < nll).double().mean().item()


def verdict(share: float) -> str | None:
    """What to say of an image that falls into a tail of the test images; None where there is nothing to say.

    Both tails count: an empty image can be likelier than any digit, and is as unlike them as noise.

    >>> verdict(0.5) is None
    True
    """
    if share >= EXTREME:
        return f"Looks out of distribution: less likely than {share:.0%} of the test images."
    if share <= 1 - EXTREME:
        return (
            f"Looks out of distribution: likelier than {1 - share:.0%} of the test images. "
            "Images simpler than all of them, such as an empty one, end up here."
        )
    return None
