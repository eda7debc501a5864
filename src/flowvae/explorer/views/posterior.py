"""Posterior: what each transformation does to the codes of one image."""

import base64
import json
from collections.abc import Sequence

import gradio as gr
import torch

from flowvae.explorer.explored import Explored, seeded
from flowvae.explorer.images import canvas, from_text, png
from flowvae.explorer.latent_plane import decode
from flowvae.explorer.parts import at, choose_class, choose_run, image_source, on_first_visit, scripted, told
from flowvae.explorer.unrolled import contours, directions, project, unroll

SHOWN = 12


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    gr.Markdown(
        "The posterior of one image: samples drawn from the Gaussian q₀, then carried through the "
        "transformations one after the other. Shown are the two directions in which the flow changes their "
        "spread most, in standard deviations of q₀. Each step has its own scale along both axes: the dashed "
        "line, which contains 90% of q₀, is a circle on equal scales. A sample keeps its hue."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            run, label = choose_run(explored), choose_class(explored)
            source = image_source(explored, 18)
            samples = gr.Slider(200, 3000, 1200, step=100, label="samples, S")
            seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=2**53)
        with gr.Column(scale=4, min_width=300):
            stage = scripted("unrolled", label="samples of the posterior after each transformation")

    @told
    def show(number: int, label: int | None, text: str, count: int, start: float | None) -> str:
        return json.dumps(_unrolled(explored[number].of_class(at(label)), text, int(count), int(start or 0)))

    inputs = [run, label, source.image, samples, seed]
    for listen in (*source.listeners, run.change, label.change, samples.change, seed.change):
        listen(show, inputs, stage, show_progress="hidden", trigger_mode="always_last")
    on_first_visit(tab, show, inputs, stage)


def _unrolled(run: Explored, text: str, num_samples: int, seed: int) -> dict[str, object]:
    image = from_text(text, run.dataset.shape, run.dataset.levels)
    noise = seeded(seed)
    unrolled = unroll(run.model, image, num_samples, noise)
    decoded = [png(canvas(decode(run.model, step[:SHOWN], noise), SHOWN)) for step in unrolled.z[[0, -1]]]
    points = project(unrolled, directions(unrolled))
    return {
        "title": run.title,
        "points": base64.b64encode(points.float().numpy().tobytes()).decode(),
        "steps": len(points),
        "samples": num_samples,
        "contours": [contours(step) for step in points],
        "log_determinants": [round(value, 3) for value in unrolled.log_determinants.tolist()],
        "decoded": decoded,
        "density": [round(value, 2) for value in unrolled.log_density.mean(1).tolist()],
        "dimension": unrolled.z.shape[2],
        "extents": _extents(points),
    }


def _extents(points: torch.Tensor) -> list[list[float]]:
    """[left, right, bottom, top] around nearly all points [S, 2] of each step [K + 1, S, 2]."""
    low, high = points.quantile(0.005, 1), points.quantile(0.995, 1)
    margin = (0.15 * (high - low)).clamp(min=1e-6)
    return torch.stack([low - margin, high + margin], 2).flatten(1).tolist()
