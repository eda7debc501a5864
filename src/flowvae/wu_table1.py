"""Table 1 of Wu et al. (2017): log-likelihoods of autoencoders and adversarial networks by annealing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowvae import runs
from flowvae.commands.evaluating import anneal_run
from flowvae.data import load_configured
from flowvae.evaluation import Annealing
from flowvae.evaluation.report import choose_images
from flowvae.models.registry import build_model, preset
from flowvae.training import train_or_resume
from flowvae.training.loop import check_budget
from flowvae.training.repeated import check_unchanged

USUAL_IMAGES = 100
NUMBERS = ("log_likelihood", "gap", "distributions", "images", "training_seconds")
"""what the table shows of every row"""


@dataclass(frozen=True)
class Row:
    """A decoder of the table."""

    preset: str
    published: float
    """log-likelihood of test images, in nats"""
    variance: float | None = None
    """variance of each pixel, of a model that has none of its own"""


ROWS = {
    "vae-50": Row("wu-vae-50", 991.4),
    "vae-10": Row("wu-vae-10", 705.4),
    "gan-50": Row("wu-gan-50", 627.3, 0.01),
    "gan-10": Row("wu-gan-10", 328.8, 0.025),
}


def reproduce_wu_table1(
    folder: Path,
    *,
    rows: Sequence[str] = tuple(ROWS),
    data: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    distributions: int = 1000,
    num_images: int = USUAL_IMAGES,
) -> None:
    """Train the decoders, measure their log-likelihoods by annealing, and write table.json and table.md.

    Test images are dequantized. Finished rows are kept, and interrupted ones resumed.

    Args:
        folder: directory for ``ROW.json``, the table, and the runs under ``runs/``.
        rows: names of the rows.
        data: data set in place of MNIST, of 8-bit images.
        epochs, minutes: training budget of a row; by default, that of its preset.
        distributions: T, number of distributions of the annealing.
        num_images: number of random test images.

    Raises:
        UserError: if there are fewer images, options are out of range, or a run in the directory has other
            options or was trained for longer.
    """
    budget = {name: value for name, value in (("epochs", epochs), ("minutes", minutes)) if value is not None}
    given = {**budget, **({} if data is None else {"data": data})}
    configs = {name: preset(ROWS[name].preset).revised(track="none", **given) for name in rows}
    annealing = {
        name: Annealing(distributions=distributions, variance=ROWS[name].variance, dequantize=True)
        for name in rows
    }
    for name, config in configs.items():  # raises before anything is trained
        check_unchanged(folder / "runs" / name, config)
        dataset = load_configured(config.data)
        choose_images(dataset, "test", num_images, seed=0)
        assert config.model is not None
        check_budget(build_model(config.model, dataset.spec), dataset, config.training)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    asked = {**given, "distributions": distributions, "images": num_images}
    table = []
    for name, config in configs.items():
        path = folder / f"{name}.json"
        kept = runs.read_kept(path, asked, NUMBERS)
        if kept is None or kept.get("variance") != ROWS[name].variance:
            run = folder / "runs" / name
            train_or_resume(run, config)
            kept = {"asked": asked, **_measured(anneal_run(run, annealing[name], num_images))}
            runs.write_json(path, kept)
        table.append({"system": name, "published": ROWS[name].published, **kept})
        del table[-1]["asked"]
        runs.write_json(folder / "table.json", table)
        (folder / "table.md").write_text(_markdown(table), encoding="utf-8")


def _measured(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table has of an annealed evaluation: its log-likelihood, higher is better."""
    renamed = {"nll_standard_error": "standard_error"}
    rest = {renamed.get(name, name): value for name, value in evaluation.items() if name != "nll"}
    return {"log_likelihood": -evaluation["nll"], **rest}


def _markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as a Markdown table, in nats."""
    lines = [
        "| system | log p(x) | gap | published log p(x) | distributions | images | minutes of training |",
        "|:---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        cells = [
            row["system"],
            _with_error(row["log_likelihood"], row.get("standard_error")),
            _with_error(row["gap"], row.get("gap_standard_error")),
            f"{row['published']:.1f}",
            f"{row['distributions']:,}",
            row["images"],
            f"{row['training_seconds'] / 60:.1f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.1f}" if error is None else f"{value:.1f} ± {error:.1f}"
