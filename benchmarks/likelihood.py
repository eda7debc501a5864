"""The likelihood estimate: samples per second, its share of the machine's arithmetic, its memory."""

from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.machine import in_new_process
from benchmarks.pythae_models import with_our_networks
from benchmarks.timing import (
    MATRIX_PRODUCT,
    MATRIX_PRODUCT_FLOPS,
    by_turns,
    floating_point_operations,
    matrix_product,
)
from flowvae.data import as_float, load_dataset
from flowvae.evaluation import bounds
from flowvae.models import VAE
from flowvae.models.registry import build_model
from flowvae.models.vae import VAEOptions

OURS = "flowvae"
# Codes that the decoder is given at once where its operations are counted.
COUNTED = 64

ESTIMATE = """
import json, sys, time
from benchmarks.likelihood import model_and_images
from benchmarks.machine import peak_memory
from flowvae.evaluation import bounds

samples, images = map(int, sys.argv[1:])
model, few = model_and_images(images)
began = time.perf_counter()
bounds(model, few, samples)
print(json.dumps({"seconds": time.perf_counter() - began, "peak_megabytes": peak_memory() / 1e6}))
"""


def measure(
    num_samples: int = 1000,
    num_images: int = 8,
    memory_samples: tuple[int, ...] = (100, 1000, 5000),
    pythae_batches: tuple[int, ...] = (100, 500),
    pythae_images: int = 2,
    repeats: int = 7,
) -> tuple[dict[str, float], dict[str, Any]]:
    """The estimate of the preset ``vae``, and pythae's of a model with the same networks and weights.

    Args:
        memory_samples: numbers of samples whose time and memory are measured, each in its own process.
        pythae_batches: ``batch_size`` of its get_nll; the fastest counts.
    """
    model, images = model_and_images(num_images)
    pythae = with_our_networks("VAE", model).eval()

    @torch.no_grad()
    def get_nll(batch: int) -> float:
        return -float(pythae.get_nll(images[:pythae_images], n_samples=num_samples, batch_size=batch))

    candidates = {OURS: lambda: bounds(model, images, num_samples), MATRIX_PRODUCT: matrix_product()}
    for batch in pythae_batches:
        candidates[f"pythae get_nll, batch_size = {batch}"] = lambda batch=batch: get_nll(batch)
    seconds = by_turns(candidates, repeats)
    rate = MATRIX_PRODUCT_FLOPS / seconds.pop(MATRIX_PRODUCT)
    samples_per_second = {
        name: num_samples * (num_images if name == OURS else pythae_images) / value
        for name, value in seconds.items()
    }
    decoder = (
        floating_point_operations(lambda: model.likelihood(torch.randn(1, COUNTED, model.dimension)))
        / COUNTED
    )
    share = decoder * samples_per_second[OURS] / rate
    peers = [value for name, value in samples_per_second.items() if name != OURS]
    values = bounds(model, images[:pythae_images], num_samples).negative_log_marginal
    details = {
        "samples": num_samples,
        "images": num_images,
        "matmul_gflops": rate / 1e9,
        "decoder_gflop_per_sample": decoder / 1e9,
        "samples_per_second": samples_per_second,
        "speedup_over_pythae": samples_per_second[OURS] / max(peers),
        "nll": {OURS: values.mean().item(), "pythae": get_nll(pythae_batches[0])},
        "growth": [
            {"samples": count, **in_new_process(ESTIMATE, count, num_images)} for count in memory_samples
        ],
    }
    return {"likelihood_share_of_matmul": share}, details


def model_and_images(num_images: int) -> tuple[VAE, Tensor]:
    """The autoencoder of the preset ``vae`` as it starts, in eval mode, and the first binary test images."""
    torch.manual_seed(0)
    dataset = load_dataset("mnist", "static")
    model = cast(VAE, build_model(VAEOptions(), dataset.spec)).eval()
    return model, as_float(dataset.test.images[:num_images], dataset.levels)
