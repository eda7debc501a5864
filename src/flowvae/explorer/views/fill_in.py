"""Fill in: several completions of an image of which a part is hidden."""

import base64
import binascii
from collections.abc import Sequence

import gradio as gr
import torch
from torch import Tensor

from flowvae.errors import UserError
from flowvae.explorer.explored import Explored, seeded
from flowvae.explorer.images import canvas, from_text, png
from flowvae.explorer.parts import at, choose_class, choose_run, image_source, on_first_visit, told
from flowvae.models import Imputation


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    gr.Markdown(
        "Paint over the pixels to hide. Completions are draws given the visible pixels, chosen among S "
        "candidates by their importance weights. They differ where the visible pixels leave the hidden ones "
        "open."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            run, label = choose_run(explored), choose_class(explored)
            source = image_source(explored, 4700, mask=_upper_half(explored[0].dataset.shape))
            count = gr.Slider(4, 24, 16, step=4, label="completions")
            candidates = gr.Slider(100, 2000, 400, step=100, label="candidates, S")
            seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=2**53)
        with gr.Column(scale=4, min_width=300):
            sheet = gr.HTML(apply_default_css=False)

    @told
    def fill(number: int, label: int | None, text: str, *settings: float | None) -> str:
        return _filled(
            explored[number].of_class(at(label)), text, *(int(setting or 0) for setting in settings)
        )

    inputs = [run, label, source.image, count, candidates, seed]
    for listen in (*source.listeners, run.change, label.change, count.change, candidates.change, seed.change):
        listen(fill, inputs, sheet, show_progress="minimal", trigger_mode="always_last")
    on_first_visit(tab, fill, inputs, sheet)


def _filled(run: Explored, text: str, count: int, candidates: int, seed: int) -> str:
    shape = run.dataset.shape
    drawn, _, mask = (text or "").partition("|")
    image, hidden = from_text(drawn, shape, run.dataset.levels), _mask(mask, shape)
    if not hidden.any():
        return "<p class='fv-note'>Nothing is hidden yet: paint over a part of the image.</p>"
    found = run.model.impute(image[None], ~hidden[None], count, candidates, seeded(seed))
    return _sheet(found, hidden, candidates)


def _upper_half(shape: tuple[int, int, int]) -> str:
    """Mask that is shown first: the upper half."""
    _, height, width = shape
    return base64.b64encode(bytes(row < height // 2 for row in range(height) for _ in range(width))).decode()


def _mask(text: str, shape: tuple[int, int, int]) -> Tensor:
    """Which pixels are hidden, [C, H, W]: all channels of a place, or none."""
    try:
        places = base64.b64decode(text, validate=True) if text else bytes(shape[1] * shape[2])
    except (binascii.Error, ValueError):
        places = b""
    if len(places) != shape[1] * shape[2]:
        raise UserError("the mask and the image differ in size; paint the mask again")
    return (torch.frombuffer(bytearray(places), dtype=torch.uint8) > 0).view(1, *shape[1:]).expand(shape)


def _sheet(found: Imputation, hidden: Tensor, candidates: int) -> str:
    shown = {"mean": found.mean[0]}
    shown |= {str(number): image[0] for number, image in enumerate(found.images, 1)}
    figures = "".join(
        f"<figure><img src='{_tinted(image, hidden)}' alt='{name}'><figcaption>{name}</figcaption></figure>"
        for name, image in shown.items()
    )
    share = hidden.double().mean().item()
    return (
        f"<p class='fv-note'>{share:.0%} of the pixels are hidden, tinted here. "
        f"The effective sample size is {float(found.effective_sample_size):.1f} of {candidates}: "
        "where it is small, completions repeat. First the mean of all candidates.</p>"
        f"<div class='fv-samples fv-completions'>{figures}</div>"
    )


def _tinted(image: Tensor, hidden: Tensor) -> str:
    """The image on paper that is tinted where pixels are hidden."""
    paper = torch.ones(3, *image.shape[1:])
    tint = torch.tensor([0.88, 0.89, 1.0]).view(3, 1, 1)
    paper = torch.where(hidden[:1], tint, paper)
    shown = paper * (1 - image) if len(image) == 1 else torch.where(hidden, 0.5 * (image + tint), image)
    return png(canvas(shown.unsqueeze(0), 1))
