"""Where an image falls among the test images."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import flowvae
from flowvae.data.cache import cache_folder
from flowvae.evaluation.scoring import score
from flowvae.explorer.explored import Explored, seeded
from flowvae.runs import replacing

IMAGES, SAMPLES = 300, 32
PIECE = 4
"""images that are scored at once"""
EXTREME = 0.99


class Reference:
    """Scores of test images of a run, for others to be compared with.

    They are those of the run's evaluation, if it kept them, or else those of IMAGES random test images. The
    latter are scored a few at a time, for all requests together, and kept in the cache of flowvae.
    """

    def __init__(self, run: Explored) -> None:
        self.run = run
        self.samples: int = SAMPLES if run.scores is None else run.evaluation.get("samples", SAMPLES)
        """S, with which an image has to be scored to be comparable; without effect if log p(x) is exact"""
        self.images = run.sample_images[:IMAGES]
        self._scores = run.scores
        self._pieces: list[Tensor] = []
        self._lock = threading.Lock()

    def scores(self) -> Tensor:
        """-log p(x) in nats, [N]."""
        for _ in self.progress():
            pass
        assert self._scores is not None
        return self._scores

    def progress(self) -> Iterator[int]:
        """Score what has not been scored, and say after each piece how many images have been."""
        while self._scores is None:
            with self._lock:  # for a single piece, so that requests take turns
                self._advance()
            yield sum(map(len, self._pieces))

    def _advance(self) -> None:
        """Score a piece, or read all scores if they are in the cache."""
        if self._scores is not None:
            return
        if not self._pieces and (kept := _read(self._path, len(self.images))) is not None:
            self._scores = kept
            return
        start = sum(map(len, self._pieces))
        piece = self.images[start : start + PIECE]
        self._pieces.append(score(self.run.model, piece, self.samples, seeded(0))["nll"])
        if start + len(piece) == len(self.images):
            self._scores = torch.cat(self._pieces)
            with contextlib.suppress(OSError):  # without a cache they are scored again next time
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._path) as partial, partial.open("wb") as file:
                    np.save(file, self._scores.numpy())

    @property
    def _path(self) -> Path:
        """The file of the cache, whose name depends on all that the scores depend on."""
        asked = f"{flowvae.__version__}, {self.run.config.model}, {self.samples}, {PIECE}"
        parts = hashlib.sha256(asked.encode())
        for tensor in (*self.run.model.state_dict().values(), self.images):
            parts.update(tensor.cpu().contiguous().numpy().tobytes())
        return cache_folder() / "explorer" / f"{parts.hexdigest()[:32]}.npy"


def _read(path: Path, count: int) -> Tensor | None:
    """The scores in a file; None if it is missing, or does not contain ``count`` finite numbers."""
    try:
        scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(scores, np.ndarray) and scores.shape == (count,) and scores.dtype == np.float64
    return torch.from_numpy(scores) if whole and np.isfinite(scores).all() else None


def place(nll: float, others: Tensor) -> float:
    """Return the share of ``others`` [N] that the model finds more likely than an image with this -log p(x).

    >>> import torch
    >>> place(85.0, torch.tensor([70.0, 80.0, 90.0, 100.0]))
    0.5
    """
    return (others < nll).double().mean().item()


def verdict(share: float) -> str | None:
    """Describe an image in one of the tails of the test images; None for all others.

    Both tails count: an empty image can be more likely than any digit, and is as unlike them as noise.

    >>> verdict(0.5) is None
    True
    """
    if share >= EXTREME:
        return f"Looks out of distribution: less likely than {share:.0%} of the test images."
    if share <= 1 - EXTREME:
        return (
            f"Looks out of distribution: more likely than {1 - share:.0%} of the test images. "
            "Images simpler than all of them, such as an empty one, end up here."
        )
    return None
