"""Intervals against exact values, and the warning about degenerate weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from campaigns.independent import IndependentPixels, drawn_images
from flowvae.data import Dataset
from flowvae.evaluation import Finished, bounds, evaluate, score
from flowvae.evaluation.reliability import caveat, weight_diagnostics
from flowvae.runs.scores import difference

REPEATS = 500
POPULATION = 10_000  # images in the split from which an evaluation draws
PIXELS = 6
STRETCH = 1.1  # of the proposal of an evaluation
SAMPLES = 32  # posterior samples of an evaluation
IMAGES = (10, 30, 100)
SCORED: Sequence[tuple[int, float]] = ((50, 1.0), (500, 1.0), (500, 1.3), (50, 1.5), (500, 1.5), (500, 3.0))
"""S and the stretch of the proposal of single images"""
PROPOSALS: Sequence[Mapping[str, float]] = (
    *({"shift": shift} for shift in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0)),
    *({"stretch": stretch} for stretch in (0.2, 0.4, 0.6, 0.8, 1.2, 1.5, 2.0, 4.0, 8.0)),
    *({"gain": gain} for gain in (0.3, 0.6, 0.8, 1.2, 1.6, 2.0)),
)
DIMENSIONS = (2, 6)
SWEPT_SAMPLES = (50, 500)
HIGH, LOW = 0.5, 0.05  # nats: the warning should fire above the one, and not below the other


def intervals(
    repeats: int = REPEATS, numbers: Sequence[int] = IMAGES, population: int = POPULATION
) -> Iterator[dict[str, Any]]:
    """Coverage of `evaluate`, and of the differences of `flowvae table`, for N images drawn from a split.

    The exact value is the mean over all images of the split.
    """
    data = drawn_images(population, PIXELS, seed=0)
    images = data.batch("test", torch.arange(population)).images
    models = [IndependentPixels(deviation, shift=0.1, stretch=STRETCH) for deviation in (0.1, 0.12)]
    exact = [-model.exact(images).mean().item() for model in models]
    for number in numbers:
        of_mean, of_difference = [], []
        for seed in range(repeats):
            scores = [_evaluated(model, data, number, seed) for model in models]
            found = scores[0][0]
            of_mean.append((found["nll"] - exact[0], found["nll_standard_error"]))
            paired = difference(scores[0][1], scores[1][1])
            error = paired["nll_difference"] - (exact[1] - exact[0])
            of_difference.append((error, paired["nll_difference_standard_error"]))
        for command, pairs in (("evaluate", of_mean), ("table", of_difference)):
            yield {"command": command, "images": number, "samples": SAMPLES, **_covered(pairs, number)}


def _evaluated(
    model: IndependentPixels, data: Dataset, number: int, seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a run keeps of an evaluation: averages, and the scores of the single images."""
    kept: list[Finished] = []
    found = evaluate(model, data, num_samples=SAMPLES, num_images=number, seed=seed, keep=kept.append)
    return found, kept[-1].scores


def scored(repeats: int = REPEATS, cases: Sequence[tuple[int, float]] = SCORED) -> Iterator[dict[str, Any]]:
    """Coverage of `score`: as many different images as repeats, each with its own exact log p(x)."""
    images = drawn_images(repeats, PIXELS, seed=1).batch("test", torch.arange(repeats)).images
    for samples, stretch in cases:
        model = IndependentPixels(shift=0.1, stretch=stretch)
        found = score(model, images, samples, torch.Generator().manual_seed(0))
        errors = found["nll"] + model.exact(images)
        pairs = list(zip(errors.tolist(), found["nll_standard_error"].tolist(), strict=True))
        sizes = found["effective_sample_size"]
        diagnostics = weight_diagnostics(sizes, found["pareto_k"])
        yield {
            "command": "score",
            "samples": samples,
            "stretch": stretch,
            "effective_sample_size": sizes.median().item(),
            "warning": caveat({**diagnostics, "samples": samples}) is not None,
            **_covered(pairs, samples),
        }


