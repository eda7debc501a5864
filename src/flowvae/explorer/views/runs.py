"""Runs: their evaluations, training curves, and the settings in which two of them differ."""

import html
import io
from collections.abc import Sequence

import gradio as gr

from flowvae.explorer.differences import differences
from flowvae.explorer.explored import Explored
from flowvae.runs.table import columns_of
from flowvae.titles import title


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    columns = columns_of([run.evaluation for run in explored])
    keys = list(dict.fromkeys(key for run in explored for key in ("name", *columns, *run.evaluation)))
    keys = [key for key in keys if any(run.evaluation.get(key) is not None for run in explored)]
    gr.Markdown(
        "Log densities are in nats per image. Lower is better, except for the density and the coverage of "
        "samples. The menu (⋮) of a column sorts by it. Numbers come from `flowvae evaluate RUN`, also with "
        "`--estimator ais`, and `flowvae quality RUN`."
    )
    gr.Dataframe(
        [[_shown(run.evaluation.get(key)) for key in keys] for run in explored],
        headers=[title(key) for key in keys],
        interactive=False,
        show_label=False,
        elem_classes="fv-table",
    )
    titles = [run.title for run in explored]
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            chosen = gr.CheckboxGroup(titles, value=titles, label="training curves")
            curves = gr.HTML(apply_default_css=False)
        with gr.Column(scale=2, min_width=280):
            with gr.Row():
                one = _choice(titles, 0, "settings of")
                other = _choice(titles, len(titles) - 1, "compared with")
            table = gr.HTML(_differences(explored, 0, len(titles) - 1), apply_default_css=False)
    # Without triggers: when the page is opened, and at every change.
    gr.on(None, lambda names: _curves(explored, names), chosen, curves, show_progress="hidden")
    for menu in (one, other):
        menu.change(lambda a, b: _differences(explored, a, b), [one, other], table, show_progress="hidden")


def _choice(titles: list[str], value: int, label: str) -> gr.Dropdown:
    return gr.Dropdown(
        list(zip(titles, range(len(titles)), strict=True)), value=value, label=label, min_width=120
    )


def _shown(value: object) -> object:
    """Round a number; it stays a number, so that columns are sorted by value."""
    return round(value, 4) if isinstance(value, float) else value


def _curves(explored: Sequence[Explored], names: Sequence[str]) -> str:
    chosen = {run.title: run.records for run in explored if run.title in names}
    if not any(chosen.values()):
        return "<p class='fv-note'>There is no training curve to show.</p>"
    from flowvae.figures import draw_curves  # matplotlib is not waited for when the page opens

    text = io.StringIO()
    draw_curves(chosen).savefig(text, format="svg")
    return f"<div class='fv-figure'>{text.getvalue()[text.getvalue().index('<svg') :]}</div>"


def _differences(explored: Sequence[Explored], one: int, other: int) -> str:
    rows = differences(explored[one].config, explored[other].config)
    if not rows:
        return "<p class='fv-note'>Both have the same settings.</p>"
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    names = [html.escape(explored[number].title) for number in (one, other)]
    return (
        "<table class='fv-plain'>"
        f"<thead><tr><th>setting</th><th>{names[0]}</th><th>{names[1]}</th></tr></thead><tbody>{cells}</tbody></table>"
    )
