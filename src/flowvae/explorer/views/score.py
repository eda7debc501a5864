"""Score: how likely an image is, and where it falls among the test images."""

import base64
import csv
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from flowvae.batch import labelled
from flowvae.data.named import number_of
from flowvae.errors import UserError
from flowvae.evaluation import bounds, log_marginal
from flowvae.evaluation.bayes import log_mixture, log_posterior, log_prob_of_classes
from flowvae.evaluation.scoring import score
from flowvae.explorer import scoring
from flowvae.explorer.charts import histogram
from flowvae.explorer.explored import Explored, seeded
from flowvae.explorer.images import canvas, from_file, from_text, png
from flowvae.explorer.parts import choose_run, image_source, on_first_visit, told
from flowvae.models import Classifying, Coded, Scored

MOST_FILES = 100
CAUTION = (
    "A usual score does not make a usual image: compare what the model sees with what you meant it to see."
)


def build(tab: gr.Tab, explored: Sequence[Explored]) -> None:
    gr.Markdown(
        "Choose a test image, draw on it, or upload your own; the numbers follow. Log densities are in nats."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            run = choose_run(explored)
            source = image_source(explored, 1)
            files = gr.UploadButton(
                "Score several files", size="sm", file_count="multiple", file_types=["image"]
            )
        with gr.Column(scale=3, min_width=300):
            numbers = gr.HTML(apply_default_css=False)
            chart = gr.HTML(apply_default_css=False)
            table = gr.HTML(apply_default_css=False)
    found = gr.State((0, 0.0))
    references = [scoring.Reference(each) for each in explored]

    @told
    def measure(number: int, text: str, upload: str) -> tuple[str, tuple[int, float]]:
        chosen = explored[number]
        image, model = _image(chosen, text), chosen.model
        _, height, width = chosen.dataset.shape
        pictures = {"uploaded": upload} if upload else {}
        pictures[f"as the model sees it, {height}\u00a0x\u00a0{width}"] = png(canvas(image, 1))
        measured, nll, of_classes = _numbers(model, image, references[number].samples)
        rows = [(name, f"{float(value[0]):.2f}", note) for name, value, note in measured]
        label = None
        if of_classes is not None:
            log_probability, label = of_classes.max(1)
            note = f"the most probable one, with probability {float(log_probability.exp()):.3f}"
            rows.append(("class", chosen.class_name(int(label)), note))
        if isinstance(model, Coded):
            own = labelled(label if chosen.model.conditional else None)
            with torch.no_grad():
                reconstructed = model.reconstruct(image, seeded(0), **own)
                pictures["its reconstruction"] = png(canvas(reconstructed, 1))
        return _table(pictures, rows), (number, nll)

    def compare(measured: tuple[int, float]) -> Iterator[str]:
        number, nll = measured
        reference = references[number]
        try:
            for count in reference.progress():
                yield _note(
                    f"Scoring test images to compare with, once for this run: {count} of "
                    f"{len(reference.images)}. The other views can be used meanwhile."
                )
            yield _chart(nll, reference.scores(), None if _exact(explored[number]) else reference.samples)
        except UserError as error:
            yield _note(str(error))

    @told
    def score_files(number: int, paths: list[str]) -> str:
        return _files(references[number], [Path(path) for path in paths])

    measured, shown = [run, source.image, source.upload], [numbers, found]
    for listen in (*source.listeners, run.change):
        listen(measure, measured, shown, show_progress="hidden", trigger_mode="always_last")
    found.change(compare, found, chart, show_progress="hidden", trigger_mode="always_last")
    files.upload(score_files, [run, files], table, show_progress="minimal", trigger_mode="always_last")
    on_first_visit(tab, measure, measured, shown)


def _exact(run: Explored) -> bool:
    """Whether log p(x) is computed without samples."""
    return isinstance(run.model, Scored)


def _image(run: Explored, text: str) -> Tensor:
    return from_text(text, run.dataset.shape, run.dataset.levels).unsqueeze(0)


def _note(text: str) -> str:
    return f"<p class='fv-note' role='status'>{html.escape(text)}</p>"


def _numbers(
    model: Any, image: Tensor, count: int
) -> tuple[list[tuple[str, Tensor, str]], float, Tensor | None]:
    """Score an image [1, C, H, W]: title, value [1] in nats and meaning of each number, and -log p(x).

    If the model is conditional or classifies, also the log probability of each class, [1, classes].

    The numbers are those of `flowvae.evaluation.scoring.score` with seed 0.
    """
    if model.conditional:
        noise = torch.Generator().manual_seed(number_of(image[0]))
        of_classes = log_prob_of_classes(model, image, model.classes, count, noise=noise)
        nll = -log_mixture(of_classes)
        rows = [("-log p(x)", nll, "of all classes, each with the same probability")]
        return rows, float(nll), log_posterior(of_classes)
    if isinstance(model, Scored):
        nll = -log_marginal(model, image, 1)
        return [("-log p(x)", nll, "exact")], float(nll), None
    noise = torch.Generator().manual_seed(number_of(image[0]))
    measured = bounds(model, image, count, noise=noise)
    bound = "an upper bound on -log p(x)"
    rows = [
        ("-log p(x|z)", measured.reconstruction, "cost of the pixels, given the code"),
        ("KL", measured.kl, "cost of the code"),
        ("-ELBO", measured.negative_elbo, bound if measured.kl is None else f"their sum, {bound}"),
        (f"-log p(x), S = {count:,}", measured.negative_log_marginal, "the importance-weighted estimate"),
        (
            "effective samples",
            measured.effective_sample_size,
            f"1 to {count:,}; if only a few, the estimate of -log p(x) is too high",
        ),
    ]
    nll = float(measured.negative_log_marginal)
    with torch.no_grad():
        log_class = model.classify(image) if isinstance(model, Classifying) else None
    return [(name, value, note) for name, value, note in rows if value is not None], nll, log_class


def _table(pictures: dict[str, str], rows: list[tuple[str, str, str]]) -> str:
    shown = "".join(
        f"<figure><img src='{address}' alt='{name}'><figcaption>{name}</figcaption></figure>"
        for name, address in pictures.items()
    )
    cells = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td class='fv-number'>{html.escape(value)}</td>"
        f"<td class='fv-note'>{note}</td></tr>"
        for name, value, note in rows
    )
    return f"<div class='fv-score'>{shown}<table class='fv-plain'><tbody>{cells}</tbody></table></div>"


