"""Score: how likely is this image, and does it look like the others?"""

import functools
import html
from collections.abc import Sequence

import gradio as gr
import torch
from torch import Tensor

from flowvae.evaluation import bounds, log_marginal
from flowvae.explorer import scoring
from flowvae.explorer.charts import histogram
from flowvae.explorer.explored import Explored, seeded
from flowvae.explorer.images import canvas, from_text, png
from flowvae.explorer.parts import choose_run, image_source, on_first_visit, told
from flowvae.models import Bounded, Coded, Scored


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    gr.Markdown(
        "Take a test image, draw on it, or upload one of your own: the numbers follow. Log densities are in "
        "nats."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            run = choose_run(explored)
            source = image_source(explored, 1)
            samples = gr.Slider(1, 1000, 100, step=1, label="samples, S", visible=_drawn(explored[-1]))
        with gr.Column(scale=3, min_width=300):
            numbers = gr.HTML(apply_default_css=False)
            chart = gr.HTML(apply_default_css=False)
    reference = functools.cache(scoring.reference)

    @told
    def measure(number: int, text: str, count: float) -> str:
        image, chosen = _image(explored[number], text), explored[number]
        pictures, model = {"the image": image}, chosen.model
        rows = _numbers(model, image, int(count))
        if isinstance(model, Coded):
            with torch.no_grad():
                pictures["its reconstruction"] = model.reconstruct(image, seeded(0))
        return _table(pictures, rows)

    @told
    def compare(number: int, text: str) -> str:
        # With the samples of the others: the estimate falls as their number grows.
        image, chosen = _image(explored[number], text), explored[number]
        nll = -log_marginal(chosen.model, image, scoring.SAMPLES, noise=seeded(0))
        return _chart(float(nll[0]), reference(chosen), _drawn(chosen))

    run.change(
        lambda number: gr.Slider(visible=_drawn(explored[number])), run, samples, show_progress="hidden"
    )
    measured, compared = [run, source.image, samples], [run, source.image]
    for listen in (*source.listeners, run.change, samples.change):
        listen(measure, measured, numbers, show_progress="hidden", trigger_mode="always_last")
    for listen in (*source.listeners, run.change):
        listen(compare, compared, chart, show_progress="hidden", trigger_mode="always_last")
    on_first_visit(tab, measure, measured, numbers)
    on_first_visit(tab, compare, compared, chart)


def _drawn(run: Explored) -> bool:
    """Whether log p(x) is an estimate from samples."""
    return not isinstance(run.model, Scored)


def _image(run: Explored, text: str) -> Tensor:
    return from_text(text, run.dataset.shape, run.dataset.levels).unsqueeze(0)


def _numbers(model: Bounded | Scored, image: Tensor, count: int) -> list[tuple[str, Tensor, str]]:
    """Title, value [1] in nats, and meaning of what the model says of an image."""
    if isinstance(model, Scored):
        return [("-log p(x)", -log_marginal(model, image, 1), "exact")]
    measured = bounds(model, image, count, noise=seeded(0))
    bound = "an upper bound on -log p(x)"
    rows = [
        ("-log p(x|z)", measured.reconstruction, "what the code leaves to say about the pixels"),
        ("KL", measured.kl, "what the code itself costs"),
        ("-ELBO", measured.negative_elbo, bound if measured.kl is None else f"their sum, {bound}"),
        (f"-log p(x), S = {count:,}", measured.negative_log_marginal, "the importance-weighted estimate"),
        (
            "effective samples",
            measured.effective_sample_size,
            "how many equal weights are worth as much; where it is small, the estimate is too high",
        ),
    ]
    return [(name, value, note) for name, value, note in rows if value is not None]


def _table(images: dict[str, Tensor], rows: list[tuple[str, Tensor, str]]) -> str:
    pictures = "".join(
        f"<figure><img src='{png(canvas(shown, 1))}' alt='{name}'><figcaption>{name}</figcaption></figure>"
        for name, shown in images.items()
    )
    cells = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td class='fv-number'>{float(value[0]):.2f}</td>"
        f"<td class='fv-note'>{note}</td></tr>"
        for name, value, note in rows
    )
    return f"<div class='fv-score'>{pictures}<table class='fv-plain'><tbody>{cells}</tbody></table></div>"


def _chart(nll: float, others: Tensor, drawn: bool) -> str:
    share = scoring.place(nll, others)
    verdict = scoring.verdict(share)
    said = (
        f"<p class='fv-flag' role='status'>{html.escape(verdict)}</p>"
        if verdict
        else f"<p class='fv-fine' role='status'>Less likely than {share:.0%} of the test images.</p>"
    )
    estimated = f", S = {scoring.SAMPLES}" if drawn else ""
    title = f"-log p(x) of {len(others)} test images and of this one{estimated}, nats"
    return said + histogram(others.tolist(), nll, title, flagged=verdict is not None)
