"""The table of classifiers from few labels: each system on several draws of the labelled images."""

import importlib.util
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowvae import runs
from flowvae.batch import Batch
from flowvae.config import Config
from flowvae.data import Dataset, load_configured
from flowvae.errors import UserError, check_range
from flowvae.evaluation.calibration import calibration_error
from flowvae.models import Classifying
from flowvae.models.labels import draw_labelled
from flowvae.models.registry import build_model, preset
from flowvae.networks import Encoder
from flowvae.parts import MOST, to_dict
from flowvae.runs.capability import needs
from flowvae.training import train_or_resume
from flowvae.training.loop import all_images, check_budget
from flowvae.training.seeding import seed_everything

MOST_DRAWS = 1000
STACKED, ON_IMAGES, ADVERSARIAL = "semi-supervised-stacked", "semi-supervised", "bayesian-gan-few"
TRAINED = (STACKED, ON_IMAGES, ADVERSARIAL)
SPREAD_OVER = 10_000  # unlabelled images of label spreading, whose time grows with their square
IMAGES_AT_ONCE = 256
MEASURES = ("error", "class_nll", "calibration_error", "minutes")


@dataclass(frozen=True)
class Few:
    """What a baseline learns from: images [N, C, H, W] in [0, 1], of which some have labels [L]."""

    known: Tensor
    labels: Tensor
    unlabelled: Tensor
    classes: int


Baseline = Callable[[Few, Tensor], Tensor]
"""learns, and computes the log probabilities [M, classes] of other images"""


