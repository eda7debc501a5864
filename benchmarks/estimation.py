"""`python -m benchmarks.estimation RUN`: the bias of -log p(x) by how its samples are drawn, and the time.

Every way of drawing gives an unbiased estimate of p(x); what differs is its variance, and so the bias of the
logarithm. Prints a table, and writes ``--out`` after every few images.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowvae
from benchmarks import machine
from flowvae.data import as_float, load_dataset
from flowvae.evaluation.inference_gaps import fitted_posteriors
from flowvae.evaluation.report import IMAGES_AT_ONCE, choose_images
from flowvae.memory import keep_freed_memory
from flowvae.models import VAE
from flowvae.runs import write_json

LARGEST, SAMPLES = 128, (16, 32, 64, 128)
MORE = 256
"""samples beyond those of the candidates, for the reference"""
STEPS = 20
"""of the fit of each image's posterior, each with eight samples"""
CHUNK = 8  # samples of each image at once, as in `evaluate`

Points = tuple[Tensor, Tensor]
"""noise of the codes [S, D], and the order of the pixels of each sample, [S]"""


def plain(samples: int, dimension: int, orders: int, seed: int) -> Points:
    """Independent codes, with orders in turn, as in `evaluate`."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(orders, (1,), generator=generator)
    return torch.randn(samples, dimension, generator=generator), (torch.arange(samples) + first) % orders


def antithetic(samples: int, dimension: int, orders: int, seed: int) -> Points:
    """Codes in pairs of opposite noise, with different orders."""
    noise, turns = plain(samples // 2, dimension, orders, seed)
    return torch.stack([noise, -noise], 1).flatten(0, 1), torch.stack(
        [turns, (turns + orders // 2) % orders], 1
    ).flatten()


def sobol(samples: int, dimension: int, orders: int, seed: int) -> Points:
    """Noise and order from a scrambled Sobol sequence."""
    engine = torch.quasirandom.SobolEngine(dimension + 1, scramble=True, seed=seed)
    uniform = engine.draw(samples, dtype=torch.float64).clamp(1e-10, 1 - 1e-10)
    return torch.special.ndtri(uniform[:, 1:]).float(), (orders * uniform[:, 0]).long()


def all_orders(samples: int, dimension: int, orders: int, seed: int) -> Points:
    """Every order of each code, so fewer codes."""
    noise, _ = plain(-(-samples // orders), dimension, orders, seed)
    return noise.repeat_interleave(orders, 0)[:samples], torch.arange(samples) % orders


WAYS = {"plain": plain, "antithetic": antithetic, "sobol": sobol, "all orders": all_orders}
FITTED = "fitted"
"""independent samples, of a posterior that is fitted to the image itself before"""


@torch.no_grad()
def log_weights(model: VAE, images: Tensor, noise: Tensor, orders: Tensor) -> Tensor:
    """Log weights [S, B] of images [B, ...], for noise [S, B, D] and orders [S, B]."""
    parts = [
        model.log_weights(images, model.encode(images, len(few), few), turns)
        for few, turns in zip(noise.split(CHUNK), orders.split(CHUNK), strict=True)
    ]
    return torch.cat(parts).double()


def measure(run: str, data: str, num_images: int, out: Path | None) -> dict[str, Any]:
    """Measure on test images that `evaluate` chooses with seed 0."""
    model = flowvae.load(run).eval()
    if not isinstance(model, VAE):
        raise TypeError(f"{run} is no autoencoder")
    dataset = load_dataset(data, "static")
    places = choose_images(dataset, "test", num_images, 0)
    ways = {name: way for name, way in WAYS.items() if name != "all orders" or model.pixel_orders > 1}
    drawn: dict[str, list[Tensor]] = {name: [] for name in [*ways, FITTED, "more"]}
    seconds, fitting = dict.fromkeys(drawn, 0.0), 0.0
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for few in places.split(IMAGES_AT_ONCE):
        images = as_float(dataset.test.images[few], dataset.levels)
        for number, (name, way) in enumerate([*ways.items(), ("more", plain)]):
            samples = MORE if name == "more" else LARGEST
            began = time.process_time()
            points = [
                way(samples, model.dimension, model.pixel_orders, len(drawn) * place + number)
                for place in few.tolist()
            ]
            noise, orders = (torch.stack(column, 1) for column in zip(*points, strict=True))
            drawn[name].append(log_weights(model, images, noise, orders))
            seconds[name] += time.process_time() - began
        began = time.process_time()
        draw = fitted_posteriors(model, images, STEPS)
        fitted = time.process_time()
        with torch.no_grad():
            parts = [draw(CHUNK) for _ in range(LARGEST // CHUNK)]
        drawn[FITTED].append(
            torch.cat([part.likelihood + part.prior - part.posterior for part in parts]).double()
        )
        fitting += fitted - began
        seconds[FITTED] += time.process_time() - fitted
        found = {
            "dataset": dataset.name,
            "machine": machine.describe(),
            **_summary({name: torch.cat(parts, 1) for name, parts in drawn.items()}, seconds, fitting),
        }
        print(f"{run}: {found['images']} of {num_images} images", flush=True)
        if out is not None:
            write_json(out, {**_read(out), Path(run).name: found})
    return found


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _summary(drawn: dict[str, Tensor], seconds: dict[str, float], fitting: float) -> dict[str, Any]:
    """Mean bias of each way and number of samples, from log weights [S, N], against the mean of all.

    ``seconds``: of all samples of each way; ``fitting``: of what is done once for each image.
    """
    every = torch.cat(list(drawn.values()))
    reference = _log_mean(every, len(every))[0]
    number = every.shape[1]
    rows: dict[str, Any] = {}
    base = {samples: reference - _log_mean(drawn["plain"], samples).mean(0) for samples in SAMPLES}
    for name, weights in drawn.items():
        if name == "more":
            continue
        rows[name] = {
            str(samples): _row(
                reference - (estimates := _log_mean(weights, samples)).mean(0),
                base[samples],
                estimates,
                (seconds[name] * samples / LARGEST + fitting * (name == FITTED)) / number,
            )
            for samples in SAMPLES
        }
    return {"images": number, "reference_samples": len(every), "nll": -reference.mean().item(), "ways": rows}


def _row(bias: Tensor, base: Tensor, estimates: Tensor, seconds: float) -> dict[str, float]:
    scale = math.sqrt(len(bias))
    row = {
        "bias": bias.mean().item(),
        "standard_error": bias.std().item() / scale,
        "minus_plain": (bias - base).mean().item(),
        "minus_plain_standard_error": (bias - base).std().item() / scale,
        "milliseconds_per_image": 1e3 * seconds,
    }
    if len(estimates) > 1:
        row["variance"] = estimates.var(0).mean().item()
    return row


def _log_mean(weights: Tensor, samples: int) -> Tensor:
    """Log mean weights of blocks of samples, [S / samples, N]; also balanced for Sobol."""
    return weights.unflatten(0, (-1, samples)).logsumexp(1) - math.log(samples)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimation", description=__doc__)
    parser.add_argument("run", help="directory of a run, or a bundled model")
    parser.add_argument("--data", default="mnist", help="data set, static [mnist]")
    parser.add_argument("--images", type=int, default=500, help="number of test images [500]")
    parser.add_argument("--out", type=Path, help="JSON file; other models in it are kept")
    arguments = parser.parse_args()
    keep_freed_memory()
    found = measure(arguments.run, arguments.data, arguments.images, arguments.out)
    for name, row in found["ways"].items():
        for samples, each in row.items():
            print(
                f"{name:10} S = {samples:>3}: bias {each['bias']:.3f} ± {each['standard_error']:.3f}, "
                f"minus plain {each['minus_plain']:+.3f} ± {each['minus_plain_standard_error']:.3f} nats, "
                f"{each['milliseconds_per_image']:.0f} ms an image"
            )


if __name__ == "__main__":
    main()
