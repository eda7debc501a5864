"""Training, scores and codes behind the interface of scikit-learn."""

import operator
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from flowvae import runs
from flowvae.batch import Given, labelled
from flowvae.config import Config
from flowvae.data.arrays import NUMBERS, are_marked, as_bytes, as_classes, as_images, covered
from flowvae.data.named import seen
from flowvae.devices import device as device_called
from flowvae.errors import UserError
from flowvae.evaluation import classify, score
from flowvae.evaluation.likelihood import at
from flowvae.image_files import save_arrays
from flowvae.models import Classifying, Coded, Sampler
from flowvae.models.registry import is_registered
from flowvae.models.registry import preset as preset_called
from flowvae.parts import to_dict
from flowvae.runs.capability import needs
from flowvae.training import train

try:
    from sklearn.base import BaseEstimator, TransformerMixin  # pyright: ignore[reportMissingImports]
    from sklearn.exceptions import NotFittedError  # pyright: ignore[reportMissingImports]

    _BASES: tuple[Any, ...] = (TransformerMixin, BaseEstimator)  # tags, a representation, fit_transform
except ImportError:
    _BASES, NotFittedError = (), ValueError

IMAGES_AT_ONCE = 256


class ImagesError(UserError, ValueError):
    """Arrays that cannot be images of the model; a ValueError, as scikit-learn expects."""


