"""What is fuzzed of runs: their files, and the files that their commands read."""

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from campaigns.record import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))  # which has small runs

from command_line import write_images
from data_files import random_images
from made_runs import CONFIG, SPEC, moved_model, record, trained_state
from system_table import TABLE

from campaigns.corpus import IMAGE_TOKENS, NPY_TOKENS, Reader, made
from flowvae.batch import DataSpec
from flowvae.commands.coding import decode_codes, encode_images
from flowvae.commands.compressing import compress_images, decompress_images
from flowvae.commands.evaluating import evaluate_run, key_of
from flowvae.commands.scoring import score_images
from flowvae.config import Config, DataConfig
from flowvae.config_files import read_config, read_rows
from flowvae.explorer.explored import open_runs
from flowvae.figures import draw_curves
from flowvae.hub import from_pretrained, model_card
from flowvae.reproduce import Row
from flowvae.runs import Run, create, judged_by, read_metrics, write_json, write_weights
from flowvae.runs.capability import label_of
from flowvae.runs.scores import read_scores, write_unfinished
from flowvae.runs.table import comma_separated, compare, markdown
from flowvae.tables import TABLES
from flowvae.training.checkpoint import State
from flowvae.training.overfitting import set_dropout

RUN = Path("run")
JSON_TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"NaN", b"-Infinity", b"1e400", b"\\ud800"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\0", b"[" * 2000, b'"format": 1', b'"format": 6', b'"vae"'),
)
YAML_TOKENS = (
    *(
        b"&a",
        b"*a",
        b"<<: *a",
        b"!!python/name:os.system",
        b"!!binary",
        b"!!timestamp",
        b"!!float",
        b"- ",
        b"? ",
    ),
    *(
        b"|\n",
        b">\n",
        b"---\n",
        b"...\n",
        b"%YAML 9.9\n",
        b"\t",
        b"#",
        b"{",
        b"[",
        b"'",
        b"preset:",
        b": ",
        b"\x85",
    ),
    *(b"2001-99-99", b"1_000", b"0x_", b"0b", b"1:60:60", b".inf", b".nan", b"~", b"\xff", b"=", b"[" * 2000),
)
SAFETENSORS_TOKENS = (
    b'"F64"',
    b'"F8_E4M3"',
    b'"I64"',
    b'"BOOL"',
    b'"shape":[',
    b'"__metadata__"',
    b"\xff" * 8,
)
SCORES = {
    "negative_elbo": 80.0,
    "nll": 79.0,
    "samples": 5,
    "images": 6,
    "split": "test",
    "dataset": "mnist",
    "binarization": "static",
}
PICKLE_TOKENS = (
    b"cos\nsystem\n",
    b"\x80\x02",
    b"\x93",
    b"R.",
    b"PK\x01\x02",
    b"X\x05\0\0\0",
    b"ctorch\n",
    b"K\xff",
    b"M\xff\xff",
)


BINARY = replace(CONFIG, data=DataConfig(data="images.npz"))
MIXTURE = replace(
    BINARY, model=TABLE["vae-causal-mixture"].options_of_system(), data=DataConfig("images.npz", "none")
)
"""of images of 8 bits, and with raised dropout"""


def described(config: Config) -> DataSpec:
    return SPEC if config == BINARY else SPEC._replace(levels=256)


@functools.cache
def complete(config: Config = BINARY) -> dict[str, bytes]:
    """Return the files of a directory with images and a run that was trained, evaluated and used on them."""
    with made() as (folder, files), contextlib.chdir(folder):
        if config == BINARY:
            write_images(folder / "images.npz", num_test=6)
        else:
            splits = {name: random_images(6, 8, 8) for name in ("train", "valid", "test")}
            np.savez(folder / "images.npz", allow_pickle=False, **splits)
        create(RUN, config, described(config), "vae")
        state = trained_state(moved_model(config, described(config)))
        if config == MIXTURE:
            state.level, state.level_best, state.level_best_step, state.ended = 2, 80.0, 1, True
        write_weights(RUN, state.model)
        with (RUN / "metrics.jsonl").open("ab") as metrics:
            for step in (1, 2, 3):
                valid = {"split": "valid", "step": step, "epoch": 0.5, "seconds": 1.5, "negative_elbo": 80.0}
                metrics.write(record(step) + json.dumps(valid).encode() + b"\n")
            state.save(RUN, metrics)
        with contextlib.redirect_stderr(io.StringIO()):  # so few samples are warned of
            scores = evaluate_run(RUN, 2, 6)
        write_json(
            RUN / "evaluation-ais.json", {**scores, "chains": 2, "gap": 0.1, "gap_standard_error": 0.1}
        )
        (RUN / "scores-ais.safetensors").write_bytes((RUN / "scores.safetensors").read_bytes())
        write_json(
            RUN / "quality.json", {"frechet_distance": 1.0, "density": 0.5, "images": 9, "split": "test"}
        )
    return files


@contextlib.contextmanager
def continued(config: Config = BINARY) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """Yield a working directory with the files of `complete`, and what has its files afterwards."""
    with made() as (folder, files), contextlib.chdir(folder):
        for name, content in complete(config).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        yield folder, files


def here(read: Callable[[], object]) -> Callable[[Path, Random | None], None]:
    """Return the reader of the files in the working directory."""

    def there(folder: Path, random: Random | None) -> None:
        os.chdir(folder)
        torch.manual_seed(0)
        read()

    return there


def _describe() -> None:
    run = Run(RUN)
    from_pretrained(RUN)
    run.config.revised(steps=run.config.training.steps)
    model_card(run, "run")


def _measure() -> None:
    rows, _ = compare([RUN, RUN])
    assert markdown(rows)
    assert comma_separated(rows)
    model_card(Run(RUN), "run")
    read_scores(Run(RUN))


