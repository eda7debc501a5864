"""`flowvae sample`, `reconstruct` and `interpolate`: pictures of runs."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowvae import figures
from flowvae.batch import labelled
from flowvae.commands.evaluating import up_to
from flowvae.commands.limits import MOST_IMAGES
from flowvae.data import Dataset, as_float
from flowvae.data.named import Named
from flowvae.errors import UserError, check_range
from flowvae.evaluation import interpolate, nearest
from flowvae.evaluation.likelihood import at
from flowvae.image_files import is_grid, save_images
from flowvae.models import Coded, Inferring, Sampler
from flowvae.parts import LARGEST_SEED
from flowvae.runs import Run
from flowvae.runs.capability import labels_of, needs
from flowvae.runs.table import titles

USUAL_RECONSTRUCTED = 50
USUAL_PAIRS = 8


def picture_samples(
    path: Path,
    num_images: int,
    seed: int,
    out: Path | None = None,
    show: str = "samples",
    data: str | None = None,
    label: str | None = None,
) -> str:
    """Draw samples from the model and save them: as a grid, one by one in a directory, or in an .npz file.

    Args:
        path: directory of the run.
        num_images: number of samples.
        seed: random seed for the samples.
        out: see `flowvae.image_files.is_grid`; by default, a grid in the directory of the run.
        show: ``"samples"``; ``"crossed"``: images in a column share a code, images in a row the noise that
            draws their pixels; ``"nearest"``: each sample above its nearest training image; ``"classes"``:
            images in a row share a class, images in a column the noise.
        data: another data set or path to take the training images from.
        label: class of all samples of a conditional model; by default, each class is as probable.

    Returns:
        What to print: the path, and what the samples are.
    """
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("images", num_images, 1, MOST_IMAGES)
    if data is not None and show != "nearest":
        raise UserError("--data names the training images of --show nearest; add that, or omit --data")
    run = Run(path)
    out = out or run.place_for(f"{show}.png")
    grid = is_grid(out)
    model, noise = needs(Sampler, run), torch.Generator().manual_seed(seed)
    labels = None if label is None else labels_of(run, label, None, num_images)
    kind = "draws from p(x)" if model.draws else "means of p(x|z)"
    if labels is not None or show == "classes":
        kind = "draws from p(x|y)" if model.draws else "means of p(x|y, z)"
    if show == "crossed":
        images = _crossed(run, num_images, noise, labels)
    elif show == "classes":
        images = _of_classes(run, num_images, seed, label)
    else:
        images = model.sample(num_images, noise, **labelled(labels))
    images = finite(run, images)
    groups = {"images": images}
    if show == "nearest":
        dataset = run.read_dataset(data)
        training, levels = dataset.train.images, dataset.training_levels
        groups["nearest"] = as_float(training[nearest(images, training, levels=levels).indices[:, 0]], levels)
    if not grid:
        save_images(groups, numbers(len(images)), out, kind=kind)
    elif show == "nearest":
        _save_pairs("samples, each above its nearest training image", images, groups["nearest"], out)
    else:
        title = {"crossed": "columns share a code, rows share the noise", "classes": "a row per class"}
        columns = len(images) // run.model.classes if show == "classes" else 10
        figures.save_panels({title.get(show, ""): images}, out, columns=columns)
    return f"{out}: {kind}"


def numbers(count: int) -> list[str]:
    """Name images by their numbers, so that names sort as the images do."""
    width = len(str(count - 1))
    return [f"{number:0{width}}" for number in range(count)]


@torch.no_grad()
def _of_classes(run: Run, num_images: int, seed: int, label: str | None) -> Tensor:
    """Draw as many samples of each class, from the same noise."""
    classes = run.model.classes
    if not run.model.conditional or label is not None:
        why = f"{run.path} is not conditional on labels" if label is None else "--label chooses one class"
        raise UserError(f"{why}, and --show classes needs the samples of all; choose --show samples")
    number = num_images // classes
    if not number:
        raise UserError(f"images is {num_images}; --show classes needs at least {classes}, one per class")
    return torch.cat(
        [
            needs(Sampler, run).sample(
                number, torch.Generator().manual_seed(seed), labels=torch.full((number,), each)
            )
            for each in range(classes)
        ]
    )


@torch.no_grad()
def _crossed(run: Run, num_images: int, noise: torch.Generator, labels: Tensor | None) -> Tensor:
    """Decode the same ten codes in every row, with different noise for each row."""
    model = needs(Inferring, run)
    if model.pixel_noise is None:
        raise UserError(
            f"{run.path} shows means of p(x|z), which have no pixel noise; --show crossed needs an "
            "autoregressive likelihood"
        )
    columns = 10
    rows = math.ceil(num_images / columns)
    like = next(run.model.parameters())
    own = None if labels is None else labels[:1].expand(columns)  # one for all
    own = run.model.labels_to_sample(columns, own, noise, like)
    codes = model.sample_codes(columns, noise, **labelled(own)).repeat(rows, 1)
    given = labelled(None if own is None else own.repeat(rows))
    of_rows = torch.rand(rows, *model.pixel_noise, generator=noise)
    return model.decode(codes, of_rows.repeat_interleave(columns, 0), **given)[:num_images]


def picture_reconstructions(
    path: Path, num_images: int | None, seed: int, out: Path | None = None, data: str | None = None
) -> Path:
    """Save test images with their reconstructions: as rows of a grid, in a directory, or in an .npz file."""
    run = Run(path)
    out = out or run.place_for("reconstructions.png")
    grid = is_grid(out)
    model = needs(Coded, run)
    if num_images is None:
        num_images = up_to(USUAL_RECONSTRUCTED, [run], data)
    found = test_images(run, num_images, seed, data)
    names, images = found.names, found.images
    labels = labels_of(run, None, found.batch.labels, num_images)
    given = run.model.given(found.batch._replace(labels=labels))
    with torch.no_grad():
        noise = torch.Generator().manual_seed(seed)
        reconstructed = finite(run, model.reconstruct(images, noise, **given))
    if grid:
        _save_pairs("test images, each above its reconstruction", images, reconstructed, out)
    else:
        save_images({"images": images, "reconstructions": reconstructed}, names, out)
    return out


def picture_interpolations(
    compared: Sequence[Path],
    pairs: int | None,
    steps: int,
    seed: int,
    out: Path | None = None,
    data: str | None = None,
    keep_label: bool = False,
) -> Path:
    """Save interpolations between the same test images for each run; by default up to 8.

    With ``keep_label``, both ends of a path have the same label. Otherwise, a conditional model decodes the
    first half of a path with the label of its start, and the other half with that of its end.

    They stand side by side in a grid, or one by one in a directory or an .npz file, named by pair and step.
    """
    panels, opened = {}, [Run(path) for path in compared]
    out = out or opened[0].place_for("interpolations.png")
    grid = is_grid(out)
    check_range("steps", steps, 2, MOST_IMAGES)  # both ends are among them
    if pairs is None:
        pairs = up_to(2 * USUAL_PAIRS, opened, data, least=2) // 2
    check_range("pairs", pairs, 1, MOST_IMAGES)
    check_range("pairs times steps", pairs * steps, 1, MOST_IMAGES)
    for title, run in zip(titles(compared), opened, strict=True):
        chosen = (_same_label if keep_label else test_images)(run, 2 * pairs, seed, data)
        ends, model = chosen.images, needs(Coded, run)
        labels = labels_of(run, None, chosen.batch.labels, 2 * pairs)
        given = run.model.given(chosen.batch._replace(labels=labels))
        both = (at(given, slice(pairs)), at(given, slice(pairs, None))) if given else None
        noise = torch.Generator().manual_seed(seed)
        path = interpolate(model, ends[:pairs], ends[pairs:], steps, noise, both)
        panels[title] = finite(run, path.flatten(0, 1))
    if grid:
        figures.save_panels(panels, out, columns=steps)
    else:
        groups = panels if len(panels) > 1 else dict(zip(["images"], panels.values(), strict=True))
        save_images(groups, [f"{pair}-{step}" for pair in numbers(pairs) for step in numbers(steps)], out)
    return out


def test_images(run: Run, count: int, seed: int, data: str | None) -> Named:
    """Choose random images from the test split of a run's data, or of another source."""
    check_range("seed", seed, 0, LARGEST_SEED)
    check_range("images", count, 1, MOST_IMAGES)
    dataset = run.read_dataset(data)
    available = len(dataset.test.images)
    if count > available:
        raise UserError(
            f"{count} test images are needed; {dataset.name} has {available}: choose fewer --images or "
            "--pairs, or another source with --data"
        )
    chosen = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    return _of_test(dataset, chosen)


