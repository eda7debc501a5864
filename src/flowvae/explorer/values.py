"""Values of controls: gradio passes on more than a control can have, and prints what it refuses."""

import functools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import gradio as gr


def check_values(page: Any) -> None:
    """Make a page of gradio refuse, with a message, values that its controls cannot have."""
    page.preprocess_data = functools.partial(_checked, page.preprocess_data)


async def _checked(
    preprocess: Callable[..., Awaitable[list[Any]]], listener: Any, *arguments: Any, **options: Any
) -> list[Any]:
    refused = gr.Error(
        "a control has a value that it cannot have; load the page again", print_exception=False
    )
    try:
        values = await preprocess(listener, *arguments, **options)
    except Exception:  # each control has errors of its own
        raise refused from None
    if not all(can_have(*pair) for pair in zip(listener.inputs, values, strict=True)):
        raise refused
    return values


def can_have(control: Any, value: object) -> bool:
    """Whether a control of the page can have a value; the server keeps the values of states.

    >>> can_have(gr.Slider(1, 5), 3), can_have(gr.Slider(1, 5), math.nan), can_have(gr.HTML(), [1])
    (True, False, False)
    """
    if isinstance(control, gr.Dropdown | gr.Radio | gr.CheckboxGroup):
        known = [choice for _, choice in control.choices]
        if isinstance(control, gr.CheckboxGroup):
            return isinstance(value, list) and all(each in known for each in value)
        return value in known or (value is None and not known)
    if isinstance(control, gr.Number | gr.Slider):
        return value is None or (isinstance(value, int | float) and math.isfinite(value))
    if isinstance(control, gr.UploadButton):
        files: Sequence[object] = value if isinstance(value, list) else [value]
        return all(isinstance(file, str) for file in files)
    if isinstance(control, gr.HTML):
        return isinstance(value, str)
    return True