def _covered(pairs: Sequence[tuple[float, float]], number: int) -> dict[str, Any]:
    """Share of (error, standard error) with the exact value in the interval, normal and of Student's t."""
    errors, deviations = torch.tensor(pairs, dtype=torch.float64).T
    of_student = float(student.ppf(0.975, number - 1))
    return {
        "repeats": len(pairs),
        "coverage": (errors.abs() <= 1.96 * deviations).double().mean().item(),
        "coverage_student": (errors.abs() <= of_student * deviations).double().mean().item(),
        "bias": errors.mean().item(),
        "standard_error": deviations.mean().item(),
    }


def warnings(
    number: int = 20,
    samples: Sequence[int] = SWEPT_SAMPLES,
    proposals: Sequence[Mapping[str, float]] = PROPOSALS,
    dimensions: Sequence[int] = DIMENSIONS,
) -> Iterator[dict[str, Any]]:
    """For proposals that are wrong more and more: the exact error of the mean, and whether it is flagged."""
    for pixels in dimensions:
        images = drawn_images(number, pixels, seed=2).batch("test", torch.arange(number)).images
        for proposal in proposals:
            model = IndependentPixels(**proposal)
            for count in samples:
                noise = torch.Generator().manual_seed(count)
                found = bounds(model, images, count, chunk=20_000, noise=noise)
                sizes, shapes = found.effective_sample_size, found.pareto_k
                assert sizes is not None
                assert shapes is not None
                diagnostics = weight_diagnostics(sizes, shapes)
                yield {
                    "pixels": pixels,
                    **proposal,
                    "samples": count,
                    "error": (found.negative_log_marginal + model.exact(images)).mean().item(),
                    "warning": caveat({**diagnostics, "samples": count}) is not None,
                    **diagnostics,
                }


def error_rates(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By S: how many estimates are wrong without a warning, and how many right ones have one."""
    found = []
    for samples in sorted({row["samples"] for row in rows}):
        mine = [row for row in rows if row["samples"] == samples]
        wrong = [row["warning"] for row in mine if row["error"] > HIGH]
        right = [row["warning"] for row in mine if abs(row["error"]) < LOW]
        found.append(
            {
                "samples": samples,
                "wrong": len(wrong),
                "wrong_without_warning": wrong.count(False),
                "right": len(right),
                "right_with_warning": right.count(True),
            }
        )
    return found


def table(measured: Mapping[str, Any]) -> str:
    """What was measured, as Markdown."""
    text = []
    if "intervals" in measured:
        text.append(
            "| command | N | S | proposal's scale | ESS | warning | 1.96 s.e. | Student's t | mean error "
            "| mean s.e. |\n|---|---:|---:|---:|---:|---|---:|---:|---:|---:|\n"
        )
    for row in measured.get("intervals", []):
        size = f"{row['effective_sample_size']:.0f}" if "effective_sample_size" in row else ""
        flagged = {True: "yes", False: "none", None: ""}[row.get("warning")]
        text.append(
            f"| `{row['command']}` | {row.get('images', '')} | {row['samples']} "
            f"| {row.get('stretch', STRETCH)} | {size} | {flagged} | {row['coverage']:.1%} "
            f"| {row['coverage_student']:.1%} "
            f"| {row['bias']:.3f} | {row['standard_error']:.3f} |\n"
        )
    if "warnings" in measured:
        text.append(
            "\n| S | errors above 0.5 nats | of these, not flagged | errors below 0.05 | of these, flagged "
            "|\n"
            "|---:|---:|---:|---:|---:|\n"
        )
    for row in error_rates(measured.get("warnings", [])):
        text.append(
            f"| {row['samples']:,} | {row['wrong']} | {row['wrong_without_warning']} "
            f"| {row['right']} | {row['right_with_warning']} |\n"
        )
    return "".join(text)


def run(tries: int | None = None) -> dict[str, Any]:
    """Both, with as many repeats of each interval as tries [500]: minutes."""
    repeats = tries or REPEATS
    return {"warnings": list(warnings()), "intervals": [*intervals(repeats), *scored(repeats)]}