def supervised(few: Few, images: Tensor) -> Tensor:
    """A network with the encoder of the systems, trained on the labelled images only, for 500 steps."""
    options: Any = preset(ON_IMAGES).model
    shape = few.known.shape[1], few.known.shape[2], few.known.shape[3]
    encoder = Encoder(shape, options.features, options.channels, options.blocks)
    network = nn.Sequential(encoder, nn.Linear(options.features, few.classes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
    steps = 500
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        places = torch.randint(len(few.known), (32,))
        loss = F.cross_entropy(network(few.known[places]), few.labels[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return torch.cat([network(part).log_softmax(1) for part in images.split(IMAGES_AT_ONCE)])


def logistic_regression(few: Few, images: Tensor) -> Tensor:
    """Logistic regression of the pixels, as scikit-learn's default, until it converges."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=10_000).fit(_flat(few.known), few.labels.numpy())
    return _log_probabilities(model, few, images)


def nearest_neighbour(few: Few, images: Tensor) -> Tensor:
    """The label of the nearest labelled image in Euclidean distance."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(1).fit(_flat(few.known), few.labels.numpy())
    return _log_probabilities(model, few, images)


def label_spreading(few: Few, images: Tensor) -> Tensor:
    """Label spreading over the graph of 10 nearest neighbours of at most 10,000 unlabelled images."""
    from sklearn.semi_supervised import LabelSpreading

    chosen = few.unlabelled[torch.randperm(len(few.unlabelled))[:SPREAD_OVER]]
    labels = np.concatenate([few.labels.numpy(), np.full(len(chosen), -1)])
    neighbours = min(10, len(labels))
    model = LabelSpreading(kernel="knn", n_neighbors=neighbours, alpha=0.9, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge to all digits
        model.fit(_flat(torch.cat([few.known, chosen])), labels)
    return _log_probabilities(model, few, images)


BASELINES: dict[str, Baseline] = {
    "supervised": supervised,
    "logistic-regression": logistic_regression,
    "nearest-neighbour": nearest_neighbour,
    "label-spreading": label_spreading,
}
ROWS = (*TRAINED, *BASELINES)
OF_SKLEARN = {"logistic-regression", "nearest-neighbour", "label-spreading"}


def _flat(images: Tensor) -> np.ndarray:
    return images.flatten(1).numpy()


def _log_probabilities(model: Any, few: Few, images: Tensor) -> Tensor:
    """Return those of a classifier of scikit-learn, which may know some of the classes only."""
    found = torch.full((len(images), few.classes), -torch.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an image that no label reaches has 0/0
        chances = np.concatenate([model.predict_proba(_flat(part)) for part in images.split(IMAGES_AT_ONCE)])
    found[:, torch.from_numpy(model.classes_)] = torch.from_numpy(np.nan_to_num(chances)).float().log()
    return found


def reproduce_few_labels(
    folder: Path,
    *,
    labels: Sequence[int] = (100,),
    draws: int = 5,
    rows: Sequence[str] = ROWS,
    data: str | None = None,
    first: Path | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
) -> None:
    """Train every system on every draw of labelled images, and write table.json and table.md.

    Draw n is that of ``flowvae train --seed n``; its labelled images are the same for all systems. Finished
    draws are kept, and interrupted ones resumed.

    Args:
        folder: directory for ``ROW-LABELS-drawN.json``, the table, and the runs under ``runs/``.
        labels: numbers of labelled images.
        draws: number of draws.
        rows: names of the systems.
        data: data set in place of the presets' own.
        first: run of ``vae`` that is M1 of the stacked system for all draws; by default, one is trained.
        epochs, minutes: budget of a draw of the trained systems; by default, that of their presets.

    Raises:
        UserError: if there are too few labels, or scikit-learn is missing.
    """
    check_range("draws", draws, 1, MOST_DRAWS)
    if set(rows) & OF_SKLEARN and importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "some rows need scikit-learn; install it with: pip install 'flowvae[sklearn]', or leave out: "
            f"--rows {' '.join(row for row in ROWS if row not in OF_SKLEARN)}"
        )
    budget = {name: value for name, value in (("epochs", epochs), ("minutes", minutes)) if value is not None}
    source = data or preset(STACKED).data.data
    dataset = load_configured(preset(STACKED).revised(data=source).data)
    if dataset.test.labels is None or bool((dataset.test.labels < 0).any()):
        raise UserError(f"test images of {dataset.name} have no labels to compare with; choose other data")
    for number in labels:
        check_range("labels_used", number, 1, MOST)
        _drawn(dataset, number, 0)  # raises if there are too few, before anything is trained
    for row in set(rows) & set(TRAINED):
        config = _config(row, {"data": source, "labels_used": labels[0], **budget})
        assert config.model is not None
        check_budget(build_model(config.model, dataset.spec), dataset, config.training)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    if STACKED in rows and first is None:
        first = folder / "runs" / "vae"
        train_or_resume(first, _config("vae", {"data": source, **budget}))
    sizes = {} if first is None else _sizes_of(first)
    table = []
    for number in labels:
        for row in rows:
            options = {**(budget if row in TRAINED else {}), **(sizes if row == STACKED else {})}
            found = [
                _measured(
                    folder, row, dataset, {"data": source, "labels_used": number, "seed": draw, **options}
                )
                for draw in range(draws)
            ]
            table.append(_averaged(row, number, found))
            runs.write_json(folder / "table.json", table)
            (folder / "table.md").write_text(_markdown(table), encoding="utf-8")


def _measured(folder: Path, row: str, dataset: Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of a row on one draw: those that are kept, or new ones."""
    number, draw = options["labels_used"], options["seed"]
    name = f"{row}-{number}-draw{draw}"
    path = folder / f"{name}.json"
    kept = runs.read_kept(path, options, ("error", "calibration_error", "minutes"))
    if kept is not None:
        return kept
    if row in TRAINED:
        measured = _score_trained(folder / "runs" / name, row, options, dataset)
    else:
        measured = _score_baseline(BASELINES[row], dataset, number, draw)
    runs.write_json(path, {"asked": options, **measured})
    return measured


def _sizes_of(first: Path) -> dict[str, Any]:
    """Return the options by which M1 has the size of a trained run."""
    model: Any = runs.Run(first).config.model
    flat = to_dict(model)
    sizes = {name: flat[name] for name in ("channels", "blocks") if name in flat}
    return {"first": str(first), "first_latent": model.latent, "features": model.code.features, **sizes}


def _config(name: str, options: Mapping[str, Any]) -> Config:
    return preset(name).revised(track="none", **options)


def _score_trained(run: Path, name: str, options: Mapping[str, Any], dataset: Dataset) -> dict[str, float]:
    train_or_resume(run, _config(name, options))
    opened = runs.Run(run)
    model, images = needs(Classifying, opened), _test_images(opened.dataset)  # grey for some systems
    with torch.no_grad():
        log_class = torch.cat([model.classify(part) for part in images.split(IMAGES_AT_ONCE)])
    last = opened.records[-1]
    return {**_scores(log_class, dataset), "minutes": last["seconds"] / 60, "steps": last["step"]}


def _score_baseline(baseline: Baseline, dataset: Dataset, number: int, draw: int) -> dict[str, float]:
    known = _drawn(dataset, number, draw)
    assert known.labels is not None
    unlabelled = torch.cat([batch.images for batch in all_images(dataset)])
    began = time.monotonic()
    with torch.random.fork_rng():
        seed_everything(draw)
        few = Few(known.images, known.labels, unlabelled, dataset.spec.classes)
        log_class = baseline(few, _test_images(dataset))
    return {**_scores(log_class, dataset), "minutes": (time.monotonic() - began) / 60}


def _drawn(dataset: Dataset, number: int, draw: int) -> Batch:
    """Draw the labelled images that a system draws in training with the seed ``draw``."""
    with torch.random.fork_rng():
        seed_everything(draw)
        noise = torch.Generator().manual_seed(torch.initial_seed())
        return draw_labelled(all_images(dataset), number, noise)


def _test_images(dataset: Dataset) -> Tensor:
    return dataset.batch("test", torch.arange(len(dataset.test.images))).images


def _scores(log_class: Tensor, dataset: Dataset) -> dict[str, float]:
    """Score log probabilities [N, K] of test images; an infinite negative log-likelihood is left out."""
    labels = dataset.test.labels
    assert labels is not None
    confidence, predicted = log_class.max(1)
    right = predicted == labels
    nll = -log_class.gather(1, labels[:, None]).double().mean().item()
    return {
        "error": 1 - right.double().mean().item(),
        **({"class_nll": nll} if np.isfinite(nll) else {}),
        "calibration_error": calibration_error(confidence.exp().clamp(min=1e-6), right),
    }


def _averaged(row: str, number: int, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average the scores of the draws of a row; a score that a draw lacks is left out."""
    means = {
        name: float(np.mean([each[name] for each in found]))
        for name in MEASURES
        if all(name in each for each in found)
    }
    errors = [each["error"] for each in found]
    spread = {"error_standard_deviation": float(np.std(errors, ddof=1))} if len(found) > 1 else {}
    steps = {"steps": found[0]["steps"]} if "steps" in found[0] else {}
    return {"system": row, "labels": number, "draws": len(found), **means, **spread, **steps}


def _markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as a Markdown table."""
    lines = [
        "| system | labels | draws | error | -log q(y\\|x) | ECE | minutes |",
        "|:---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        error = f"{100 * row['error']:.2f}"
        if "error_standard_deviation" in row:
            error += f" ± {100 * row['error_standard_deviation']:.2f}"
        nll = f"{row['class_nll']:.3f}" if "class_nll" in row else ""
        cells = [row["system"], row["labels"], row["draws"], f"{error} %", nll]
        cells += [f"{row['calibration_error']:.3f}", f"{row['minutes']:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