class FlowVAE(*_BASES):
    """A deep generative model of images as a scikit-learn estimator.

    Images are an array or tensor [N, H, W], [N, C, H, W] or [N, H, W, C] with C = 1 or 3, or [N, D], whose
    rows are square images; or a ``torch.utils.data.Dataset`` or ``DataLoader`` of images, or of tuples that
    begin with one. Their pixels are 0 to 255, floats k / 255, or zeros and ones; others need
    ``value_range=(low, high)``. Under ``binarization="static"``, an array without a value above 1 is binary.
    Under ``missing="nan"``, pixels that are NaN are missing, in `fit` and later.

    Labels are whole numbers [N] from 0, -1 if unknown. A preset that learns from labels (``labels=True``, or
    a semi-supervised one) takes them in `fit` as ``y``, and predicts classes. Where a method has ``labels``,
    they are those that a conditional model is given, without -1.

    `fit` trains as `flowvae.train` does. A tenth of the images chooses the weights, and another tenth is the
    test split of the run; neither is trained on.

    Args:
        preset: name of a preset, or a `Config`.
        minutes: training budget in minutes; None for that of the preset, or of ``options``.
        num_samples: S, posterior samples per image in `score_samples`, and in `predict` by Bayes' rule.
        directory: new directory for the images (``images.npz``) and the run (``run``), which the command line
            can resume and explore; None for a temporary one, removed after training.
        device: as in `flowvae.train`.
        options: of data, model or training, such as ``latent=10`` or ``seed=1``; checked by `fit`. They are
            parameters like the others for ``get_params``, ``set_params`` and scikit-learn's searches.

    After `fit` or `load`, ``run_`` is the trained run, with its ``config``, ``spec`` and ``model``.

    >>> FlowVAE("realnvp-2", latent=10).get_params()["latent"]
    10
    """

    def __init__(
        self,
        preset: str | Config = "realnvp-5",
        minutes: float | None = None,
        num_samples: int = 500,
        directory: str | Path | None = None,
        device: str = "auto",
        **options: Any,
    ) -> None:
        self.preset = preset
        self.minutes = minutes
        self.num_samples = num_samples
        self.directory = directory
        self.device = device
        for name, value in options.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor, options included; ``deep`` has no effect."""
        # By convention, results end in "_"; scikit-learn's own attributes start with it.
        return {name: value for name, value in vars(self).items() if name.strip("_") == name}

    def set_params(self, **parameters: Any) -> Self:
        """Set arguments of the constructor. Options need not have been given before."""
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on images ``X`` with labels ``y``, which models that do not learn from labels ignore.

        Raises:
            UserError: if an option is unknown or invalid, the directory contains a run, or training fails.
                About ``X`` and ``y``, it is also a ValueError.
            KeyboardInterrupt: after Ctrl-C or SIGTERM. A run in ``directory`` can be resumed.
        """
        own = ("preset", "minutes", "num_samples", "directory", "device")
        options = {name: value for name, value in self.get_params().items() if name not in own}
        if self.minutes is not None:
            options["minutes"] = self.minutes
        base = preset_called(self.preset) if isinstance(self.preset, str) else self.preset
        if "data" in options:
            raise UserError("data has no effect, as images are given to fit; omit it")
        config = base.revised(**{"track": "none", **options})
        if config.data.grey:
            raise UserError("grey has no effect on arrays; give images of one channel, and omit it")
        if config.model is not None and not is_registered(config.model):
            raise UserError(
                f"preset has a system of your own, {type(config.model).__name__}, which cannot be loaded by "
                "name; train it with flowvae.train"
            )
        images = _as_array(X)
        _pixels(images, config)  # raises if they are no images
        arrays = {"images": _unflattened(images)}
        learned = {} if config.model is None else to_dict(config.model)
        if learned.get("labels") or "labels_used" in learned:
            arrays["labels"] = _labels(y, "y", len(images))
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(self.directory or temporary)
            if (directory / "run").exists():
                raise UserError(f"{directory} contains a run already; choose another directory")
            directory.mkdir(parents=True, exist_ok=True)
            save_arrays(directory / "images.npz", **arrays)
            config = config.revised(data=str(directory / "images.npz"))
            if not train(directory / "run", config, device=self.device):
                raise KeyboardInterrupt
            self._take(runs.Run(directory / "run"))
        self.image_shape_ = images.shape[1:]
        self.n_features_in_ = int(np.prod(self.image_shape_))
        return self

    def score_samples(self, X: Any, labels: Any = None) -> np.ndarray:
        """Return log p(x) in nats for each image, float64 [N]: exact, or importance-weighted.

        It is that of the known pixels, where some are missing; and log p(x|y), if there are ``labels``.
        The samples of an image depend on its pixels and the training seed only.
        """
        images, given = self._seen(X, labels)
        return -score(self.run_.model, images, self.num_samples, self._noise(), **given)["nll"].numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of log p(x) in nats; higher is better. ``y`` is ignored."""
        return float(self.score_samples(X).mean())

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return log q(y|x) in nats for each image and class, [N, classes]."""
        images, given = self._seen(X)
        if not self.run_.model.conditional:
            needs(Classifying, self.run_)
        return classify(self.run_.model, images, self.num_samples, self._noise(), **given).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return q(y|x) for each image and class, [N, classes]."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each image, int64 [N]."""
        return self.predict_log_proba(X).argmax(1)

    def transform(self, X: Any, labels: Any = None) -> np.ndarray:
        """Encode images without noise: codes, float32 [N, D]."""
        images, given = self._seen(X, labels)
        return self._in_parts(needs(Coded, self.run_).center, images, given)

    def inverse_transform(self, Z: Any, labels: Any = None) -> np.ndarray:
        """Decode codes [N, D] to images in [0, 1], of the shape that the images of `fit` had."""
        self._check_fitted()
        codes = torch.as_tensor(np.asarray(Z, np.float32))
        model, noise = needs(Coded, self.run_), self._noise()
        blank = torch.zeros(1, *self.run_.spec.shape)
        of_blank = self._given([0], 1) if self.run_.model.conditional else Given()
        dimension = self._in_parts(model.center, blank, of_blank).shape[1]
        if codes.ndim != 2 or codes.shape[1] != dimension or not codes.isfinite().all():
            raise ImagesError(f"Z has shape {tuple(codes.shape)}; give finite codes [N, {dimension}]")
        given = self._given(labels, len(codes))
        return self._shaped(self._in_parts(partial(model.decode, noise=noise), codes, given))

    def sample(self, n: int = 1, seed: int | None = None, labels: Any = None) -> np.ndarray:
        """Draw ``n`` images in [0, 1], of the shape that the images of `fit` had.

        ``seed`` is that of the draws, None for torch's own generator. Autoencoders with independent pixels
        return the means of p(x|z) for drawn codes. A conditional model draws ``labels``, if there are none.
        """
        self._check_fitted()
        noise = None if seed is None else torch.Generator().manual_seed(operator.index(seed))
        given = labelled(self._given(labels, n).get("labels"))
        with torch.no_grad():
            return self._shaped(needs(Sampler, self.run_).sample(n, noise, **given).cpu().numpy())

    def save(self, path: str | Path) -> None:
        """Write configuration and weights into a new directory, which is a run for the command line, too.

        Raises:
            UserError: if the directory exists.
        """
        self._check_fitted()
        config = self.run_.config
        config = replace(config, data=replace(config.data, data=Path(config.data.data).name))
        runs.save_model(Path(path), config, self.run_.spec, self.run_.model)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load what `save` wrote, or any other run. Its ``preset`` is the whole configuration."""
        run = runs.Run(path)
        estimator = cls(run.config)
        estimator._take(run)
        estimator.image_shape_ = run.spec.shape
        estimator.n_features_in_ = int(np.prod(run.spec.shape))
        return estimator

    def _take(self, run: runs.Run) -> None:
        run.model.to(device_called(self.device))  # reads the weights before the directory is removed
        self.run_ = run

    def _check_fitted(self) -> None:
        if not hasattr(self, "run_"):
            raise NotFittedError("this FlowVAE is not fitted yet; call fit, or FlowVAE.load")

    def _noise(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.run_.config.training.seed)

    def _given(self, labels: Any, number: int) -> Given:
        """Labels of a number of images, unless there are none."""
        if labels is None:
            return Given()
        found = torch.from_numpy(_labels(labels, "labels", number))
        self.run_.model.check_labels(found, number)
        return Given(labels=found)

    def _seen(self, X: Any, labels: Any = None) -> tuple[Tensor, Given]:
        """Images as the likelihood sees them, [N, C, H, W], and what else the model is given."""
        self._check_fitted()
        config = self.run_.config
        read, known = _pixels(_as_array(X), config)
        pixels = torch.from_numpy(read)
        if tuple(pixels.shape[1:]) != tuple(self.run_.spec.shape):
            raise ImagesError(
                f"X has images of shape {tuple(pixels.shape[1:])} (channels, height, width); the model was "
                f"trained on {tuple(self.run_.spec.shape)}"
            )
        binarization, seed = config.data.binarization, config.training.seed
        images = torch.stack([seen(image, binarization, seed) for image in pixels])
        given = self._given(labels, len(images))
        if not known.all():
            given["observed"] = torch.from_numpy(known)
            images = images.where(given["observed"], 0.0)
        return images, given

    def _in_parts(self, function: Any, values: Tensor, given: Given) -> np.ndarray:
        on = next(self.run_.model.parameters()).device
        places = [slice(start, start + IMAGES_AT_ONCE) for start in range(0, len(values), IMAGES_AT_ONCE)]
        with torch.no_grad():
            parts = [function(values[few].to(on), **at(given, few, on)).cpu().numpy() for few in places]
        return np.concatenate(parts)

    def _shaped(self, images: np.ndarray) -> np.ndarray:
        if len(self.image_shape_) == 3 and tuple(self.image_shape_) != self.run_.spec.shape:  # [N, H, W, C]
            return np.ascontiguousarray(np.moveaxis(images, 1, -1))
        return images.reshape(len(images), *self.image_shape_)


def _as_array(X: Any) -> np.ndarray:
    """Return the images as an array of numbers, in the shape that they came in."""
    if isinstance(X, Dataset | DataLoader):
        # A data set with a length need not end an iteration.
        whole: Any = X
        iterated = isinstance(X, DataLoader | IterableDataset)
        each = whole if iterated else (whole[place] for place in range(len(whole)))
        items = (item[0] if isinstance(item, tuple | list) else item for item in each)
        arrays = [np.asarray(item) for item in items]
        join = np.concatenate if isinstance(X, DataLoader) else np.stack
        if not arrays:
            raise ImagesError("X has no images; give at least three")
        array = join(arrays)
    else:
        array = X.detach().cpu().numpy() if isinstance(X, Tensor) else np.asarray(X)
    if array.dtype.kind not in NUMBERS:
        raise ImagesError(f"X has the type {array.dtype}; give an array of real numbers that is not sparse")
    if 0 in array.shape or array.ndim not in (2, 3, 4):
        raise ImagesError(f"X has shape {array.shape}; give [N, H, W], [N, C, H, W] or square images [N, D]")
    return array


def _labels(y: Any, name: str, number: int) -> np.ndarray:
    """Return the labels of a number of images, int64 [N]; ``name`` is for errors."""
    found = None if y is None else as_classes(np.asarray(y))
    if found is None or len(found) != number or found.min(initial=0) < -1:
        what = "missing" if y is None else "no classes of the images"
        raise ImagesError(f"{name} is {what}; give one whole number from 0 for each image, -1 if unknown")
    return found


def _unflattened(images: np.ndarray) -> np.ndarray:
    """[N, H, W] of square images [N, D]; others as they are."""
    if images.ndim != 2:
        return images
    side = round(images.shape[1] ** 0.5)
    if side * side != images.shape[1]:
        raise ImagesError(
            f"X has rows of {images.shape[1]} numbers, which are not square images; give [N, H, W] or "
            "[N, C, H, W]"
        )
    return images.reshape(-1, side, side)


def _pixels(images: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, C, H, W], where 255 is white and missing pixels are 0, and which are known, bool.

    Of 8 bits without binarization, integers are as they are.
    """
    value_range, marker = config.data.value_range, config.data.marker
    low_integers = images.dtype.kind != "f" and config.data.binarization != "static"
    try:
        images = as_images(Path("X"), "X", _unflattened(images))
        known = np.ones_like(images, bool)
        if marker is not None:
            known &= ~are_marked(images, marker)
            images = covered(images, known)
        binary = bool(((images == 0) | (images == 1)).all())
        pixels = as_bytes({"X": images}, value_range)["X"] * known
    except ImagesError:
        raise
    except UserError as error:
        raise ImagesError(str(error)) from None
    # Zeros and ones: white is 1, unless they are integers on a scale to 255.
    white = value_range is None and not low_integers and binary
    return pixels * 255 if white else pixels, known