def _chart(nll: float, others: Tensor, samples: int | None) -> str:
    """Where an image falls among the test images; without samples, if log p(x) is exact."""
    share = scoring.place(nll, others)
    verdict = scoring.verdict(share)
    said = (
        f"<p class='fv-flag' role='status'>{html.escape(verdict)}</p>"
        if verdict
        else f"<p class='fv-fine' role='status'>Less likely than {share:.0%} of the test images. "
        f"<span class='fv-note'>{CAUTION}</span></p>"
    )
    estimated = "" if samples is None else f", S = {samples:,}"
    title = f"-log p(x) of {len(others):,} test images and of this one{estimated}, nats"
    return said + histogram(others.tolist(), nll, title, flagged=verdict is not None)


def _files(reference: scoring.Reference, paths: Sequence[Path]) -> str:
    """Scores of uploaded files: a row for each, and all of them as CSV to download."""
    if len(paths) > MOST_FILES:
        raise UserError(f"{len(paths)} files at once; upload at most {MOST_FILES}, or use: flowvae score")
    dataset = reference.run.dataset
    images = []
    for path in paths:
        try:
            images.append(from_file(path, dataset.shape, dataset.levels))
        except UserError as error:
            raise UserError(f"{path.name}: {error}") from None
    scores = score(reference.run.model, torch.stack(images), reference.samples, seeded(0))
    others = reference.scores()
    columns = {
        name: scores[key].tolist() for name, key in (("-ELBO", "negative_elbo"), ("-log p(x)", "nll"))
        if key in scores
    }  # fmt: skip
    columns["% of test images more likely"] = [
        100 * scoring.place(nll, others) for nll in scores["nll"].tolist()
    ]
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(["file", *columns])
    rows = []
    for path, image, *values in zip(paths, images, *columns.values(), strict=True):
        writer.writerow([path.name, *values])
        numbers = "".join(f"<td class='fv-number'>{value:.1f}</td>" for value in values)
        rows.append(
            f"<tr><td><img src='{png(canvas(image[None], 1))}' alt=''></td>"
            f"<th scope='row'>{html.escape(path.name)}</th>{numbers}</tr>"
        )
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    address = "data:text/csv;base64," + base64.b64encode(written.getvalue().encode()).decode()
    head = f"<thead><tr><th></th><th>file</th>{heads}</tr></thead>"
    return (
        f"<a class='fv-download' download='scores.csv' href='{address}'>Download as CSV</a>"
        f"<div class='fv-scroll'><table class='fv-plain fv-files'>{head}<tbody>{''.join(rows)}</tbody>"
        "</table></div>"
        f"<p class='fv-note'>{CAUTION}</p>"
    )
