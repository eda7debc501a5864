"""Parts of views: the choice of a run, the choice or drawing of an image, and parts with their own script."""

import functools
import html
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from flowvae.errors import UserError
from flowvae.explorer.explored import Explored
from flowvae.explorer.images import from_file, preview, to_text

STATIC = Path(__file__).parent / "static"


def scripted(
    name: str, value: str = "", label: str = "", server_functions: Sequence[Callable] = ()
) -> gr.HTML:
    """A part whose looks and behaviour are in static/NAME.js; its value is a text that both sides read."""
    return gr.HTML(
        value,
        label=label,
        html_template=f'<div class="fv-{name}"></div>',
        js_on_load=(STATIC / "common.js").read_text() + (STATIC / f"{name}.js").read_text(),
        apply_default_css=False,
        server_functions=list(server_functions),
        elem_classes=[f"fv-part-{name}"],
    )


def told(function: Callable) -> Callable:
    """The function, whose UserErrors become messages on the page."""

    @functools.wraps(function)
    def telling(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(
                html.escape(str(error)), title="That did not work", print_exception=False
            ) from None

    return telling


def choose_run(explored: Sequence[Explored]) -> gr.Dropdown:
    """Its value is the run's place in the list. The last is shown first: plain ones are often named first."""
    choices = [(run.title, number) for number, run in enumerate(explored)]
    return gr.Dropdown(choices, value=len(choices) - 1, label="run", interactive=True, filterable=False)


def choose_class(explored: Sequence[Explored], every: str | None = None) -> gr.Dropdown:
    """Its value is the number of a class, or -1 for ``every``; hidden if no run is conditional."""
    names = max((run.class_names for run in explored), key=len)
    choices = [(name, number) for number, name in enumerate(names)]
    choices = choices if every is None else [(every, -1), *choices]
    return gr.Dropdown(
        choices,
        value=choices[0][1] if choices else None,
        label="class",
        info="of models trained with --labels",
        interactive=True,
        filterable=False,
        visible=bool(names),
    )


def at(label: int | None) -> int:
    """Return the number of a class from the value of `choose_class`, which is None if it has no choices."""
    return -1 if label is None else int(label)


class ImageSource(NamedTuple):
    """An image to work on, and what to listen to: each is called with (function, inputs, outputs)."""

    image: gr.HTML
    upload: gr.State
    """the file that the image was made from, as a picture in its own colours; empty if it was not uploaded"""
    listeners: list[Callable]


def image_source(
    explored: Sequence[Explored], number: int = 0, label: str = "image", mask: str | None = None
) -> ImageSource:
    """A pad to draw on, filled with a test image, with another one, or from a file.

    With a ``mask``, what is drawn is not ink but hides pixels, and the value is the image, a bar, and the
    mask: base64 of a byte for each place, not 0 where the image is hidden.
    """
    first = explored[0]
    shape, levels = first.dataset.shape, first.dataset.levels
    count = len(first.dataset.test.images)
    channels, height, width = shape
    number %= count
    form = f"{'ink' if mask is None else 'mask'} {channels} {height} {width}"
    begun = to_text(first.test_image(number))
    image = scripted("pad", begun if mask is None else f"{begun}|{mask}", f"{label}: {form}")
    original = gr.State("")
    with gr.Row(elem_classes="fv-tools"):
        another = gr.Button("Another", size="sm", min_width=60)
        upload = gr.UploadButton("Upload", size="sm", min_width=60, file_types=["image"])
    chosen = gr.Number(
        number,
        label=f"test image, 0 to {count - 1:,}",
        precision=0,
        minimum=0,
        maximum=count - 1,
        min_width=120,
        elem_classes="fv-number-of-image",
    )

    def draw() -> int:
        # Not by torch's generator, which other requests may have seeded.
        return random.randrange(count)

    def with_mask_of(before: str, text: str) -> str:
        return "|".join([text, *before.split("|")[1:]])

    @told
    def take(index: float | None, before: str) -> tuple[str, str]:
        return with_mask_of(before, to_text(first.test_image(int(index or 0)))), ""

    @told
    def read(path: str, before: str) -> tuple[str, str]:
        image = to_text(from_file(Path(path), shape, levels))
        return with_mask_of(before, image), preview(Path(path))

    another.click(draw, None, chosen, show_progress="hidden")
    taken = chosen.change(take, [chosen, image], [image, original], show_progress="hidden")
    uploaded = upload.upload(
        read, [upload, image], [image, original], show_progress="hidden", trigger_mode="always_last"
    )
    return ImageSource(image, original, [image.input, taken.success, uploaded.success])


def on_first_visit(tab: gr.Tab, function: Callable, inputs: Any, outputs: Any) -> None:
    """Fill a view when its tab is first opened, so that the page opens at once."""
    visited = gr.State(False)
    inputs = inputs if isinstance(inputs, list) else [inputs]
    outputs = outputs if isinstance(outputs, list) else [outputs]

    def once(before: bool, *arguments: Any) -> Any:
        if before:
            return (True, *(gr.skip() for _ in outputs))
        result = function(*arguments)
        return (True, *(result if isinstance(result, tuple) else (result,)))

    tab.select(once, [visited, *inputs], [visited, *outputs])
