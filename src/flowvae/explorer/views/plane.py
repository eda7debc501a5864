"""Latent plane: a plane in latent space as a map of decoded images."""

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
import torch
from torch import Tensor

from flowvae.colours import TEN
from flowvae.errors import UserError
from flowvae.explorer.explored import Explored, seeded
from flowvae.explorer.images import canvas, png
from flowvae.explorer.latent_plane import Plane, decode, grid, nearest_labels, plane_through, principal_plane
from flowvae.explorer.parts import at, choose_class, choose_run, on_first_visit, scripted, told

STEPS = 17
PRINCIPAL, THROUGH = "the two main directions of test codes", "three points of your choice"
DOTS = 800


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    gr.Markdown(
        "Every point of the plane is a code, and the map shows the images that codes decode to. Drag over "
        "it, or move with the arrow keys: the image beside it is decoded at exactly that point. The colour "
        "of the ink is the label of the nearest test image in pixel distance, among 2,000 random ones."
    )
    count = len(explored[0].dataset.test.images)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            run, label = choose_run(explored), choose_class(explored)
            kind = gr.Radio([PRINCIPAL, THROUGH], value=PRINCIPAL, label="a plane through")
            with gr.Column(visible=False) as choice:
                corners = [
                    gr.Number(number % count, label=label, precision=0, minimum=0, maximum=count - 1)
                    for number, label in ((7, "test image at (0, 0)"), (2600, "test image at (1, 0)"))
                ]
                third = gr.Number(
                    5100 % count,
                    label="test image at (0, 1); empty: the middle of the prior",
                    precision=0,
                    minimum=0,
                    maximum=count - 1,
                )
        with gr.Column(scale=4, min_width=300):
            plane = scripted("plane", label="map of the plane", server_functions=[decoder(explored)])

    @told
    def draw(number: int, label: int | None, how: str, *numbers: float | None) -> str:
        return json.dumps(map_of(explored[number].of_class(at(label)), how == PRINCIPAL, numbers))

    kind.change(lambda how: gr.Column(visible=how == THROUGH), kind, choice, show_progress="hidden")
    inputs = [run, label, kind, *corners, third]
    for listen in (
        run.change,
        label.change,
        kind.change,
        third.change,
        *(corner.change for corner in corners),
    ):
        listen(draw, inputs, plane, show_progress="hidden")
    on_first_visit(tab, draw, inputs, plane)


def decoder(explored: Sequence[Explored]):
    def decode_code(request: dict[str, Any]) -> dict[str, str]:
        """Decode one code while the pointer moves.

        The request is {"run": title, "code": D numbers}, the answer {"image": address} or {"error": reason}:
        an exception would not reach the page.
        """
        every = (each for run in explored for each in (run, *run.of_classes))
        run = next((each for each in every if each.title == request["run"]), None)
        if run is None:
            return {"error": f"the run {request['run']} is not open; load the page again"}
        code = torch.tensor(request["code"], dtype=torch.float32)
        if code.shape != (run.model.dimension,):
            return {"error": f"a code of {run.title} has {run.model.dimension} numbers; load the page again"}
        return {"image": png(canvas(decode(run.model, code.unsqueeze(0), seeded(0)), 1))}

    return decode_code


def map_of(run: Explored, principal: bool, numbers: Sequence[float | None]) -> dict[str, object]:
    if principal:
        plane, low, high, anchors = principal_plane(run.sample_codes), -3.0, 3.0, []
    else:
        anchors = [run.test_image(int(number)) for number in numbers if number is not None]
        if len(anchors) < 2:
            raise UserError("a plane needs three points; choose at least two test images")
        plane, low, high = _plane_through(run, anchors), -0.5, 1.5
    x, y = grid(low, high, STEPS)
    points = plane.at(x, y)
    images = decode(run.model, points, seeded(0))
    labels = run.sample_labels
    inks = None
    if labels is not None and bool((known := labels >= 0).any()):
        inks = nearest_labels(images.flatten(1), run.sample_images[known].flatten(1), labels[known])
    dots = plane.coordinates(run.sample_codes[:DOTS])
    return {
        "run": run.title,
        "sheet": png(_inked(images, inks)),
        "steps": STEPS,
        "low": low,
        "high": high,
        "aspect": run.dataset.shape[2] / run.dataset.shape[1],
        "origin": plane.origin.tolist(),
        "across": plane.across.tolist(),
        "up": plane.up.tolist(),
        "anchors": len(anchors),
        "dots": [[round(value, 3) for value in dot] for dot in dots.tolist()],
        "labels": [] if labels is None else labels[:DOTS].tolist(),
        "colours": TEN,
    }


@torch.no_grad()
def _plane_through(run: Explored, images: Sequence[Tensor]) -> Plane:
    codes = run.model.center(torch.stack(list(images)))
    # Without a third image, the middle of the prior.
    third = codes[2] if len(codes) > 2 else run.model.sample_codes(1, seeded(0), temperature=0.0)[0]
    return plane_through(codes[0], codes[1], third)


def _inked(images: Tensor, labels: Tensor | None) -> np.ndarray:
    """Arrange images [N, C, H, W] row by row, in the colours of their labels."""
    if labels is None or images.shape[1] != 1:
        return canvas(images, STEPS)
    table = torch.tensor([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in TEN]) / 255
    ink = table[labels % len(TEN)].view(-1, 3, 1, 1)
    return canvas(1 - images * (1 - ink), STEPS)