def _of_test(dataset: Dataset, places: Tensor) -> Named:
    return Named([f"test/{place}" for place in places.tolist()], dataset.batch("test", places))


def _same_label(run: Run, count: int, seed: int, data: str | None) -> Named:
    """Choose random pairs of test images with the same label: first images of all pairs, then second ones."""
    check_range("seed", seed, 0, LARGEST_SEED)
    dataset, pairs = run.read_dataset(data), count // 2
    labels = dataset.test.labels
    if labels is None:
        raise UserError(f"the test images of {dataset.name} have no labels; omit --keep-label")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    waiting: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for place in order:
        label = int(labels[place])
        if label in waiting:
            found.append((waiting.pop(label), place))
        elif label >= 0:
            waiting[label] = place
    if len(found) < pairs:
        raise UserError(
            f"{dataset.name} has {len(found)} pairs of test images with the same label; choose fewer --pairs"
        )
    return _of_test(dataset, torch.tensor(found[:pairs]).t().flatten())


def finite(run: Run, images: Tensor) -> Tensor:
    """Refuse images with NaN, which a picture would show as blank: finite weights can overflow."""
    if not images.isfinite().all():
        raise UserError(
            f"the model of {run.path} generates images that are not finite; train again with a lower "
            "--learning-rate"
        )
    return images


def _save_pairs(title: str, above: Tensor, below: Tensor, out: Path) -> None:
    """Save rows of images, each row above the row of their counterparts."""
    columns = min(10, len(above))
    blank = above.new_full((-len(above) % columns, *above.shape[1:]), torch.nan)  # ends the last rows
    pairs = zip(
        torch.cat([above, blank]).split(columns), torch.cat([below, blank]).split(columns), strict=True
    )
    figures.save_panels({title: torch.cat([row for pair in pairs for row in pair])}, out, columns, together=2)
