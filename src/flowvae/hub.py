"""Models in the layout of the Hugging Face hub: saved to a directory, loaded from one or from the hub."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData, snapshot_download

from flowvae import runs
from flowvae.errors import UserError
from flowvae.models import Model
from flowvae.parts import revised, to_dict
from flowvae.runs.formats import written
from flowvae.runs.table import PROTOCOL, markdown, read_evaluation, titles
from flowvae.titles import title

CARD = "README.md"
FILES = [runs.CONFIG, runs.WEIGHTS, runs.EVALUATION, CARD]
SCORES = ("negative_elbo", "nll", "bits_per_dim")


def save_pretrained(run: str | Path, folder: str | Path) -> list[Path]:
    """Write the model of a run into ``folder``, in the layout of the hub, which is also that of a run.

    Copies configuration, weights and evaluation, but not the state to resume from, nor the directories of the
    data and of other runs, which would reveal paths of the training machine. ``README.md`` is a model card
    made from the evaluation; an existing one is kept.

    Args:
        run: directory of the run.
        folder: directory to write to, created if needed.

    Returns:
        The paths of the files.

    Raises:
        UserError: if there is no such run, one of its files is damaged, or ``folder`` contains other files.
    """
    opened, folder = runs.Run(run), Path(folder)
    _ = opened.model  # raises if anything is missing or damaged, as does the next line
    _evaluation(opened)
    config = opened.config
    strangers = {path.name for path in folder.iterdir()} - set(FILES) if folder.is_dir() else set()
    if strangers:
        raise UserError(
            f"{folder} contains {min(strangers)}, which is not a model's; choose another directory"
        )
    system = config.model
    if system is not None and "first" in to_dict(system):  # path of another run, which only training reads
        system = revised(system, {"first": None})
    config = replace(
        config,
        model=system,
        data=replace(config.data, data=Path(config.data.data).name),
        training=replace(config.training, start_from=None),
    )
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / runs.CONFIG, written(config, opened.spec, opened.described.system))
    for name in (runs.WEIGHTS, runs.EVALUATION):
        if (opened.path / name).exists():
            with runs.replacing(folder / name) as partial:
                shutil.copyfile(opened.path / name, partial)
        else:  # scores of an earlier export
            (folder / name).unlink(missing_ok=True)
    if not (folder / CARD).exists():
        with runs.replacing(folder / CARD) as partial:
            card = model_card(runs.Run(folder), titles([opened.path])[0])
            partial.write_text(card, encoding="utf-8", errors="backslashreplace")
    return [folder / name for name in FILES if (folder / name).exists()]


def from_pretrained(name: str | Path, **options: Any) -> Model:
    """Load a trained model in ``eval()`` mode, from a directory (see `save_pretrained`) or from the hub.

    Args:
        name: a directory, a model of the package (``density-mnist``), or OWNER/MODEL on the hub, which is
            downloaded once and cached.
        options: arguments of `huggingface_hub.snapshot_download`, such as ``revision``, ``token``,
            ``cache_dir`` and ``local_files_only``.

    Raises:
        UserError: if there is no such model, it cannot be downloaded, or it is damaged.
    """
    if Path(name).is_dir() or runs.is_bundled(Path(name)):
        return runs.load(name)
    with _one_line(f"{name} is neither a directory nor on the hub", "check the name and the network"):
        return runs.load(snapshot_download(str(name), allow_patterns=FILES, **options))


def push_to_hub(
    run: str | Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload a flowvae model",
    **options: Any,
) -> str:
    """Upload the model of a run (see `save_pretrained`) to the hub.

    Args:
        run: directory of the run.
        repository: OWNER/MODEL, created if needed.
        private: whether a new repository is private; None for the owner's default.
        token: access token, in place of that of ``hf auth login``.
        commit_message: message of the commit.
        options: arguments of `huggingface_hub.HfApi.upload_folder`, such as ``revision`` and ``create_pr``.

    Returns:
        The URL of the upload.

    Raises:
        UserError: if there is no such run, or the hub refuses the upload.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_pretrained(run, folder)
        with _one_line(f"the hub refuses {repository}", "check its name, hf auth login and the network"):
            api.create_repo(repository, private=private, exist_ok=True)
            options |= {"repo_id": repository, "folder_path": folder, "commit_message": commit_message}
            return str(api.upload_folder(**options))


def model_card(run: runs.Run, name: str) -> str:
    """Write the model card: the scores with their protocol, and how to use the model."""
    config, evaluation = run.config, _evaluation(run)
    data = ModelCardData(
        library_name="flowvae",
        model_name=name,
        tags=["flowvae", run.described.system],
        eval_results=_results(evaluation) if evaluation else None,
    )
    channels, height, width = run.spec.shape
    images = f"{height} x {width} images of {channels} channel{'s' if channels > 1 else ''}"
    kind = "a model of its author's own" if config.model is None else config.model.describe()
    return f"""---
{data.to_yaml()}
---

# {name}

A deep generative model of {images}, trained by flowvae on {config.data.data} ({config.data.binarization}):
{kind}.

## Likelihood

{_scores(evaluation, name)}
## Use

```python
import flowvae

model = flowvae.from_pretrained("OWNER/{name}")  # or this directory
images = model.sample(16)  # [16, {channels}, {height}, {width}]
```
"""


def _evaluation(run: runs.Run) -> dict[str, Any] | None:
    """Read the scores of a run, with everything that the card needs; None if it was not evaluated."""
    path = run.path / runs.EVALUATION
    if not path.exists():
        return None
    evaluation = read_evaluation(run)
    told = (*PROTOCOL, "images", "seed", "version")
    if missing := [key for key in told if evaluation.get(key) is None]:
        raise UserError(f"{path} lacks {', '.join(missing)}; evaluate the run again")
    return evaluation


def _scores(evaluation: dict[str, Any] | None, name: str) -> str:
    if evaluation is None:
        return "Not measured yet.\n"
    samples = evaluation.get("samples")
    estimate = "exact" if samples is None else f"importance-weighted with {samples:,} samples"
    notes = {
        "conditional": "; likelihoods are those of images given their labels",
        "marginal_nll": "; -log p(x) of all classes gives each class the same probability",
        "nll": f"; -log p(x) is {estimate}, in nats per image",
        "nll_standard_error": "; the standard error is over images",
        "effective_sample_size": "; ESS is the effective sample size of the weights, the median over images",
        "pareto_k": "; Pareto k measures how heavy the tail of the weights is, the median over images",
    }
    noted = "".join(note for key, note in notes.items() if evaluation.get(key) is not None)
    return (
        f"{markdown([{**evaluation, 'name': name}])}\n"
        f"Lower is better, on {evaluation['images']:,} random images of the {evaluation['split']} split of "
        f"{evaluation['dataset']} ({evaluation['binarization']}){noted}. Measured by flowvae "
        f"{evaluation['version']} with seed {evaluation['seed']}.\n"
    )


def _results(evaluation: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=evaluation["dataset"],
            dataset_name=f"{evaluation['dataset']} ({evaluation['binarization']})",
            dataset_split=evaluation["split"],
            metric_type=key,
            metric_name=title(key),
            metric_value=round(evaluation[key], 4),
        )
        for key in SCORES
        if evaluation.get(key) is not None
    ]


@contextlib.contextmanager
def _one_line(trouble: str, remedy: str) -> Iterator[None]:
    """Turn the errors of the hub's client into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's network errors have no common class
        raise UserError(f"{trouble} ({runs.reason(error)}); {remedy}") from None
