"""An open run."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowvae.batch import labelled
from flowvae.config import Config, DataConfig
from flowvae.data import Dataset, as_float
from flowvae.errors import UserError
from flowvae.explorer.one_class import OneClass
from flowvae.runs import ANNEALED_EVALUATION, EVALUATION, QUALITY, Run
from flowvae.runs.scores import scores_of
from flowvae.runs.table import collect, titles

SAMPLE = 2000


@dataclass(frozen=True, eq=False)
class Explored:
    """A trained run with its data; ``records`` are its metrics, ``evaluation`` its averages, if any."""

    title: str
    folder: Path
    config: Config
    model: Any
    """views take it for what it can do: each is built for the runs that can do what it needs"""
    dataset: Dataset
    records: list[dict[str, Any]]
    evaluation: dict[str, Any]
    scores: Tensor | None = None
    """-log p(x) of test images in nats, [N], that ``evaluation`` is the average of"""
    label: int | None = None
    """class that the model is given, of a conditional run; its test images are then those of the class"""

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of a conditional model, or their numbers; none of another model."""
        if not self.model.conditional:
            return []
        return [self.class_name(label) for label in range(self.model.classes)]

    def class_name(self, label: int) -> str:
        """Name of a class of the model, or its number."""
        named = self.dataset.classes
        return named[label] if len(named) == self.model.classes else str(label)

    @functools.cached_property
    def of_classes(self) -> "list[Explored]":
        """The run at each class of a conditional model; none of another model."""
        return [
            replace(self, title=f"{self.title}, class {name}", model=OneClass(self.model, label), label=label)
            for label, name in enumerate(self.class_names)
        ]

    def of_class(self, label: int) -> "Explored":
        """The run at a class; the run itself for -1, and if its model is not conditional."""
        return self.of_classes[label] if 0 <= label < len(self.of_classes) else self

    def test_image(self, number: int) -> Tensor:
        """[C, H, W] in [0, 1]; numbers past the end start again at 0."""
        images = self.dataset.test.images
        return as_float(images[int(number) % len(images)], self.dataset.levels)

    @functools.cached_property
    def sample(self) -> Tensor:
        """Numbers of at most SAMPLE test images, drawn at random: a split may be sorted by class."""
        count = len(self.dataset.test.images)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        labels = self.dataset.test.labels
        if (
            self.label is not None
            and labels is not None
            and (own := order[labels[order] == self.label]).numel()
        ):
            order = own
        return order[:SAMPLE]

    @functools.cached_property
    def sample_images(self) -> Tensor:
        """The test images of ``sample``, [N, C, H, W] in [0, 1]."""
        return as_float(self.dataset.test.images[self.sample], self.dataset.levels)

    @functools.cached_property
    def sample_labels(self) -> Tensor | None:
        """The labels of ``sample``, [N]; None where the data have none."""
        labels = self.dataset.test.labels
        return None if labels is None else labels[self.sample]

    @functools.cached_property
    @torch.no_grad()
    def sample_codes(self) -> Tensor:
        """The centers of the posteriors of ``sample``, [N, D]."""
        few = self.sample_images.split(256)
        labels = self.sample_labels if self.model.conditional else None
        own = [None] * len(few) if labels is None else labels.split(256)
        return torch.cat(
            [self.model.center(images, **labelled(given)) for images, given in zip(few, own, strict=True)]
        )


def open_runs(folders: Sequence[Path], data: str | None = None) -> list[Explored]:
    """Load runs with the same test images; ``data`` takes the place of their own source of images.

    The page has one set of test images for all of them: what is compared has to be about the same image.

    Raises:
        UserError: a run cannot be read, or has other test images than the first.
    """
    if not folders:
        raise UserError("name at least one directory of a run")
    datasets: dict[DataConfig, Dataset] = {}
    explored: list[Explored] = []
    for title, folder in zip(titles(folders), folders, strict=True):
        run = Run(folder)
        if explored and run.spec.shape != explored[0].dataset.shape:
            raise UserError(f"{folder} has images of another shape than {folders[0]}; explore them apart")
        source = replace(run.config.data, data=data or run.config.data.data)
        if source not in datasets:
            datasets[source] = run.read_dataset(data)
        if explored and not _same_test_images(datasets[source], explored[0].dataset):
            raise UserError(
                f"{folder} has other test images than {folders[0]} (another source, or other options of "
                "the data, such as the binarization); explore them apart"
            )
        evaluated = any((run.path / name).exists() for name in (ANNEALED_EVALUATION, EVALUATION, QUALITY))
        evaluation = {**collect([run.path])[0], "name": title} if evaluated else {"name": title}
        own = data is None and evaluation.get("split") == "test"
        scores = scores_of(run, evaluation) if own else None
        if scores is not None and "observed" in scores:
            scores = None  # of the known pixels only, and the page scores whole images
        explored.append(
            Explored(
                title,
                folder,
                run.config,
                run.model,
                datasets[source],
                run.records,
                evaluation,
                None if scores is None else scores.get("marginal_nll", scores["nll"]),
            )
        )
    return explored


def _same_test_images(one: Dataset, other: Dataset) -> bool:
    """Static and dynamic binarization have them in common."""
    if one is other:
        return True
    return one.levels == other.levels and torch.equal(one.test.images, other.test.images)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for each request: they come in several threads."""
    return torch.Generator().manual_seed(int(seed))
