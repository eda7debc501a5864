"""Interpolate: the interpolation between two images in several runs, with -ELBO along it."""

import json
from collections.abc import Sequence

import gradio as gr

from flowvae.errors import UserError
from flowvae.evaluation import bounds, interpolate
from flowvae.explorer.explored import Explored, seeded
from flowvae.explorer.images import canvas, from_text, png
from flowvae.explorer.parts import at, choose_class, image_source, on_first_visit, scripted, told
from flowvae.models import Bounded

STEPS = 21
SAMPLES = 16


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    titles = [run.title for run in explored]
    gr.Markdown(
        "An interpolation between the codes of two images; for an autoencoder, the encoder's embedding moves "
        "in a straight line. Move the slider, or drag over a strip. The curve is -ELBO of each image on the "
        "way, in nats, for models that have a bound: images at a peak are the least likely."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            first = image_source(explored, 7, "from")
        with gr.Column(scale=1, min_width=240):
            second = image_source(explored, 2600, "to")
        with gr.Column(scale=3, min_width=300):
            chosen = gr.CheckboxGroup(titles, value=titles, label="runs")
            label = choose_class(explored)
            strips = scripted("strips", label="strips of images on the way")

    @told
    def walk(names: list[str], label: int | None, one: str, other: str) -> str:
        if not names:
            raise UserError("no run is chosen; select one")
        return json.dumps(
            [_strip(run.of_class(at(label)), one, other) for run in explored if run.title in names]
        )

    inputs = [chosen, label, first.image, second.image]
    for listen in (*first.listeners, *second.listeners, chosen.change, label.change):
        listen(walk, inputs, strips, show_progress="hidden", trigger_mode="always_last")
    on_first_visit(tab, walk, inputs, strips)


def _strip(run: Explored, one: str, other: str) -> dict[str, object]:
    shape, levels = run.dataset.shape, run.dataset.levels
    first, second = (from_text(text, shape, levels).unsqueeze(0) for text in (one, other))
    noise = seeded(0)
    (path,) = interpolate(run.model, first, second, STEPS, noise)
    scores = []
    if isinstance(run.model, Bounded):
        images = (path * (levels - 1)).round() / (levels - 1)
        scores = bounds(run.model, images, SAMPLES, noise=noise).negative_elbo.tolist()
    return {
        "title": run.title,
        "steps": STEPS,
        "sheet": png(canvas(path, STEPS)),
        "height": shape[1],
        "width": shape[2],
        "scores": [round(score, 2) for score in scores],
    }