def _record() -> None:
    records = read_metrics(RUN)
    judged_by(records)
    row = Row("run", TABLES["table1"]["vae"], 0, Path("table"))
    row.folder.mkdir(exist_ok=True)
    (row.folder / "runs").mkdir(exist_ok=True)
    row.run.symlink_to(RUN.absolute())
    row.state()


def _draw() -> None:
    draw_curves({"run": read_metrics(RUN)})


@functools.cache
def _state(config: Config) -> State:
    return trained_state(moved_model(config, described(config)))


def _resume() -> None:
    state = _state(MIXTURE if Run(RUN).config.data == MIXTURE.data else BINARY)
    state.restore(RUN)
    set_dropout(state)


def _evaluate() -> None:
    evaluate_run(RUN, 2, 6)
    assert not list(RUN.glob("*.unfinished.*")), "it continues, and they are removed"


def _explore() -> None:
    (run,) = open_runs([RUN])
    assert run.sample_codes.isfinite().all()
    assert run.class_names == [] or label_of(Run(RUN), "0") == 0


def readers() -> Iterator[Reader]:
    """All of them."""
    whole, mixture = complete(), complete(MIXTURE)
    golden = sorted((REPOSITORY / "tests" / "golden").iterdir())
    earlier = [{f"run/{path.name}": path.read_bytes() for path in place.iterdir()} for place in golden]
    config, weights = "run/config.json", "run/model.safetensors"
    yield Reader(
        "config.json", [whole, mixture], here(_describe), JSON_TOKENS, 2.0, refused=earlier, damaged=(config,)
    )
    yield Reader("weights", [whole, mixture], here(_describe), SAFETENSORS_TOKENS, damaged=(weights,))
    measured = (
        "run/evaluation.json",
        "run/evaluation-ais.json",
        "run/quality.json",
        "run/scores.safetensors",
    )
    yield Reader("evaluations", [whole], here(_measure), JSON_TOKENS, damaged=measured)
    metrics = ("run/metrics.jsonl",)
    yield Reader("metrics", [whole], here(_record), JSON_TOKENS, damaged=metrics, writes=True)
    yield Reader("curves", [whole], here(_draw), JSON_TOKENS, 0.05, damaged=metrics)
    state = ("run/resume/state.pt", *metrics)
    yield Reader("state.pt", [whole, mixture], here(_resume), PICKLE_TOKENS, damaged=state)
    yield Reader("explored", [whole], here(_explore), (*JSON_TOKENS, *NPY_TOKENS), 0.5)

    experiment = (
        b"preset: realnvp-2\ndata: images.npz\nlatent: 3\nlearning-rate: 1e-3\nflow_batch_norm: true\n"
    )
    experiments = {"mine.yaml": experiment}, {"mine.yaml": b"{preset: vae, hide: 3x3, value_range: [0, 1.5]}"}
    yield Reader("experiment", experiments, here(lambda: read_config(Path("mine.yaml"))), YAML_TOKENS)
    rows = {"rows.yaml": b"small: {preset: vae, latent: 2}\nlarge: iaf-4\nother:\n  preset: realnvp-2\n"}
    yield Reader("rows", [rows], here(lambda: read_rows(Path("rows.yaml"))), YAML_TOKENS)
    result = {
        "asked": {"variant": "vae", "seed": 0, "budget": {"minutes": 1.0, "epochs": None}},
        "validation": [[0.5, 90.0], [1.0, 80.0]],
    }
    done = {"vae-seed0.json": json.dumps({**result, **SCORES}).encode()}
    row = Row("vae", TABLES["table1"]["vae"], 0, Path())
    shown = here(lambda: markdown([{**row.read(), "name": row.name}]))
    yield Reader("results", [done], shown, JSON_TOKENS, 0.5)

    packed = []
    for of_run in (BINARY, MIXTURE):
        with continued(of_run) as (_, compressed):
            compress_images(RUN, ["images.npz"], Path("images.flowvae"))
        packed.append(compressed)
    out = Path("../out")
    decompressed = here(lambda: decompress_images(Path("images.flowvae"), out / "restored.npz", RUN))
    yield Reader("compressed", packed, decompressed, JSON_TOKENS, damaged=("images.flowvae",), quiet=False)
    with continued() as (_, encoded):
        encode_images(RUN, ["images.npz"], 2, None, 0, Path("codes.npz"))
    decoded = here(lambda: decode_codes(RUN, Path("codes.npz"), 0, out / "decoded"))
    yield Reader("codes", [encoded], decoded, NPY_TOKENS, damaged=("codes.npz",), quiet=False)

    with continued() as (folder, files):
        for number in range(3):
            image = Image.fromarray(np.eye(8, k=number, dtype=np.uint8) * 255)
            (folder / "some").mkdir(exist_ok=True)
            image.save(folder / "some" / f"{number}.png")
    scored = here(lambda: score_images(RUN, ["some"], 2, None, 0, out / "scores.csv"))
    some = tuple(name for name in files if name.startswith("some/"))
    yield Reader("named images", [files], scored, IMAGE_TOKENS, damaged=some, quiet=False)

    with continued() as (_, files):
        run = Run(RUN)
        key = key_of(run, run.dataset.name, "static", "test", 2, 6, 0)
        few = {name: values[:4] for name, values in (read_scores(run) or {}).items()}
        write_unfinished(RUN / f"scores-{key}.unfinished.safetensors", few, torch.Generator().get_state())

    unfinished = tuple(name for name in files if "unfinished" in name)
    evaluated = here(_evaluate)
    yield Reader(
        "unfinished",
        [files],
        evaluated,
        SAFETENSORS_TOKENS,
        0.5,
        damaged=unfinished,
        quiet=False,
        writes=True,
    )
