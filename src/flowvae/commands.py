"""What the commands do, on the folders of runs."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from flowvae import figures, runs
from flowvae.config import LARGEST_SEED, Config
from flowvae.data import as_float
from flowvae.densities import CausalLikelihood
from flowvae.errors import UserError, check_range
from flowvae.evaluation import evaluate, interpolate, nearest
from flowvae.evaluation.reliability import caveat
from flowvae.evaluation.table import collect, markdown, titles, write_table
from flowvae.hub import save_pretrained
from flowvae.models import VAE, RealNVPDensity
from flowvae.onnx import export_onnx
from flowvae.presets import preset
from flowvae.training import train

# What a picture can hold and still be looked at; more would first fill the memory.
MOST_IMAGES = 10_000


def evaluate_run(
    run: Path,
    num_samples: int,
    num_images: int,
    split: str = "test",
    data: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the run's model (see `flowvae.evaluation.evaluate`) and write evaluation.json into its folder.

    A line on standard error says where its -log p(x) cannot be trusted.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    model = runs.load(run)
    config, _ = runs.read_config(run)
    dataset = runs.read_dataset(run, data)
    if split == "train" and dataset.binarization == "dynamic":
        raise UserError(
            "dynamic binarization draws training images anew for every batch; evaluate valid or test"
        )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"evaluating {titles([run])[0]}", total=1.0)
        scores = evaluate(
            model,
            dataset,
            split,
            num_samples,
            num_images,
            seed,
            lambda done: progress.update(task, completed=done),
        )
    records = runs.read_metrics(runs.find(run))
    training = {
        "training_steps": records[-1]["step"] if records else None,
        "training_seconds": records[-1]["seconds"] if records else None,
        "training_seed": config.training.seed,
    }
    evaluation = {**scores, **training}
    if not runs.is_bundled(run):
        runs.write_json(run / runs.EVALUATION, evaluation)
    if said := caveat(evaluation):
        print(f"flowvae: warning: {titles([run])[0]}: {said}", file=sys.stderr)
    return evaluation


def picture_samples(
    run: Path, num_images: int, seed: int, out: Path, show: str = "samples", data: str | None = None
) -> Path:
    """A grid of images for codes from the prior: their mean, or draws where the likelihood has none.

    Args:
        run: folder of the run.
        num_images: how many.
        seed: of the draws.
        out: the picture.
        show: ``"samples"``; ``"crossed"``: images in a column have the code in common, and those in a row the
            noise by which pixels are drawn; ``"nearest"``: each above the training image nearest to it.
        data: training images of another source.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("images", num_images, 1, MOST_IMAGES)
    model = runs.load(run)
    if show == "crossed":
        images, title = _crossed(runs.load_vae(run), run, num_images, seed), "a code a column, a noise a row"
        figures.save_panels({title: images}, out, columns=10)
        return out
    torch.manual_seed(seed)
    with torch.no_grad():
        images = model.sample(num_images)
    if show == "nearest":
        dataset = runs.read_dataset(run, data)
        training, levels = dataset.train.images, dataset.training_levels
        found = as_float(training[nearest(images, training, levels=levels).indices[:, 0]], levels)
        _save_pairs("samples, each above the nearest training image", images, found, out)
    else:
        figures.save_panels({"": images}, out, columns=10)
    return out


@torch.no_grad()
def _crossed(model: VAE, run: Path, num_images: int, seed: int) -> Tensor:
    """Rows of ten codes, the same in all rows, with a noise for each row."""
    if not isinstance(model.likelihood, CausalLikelihood):
        raise UserError(
            f"{run} draws pixels apart from each other; crossed samples are of a causal likelihood"
        )
    torch.manual_seed(seed)
    columns = 10
    rows = math.ceil(num_images / columns)
    given = model.likelihood(model.prior().sample(torch.Size((1, columns))).repeat(rows, 1, 1))
    noise = torch.rand(rows, 1, *given.condition.shape[3:]).expand(-1, columns, -1, -1)
    return given.sample(noise=noise).flatten(0, 1)[:num_images]


