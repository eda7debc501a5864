"""Models in the conventions of the Hugging Face hub: saved to a folder, loaded from one or from the hub."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData, snapshot_download

from flowvae import runs
from flowvae.config import Config, to_dict
from flowvae.errors import UserError
from flowvae.evaluation.table import COLUMNS, PROTOCOL, markdown, read_evaluation, titles
from flowvae.models import Model

CARD = "README.md"
FILES = [runs.CONFIG, runs.WEIGHTS, runs.EVALUATION, CARD]
_TAGS = {"vae": "variational-autoencoder"}
SCORES = ("negative_elbo", "nll", "bits_per_dim")


def save_pretrained(run: str | Path, folder: str | Path) -> list[Path]:
    """Write the model of a run into ``folder`` as the hub wants it, and as a run of its own.

    Configuration, weights and evaluation are the run's; what resumes it stays behind, and so do the folders
    of its data, which would tell of the machine that it was trained on. ``README.md`` is a model card made
    from the evaluation; one that is there already is kept.

    Args:
        run: the folder of a run, or the name of a model that comes with the package.
        folder: made where it is not there.

    Returns:
        The files.

    Raises:
        UserError: no such run, or one of its files is damaged; or ``folder`` holds something else.
    """
    run, folder = runs.find(run), Path(folder)
    runs.load(run)  # complains of whatever is damaged, as does the next line
    _evaluation(run)
    config, shape = runs.read_config(run)
    strangers = {path.name for path in folder.iterdir()} - set(FILES) if folder.is_dir() else set()
    if strangers:
        raise UserError(f"{folder} holds {min(strangers)}, which is no model's; choose another folder")
    config = replace(
        config,
        data=replace(config.data, data=Path(config.data.data).name),
        training=replace(config.training, start_from=None),
    )
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / runs.CONFIG, {**to_dict(config), "shape": list(shape)})
    for name in (runs.WEIGHTS, runs.EVALUATION):
        if name == runs.WEIGHTS or (run / name).exists():
            with runs.replacing(folder / name) as partial:
                shutil.copyfile(run / name, partial)
    if not (folder / CARD).exists():
        with runs.replacing(folder / CARD) as partial:
            partial.write_text(
                model_card(folder, titles([run])[0]), encoding="utf-8", errors="backslashreplace"
            )
    return [folder / name for name in FILES if (folder / name).exists()]


def from_pretrained(name: str | Path, **options: Any) -> Model:
    """A trained model in ``eval()`` mode, from a folder (see `save_pretrained`) or from the hub.

    Args:
        name: a folder, or OWNER/MODEL on the hub, which is downloaded once and kept.
        options: of `huggingface_hub.snapshot_download`, such as ``revision``, ``token``, ``cache_dir`` and
            ``local_files_only``.

    Raises:
        UserError: there is no such model, it cannot be had, or it is damaged.
    """
    if Path(name).is_dir():
        return runs.load(name)
    with _one_line(f"{name} is no folder, and the hub does not give it", "check the name and the network"):
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
    """Upload the model of a run (see `save_pretrained`) to OWNER/MODEL on the hub, which may be new.

    Args:
        run: as in `save_pretrained`.
        repository: OWNER/MODEL.
        private: of a new repository; None for the owner's own default.
        token: in place of that of ``hf auth login``.
        commit_message: of the upload.
        options: of `huggingface_hub.HfApi.upload_folder`, such as ``revision`` and ``create_pr``.

    Returns:
        The address of the upload.

    Raises:
        UserError: no such run, or the hub refuses.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_pretrained(run, folder)
        with _one_line(
            f"the hub does not take {repository}", "check its name, hf auth login and the network"
        ):
            api.create_repo(repository, private=private, exist_ok=True)
            return str(
                api.upload_folder(
                    repo_id=repository, folder_path=folder, commit_message=commit_message, **options
                )
            )


def model_card(run: Path, name: str) -> str:
    """What the hub shows of a model: its scores with their protocol, and how to use it."""
    config, shape = runs.read_config(run)
    evaluation = _evaluation(run)
    data = ModelCardData(
        library_name="flowvae",
        model_name=name,
        tags=["flowvae", _TAGS.get(config.model.family, config.model.family)],
        eval_results=_results(evaluation) if evaluation else None,
    )
    channels, height, width = shape
    images = f"{height} x {width} images of {channels} channel{'s' if channels > 1 else ''}"
    return f"""---
{data.to_yaml()}
---

# {name}

A deep generative model of {images}, trained by flowvae on {config.data.data} ({config.data.binarization}):
{_kind(config)}.

## Likelihood

{_scores(evaluation, name)}
## Use

```python
import flowvae

model = flowvae.from_pretrained("OWNER/{name}")  # or this folder
images = model.sample(16)  # [16, {channels}, {height}, {width}]
```
"""


def _evaluation(run: Path) -> dict[str, Any] | None:
    """The scores of a run and their protocol, all that a card tells; None where it was not evaluated."""
    path = run / runs.EVALUATION
    if not path.exists():
        return None
    evaluation = read_evaluation(path)
    told = (*SCORES, *PROTOCOL, "images", "seed", "version")
    if missing := [key for key in told if evaluation.get(key) is None]:
        raise UserError(f"{path} lacks {', '.join(missing)}; evaluate the run again")
    return {"samples": None, **evaluation}  # an exact density has none


def _kind(config: Config) -> str:
    model = config.model
    if model.family != "vae":
        return f"a model of the family {model.family}, without a latent code"
    code = "latent dimensions" if model.code == "vector" else "maps for a code"
    kind = f"a variational autoencoder with {model.latent} {code}, a Gaussian posterior"
    if model.transformations:
        kind += f" made flexible by {model.transformations} {model.posterior} transformations"
    return f"{kind}, a {model.prior} prior and a {model.likelihood} likelihood"


def _scores(evaluation: dict[str, Any] | None, name: str) -> str:
    if evaluation is None:
        return "Not measured yet.\n"
    samples = evaluation["samples"]
    estimate = "exact" if samples is None else f"importance-weighted with {samples:,} samples"
    notes = {
        "nll_standard_error": "; the standard error is over images",
        "effective_sample_size": "; ESS is the effective sample size, the median over images",
        "pareto_k": "; Pareto k tells how heavy the tail of the weights is, the median over images",
    }
    noted = "".join(note for key, note in notes.items() if evaluation.get(key) is not None)
    return (
        f"{markdown([{**evaluation, 'name': name}])}\n"
        f"Nats per image (bits/dim where it says so), lower is better, on {evaluation['images']:,} random "
        f"images of the {evaluation['split']} split of {evaluation['dataset']} "
        f"({evaluation['binarization']}); -log p(x) is {estimate}{noted}. "
        f"Measured by flowvae {evaluation['version']} with seed {evaluation['seed']}.\n"
    )


def _results(evaluation: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=evaluation["dataset"],
            dataset_name=f"{evaluation['dataset']} ({evaluation['binarization']})",
            dataset_split=evaluation["split"],
            metric_type=key,
            metric_name=COLUMNS[key][0],
            metric_value=round(evaluation[key], 4),
        )
        for key in SCORES
    ]


@contextlib.contextmanager
def _one_line(trouble: str, remedy: str) -> Iterator[None]:
    """What the hub's client complains of, in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's errors of the network are its own, and change with it
        raise UserError(f"{trouble} ({runs.reason(error)}); {remedy}") from None
