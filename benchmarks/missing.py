"""Missing pixels: what a mask costs a training step, and the rate of imputation beside the likelihood's."""

from typing import Any, cast

import torch

from benchmarks.timing import (
    MATRIX_PRODUCT,
    MATRIX_PRODUCT_FLOPS,
    by_turns,
    floating_point_operations,
    matrix_product,
)
from benchmarks.training import Step
from flowvae.data import load_dataset
from flowvae.evaluation import bounds
from flowvae.models import VAE
from flowvae.models.registry import build_model, preset

MASK = "0.5"
LIKELIHOOD = "likelihood estimate"
IMPUTATION = {
    "of complete images": "imputation, model of complete images",
    "of images with missing pixels": "imputation, model of images with missing pixels",
}


def measure(
    num_samples: int = 1000,
    num_images: int = 8,
    num_completions: int = 20,
    repeats: int = 7,
    step_repeats: int = 25,
    batch_size: int | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """The preset ``vae``, trained and asked with half of the pixels missing, and without.

    Args:
        batch_size: in place of the preset's own.
    """
    datasets = {
        "of complete images": load_dataset("mnist", "static"),
        "of images with missing pixels": load_dataset("mnist", "static", hide=MASK),
    }
    config = preset("vae").revised(**({"batch_size": batch_size} if batch_size else {}))
    steps = by_turns({kind: Step(config, dataset) for kind, dataset in datasets.items()}, step_repeats)
    torch.manual_seed(0)
    models = {
        kind: cast(VAE, build_model(config.model, dataset.spec)).eval() for kind, dataset in datasets.items()
    }
    places = torch.arange(num_images)
    complete, masked = (dataset.batch("test", places) for dataset in datasets.values())
    assert masked.observed is not None
    observed = masked.observed
    calls = {LIKELIHOOD: lambda: bounds(models["of complete images"], complete.images, num_samples)}
    for kind, name in IMPUTATION.items():
        calls[name] = lambda kind=kind: models[kind].impute(
            complete.images, observed, num_completions, num_samples
        )
    seconds = by_turns({**calls, MATRIX_PRODUCT: matrix_product()}, repeats)
    rate = MATRIX_PRODUCT_FLOPS / seconds.pop(MATRIX_PRODUCT)
    operations = {name: floating_point_operations(call) for name, call in calls.items()}
    shares = {name: operations[name] / seconds[name] / rate for name in calls}
    per_second = {name: num_samples * num_images / value for name, value in seconds.items()}
    details = {
        "mask": MASK,
        "samples": num_samples,
        "completions": num_completions,
        "images": num_images,
        "batch_size": config.training.batch_size,
        "step_milliseconds": {kind: 1e3 * value for kind, value in steps.items()},
        "matmul_gflops": rate / 1e9,
        "samples_per_second": per_second,
        "share_of_matmul": shares,
        "minutes_for_1000_images": {name: 1000 * num_samples / per_second[name] / 60 for name in calls},
    }
    slower, faster = steps["of images with missing pixels"], steps["of complete images"]
    return {
        "mask_over_step": slower / faster,
        "imputation_share_over_likelihood": min(shares[name] for name in IMPUTATION.values())
        / shares[LIKELIHOOD],
    }, details