def picture_reconstructions(
    run: Path, num_images: int, seed: int, out: Path, data: str | None = None
) -> Path:
    """Rows of test images, each row above the row of their reconstructions."""
    model = runs.load_vae(run)
    images = test_images(run, num_images, seed, data)
    with torch.no_grad():
        reconstructed = model.reconstruct(images)
    _save_pairs("test images, each above its reconstruction", images, reconstructed, out)
    return out


def picture_interpolations(
    compared: Sequence[Path], pairs: int, steps: int, seed: int, out: Path, data: str | None = None
) -> Path:
    """The same walks between test images for each run, side by side."""
    check_range("pairs", pairs, 1, MOST_IMAGES)
    check_range("steps", steps, 2, MOST_IMAGES)  # both ends are among them
    check_range("pairs times steps", pairs * steps, 1, MOST_IMAGES)
    panels = {}
    for title, run in zip(titles(compared), compared, strict=True):
        ends = test_images(run, 2 * pairs, seed, data)
        model = runs.load(run)
        if not isinstance(model, RealNVPDensity):
            model = runs.load_vae(run)
        panels[title] = interpolate(model, ends[:pairs], ends[pairs:], steps).flatten(0, 1)
    figures.save_panels(panels, out, columns=steps)
    return out


def export_run(run: Path, format: str, out: Path) -> list[Path]:
    """Write the run's model into the folder ``out``, as ONNX graphs ("onnx") or as a hub wants it ("hub")."""
    if format == "hub":
        return save_pretrained(run, out)
    return export_onnx(runs.load_vae(run), runs.read_config(run)[1], out)


def run_demo(minutes: float, out: Path) -> None:
    """Train ``vae`` and ``realnvp-2``, evaluate them, and write their table and pictures into ``out``."""
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out, or remove it")
    folders = [out / name for name in ("vae", "realnvp-2")]
    for folder in folders:
        config = preset(folder.name)
        config = Config(config.data, config.model, config.training.with_budget(minutes=minutes))
        if not train(folder, config):
            raise KeyboardInterrupt
    for folder in folders:
        evaluate_run(folder, num_samples=100, num_images=1000)
        picture_samples(folder, 100, 0, folder / "samples.png")
        picture_reconstructions(folder, 50, 0, folder / "reconstructions.png")
    picture_interpolations(folders, 8, 10, 0, out / "interpolations.png")
    figures.save_curves({folder.name: runs.read_metrics(folder) for folder in folders}, out / "curves.png")
    rows = collect(folders)
    for name in ("table.md", "table.json"):
        write_table(rows, out / name)
    print(markdown(rows), end="")
    for path in sorted(out.rglob("*.png")) + sorted(out.glob("table.*")):
        print(path)


def test_images(run: Path, count: int, seed: int, data: str | None) -> Tensor:
    """Images [N, C, H, W] of the test split of a run's data, or of another source, drawn at random."""
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("images", count, 1, MOST_IMAGES)
    dataset = runs.read_dataset(run, data)
    available = len(dataset.test.images)
    if count > available:
        raise UserError(f"{count} test images are asked for; {dataset.name} has {available}")
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    return as_float(dataset.test.images[chosen], dataset.levels)


def _save_pairs(title: str, above: Tensor, below: Tensor, out: Path) -> None:
    """Rows of images, each row above that of what belongs to them."""
    columns = min(10, len(above))
    rows = [
        _filled(row, columns)
        for pair in zip(above.split(columns), below.split(columns), strict=True)
        for row in pair
    ]
    figures.save_panels({title: torch.cat(rows)}, out, columns, together=2)


def _filled(row: Tensor, columns: int) -> Tensor:
    """A row of images, filled up with NaN, which figures show as no image."""
    return torch.cat([row, row.new_full((columns - len(row), *row.shape[1:]), torch.nan)])
