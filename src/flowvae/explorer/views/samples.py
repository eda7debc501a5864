"""Samples of a model, and the training image nearest to each."""

import html
from collections.abc import Sequence

import gradio as gr

from flowvae.data import as_float
from flowvae.errors import UserError
from flowvae.evaluation import nearest
from flowvae.explorer.explored import Explored, seeded
from flowvae.explorer.images import canvas, png
from flowvae.explorer.parts import at, choose_class, choose_run, on_first_visit

SCALE = 8
"""of downloads: pixels per pixel"""


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    gr.Markdown(
        "Samples of the model; under each, the training image that is nearest to it, with their squared "
        "distance: about how many pixels differ. The temperature says how far from the middle of the prior "
        "codes are drawn: 1 is the prior itself."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            run, label = choose_run(explored), choose_class(explored, "each as often")
            count = gr.Slider(4, 64, 24, step=4, label="images")
            temperature = gr.Slider(0, 1.5, 1, step=0.05, label="temperature")
            seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=2**53)
            another = gr.Button("Draw others", size="sm")
        with gr.Column(scale=4, min_width=300):
            sheet = gr.HTML(apply_default_css=False)

    def show(number: int, label: int | None, images: float, scale: float, start: float | None) -> str:
        try:
            return _sheet(explored[number].of_class(at(label)), int(images), scale, int(start or 0))
        except UserError as error:  # in the place of the samples, which were of another run
            return f"<p class='fv-note' role='status'>{html.escape(str(error))}</p>"

    another.click(lambda start: int(start or 0) + 1, seed, seed, show_progress="hidden")
    inputs = [run, label, count, temperature, seed]
    for listen in (run.change, label.change, count.change, temperature.change, seed.change):
        listen(show, inputs, sheet, show_progress="hidden", trigger_mode="always_last")
    on_first_visit(tab, show, inputs, sheet)


def _sheet(run: Explored, count: int, temperature: float, seed: int) -> str:
    from flowvae.figures import tile  # matplotlib is not waited for when the page opens

    samples = run.model.sample(count, seeded(seed), temperature)
    # With dynamic binarization, intensities.
    training, levels = run.dataset.train.images, run.dataset.training_levels
    indices, distances = (found[:, 0] for found in nearest(samples, training, levels=levels))
    figures = "".join(
        f"<figure><img src='{png(canvas(sample[None], 1))}' alt='sample {index + 1}'>"
        f"<img src='{png(canvas(neighbour[None], 1))}' alt='nearest training image' class='fv-neighbour'>"
        f"<figcaption>{float(distance):.0f}</figcaption></figure>"
        for index, (sample, neighbour, distance) in enumerate(
            zip(samples, as_float(training[indices], levels), distances, strict=True)
        )
    )
    download = png(tile(samples, columns=8).repeat(SCALE, 0).repeat(SCALE, 1))
    name = html.escape(f"{run.title.replace('/', '-')}-samples-{seed}.png", quote=True)
    return (
        f"<a class='fv-download' download='{name}' href='{download}'>Download as PNG</a>"
        f"<div class='fv-samples'>{figures}</div>"
    )
