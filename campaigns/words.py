"""What is fuzzed of the command line: real commands and options, with values that are not."""

import contextlib
import functools
import inspect
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import accelerate  # noqa: F401  # commands import these only when they need them, and so would every process
import numpy as np
import onnx  # noqa: F401
import torchmetrics  # noqa: F401
from made_runs import SPEC
from PIL import Image

from campaigns.corpus import Reader
from campaigns.mutate import LONG
from campaigns.run_files import continued
from flowvae import (
    bits_back,
    cli,
    few_labels,
    figure1,
    missing,
    modes,
    reproduce,
    systems,
    training,
    wu_table1,
)
from flowvae.commands import demonstrating
from flowvae.commands.coding import encode_images
from flowvae.commands.compressing import compress_images
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.errors import UserError
from flowvae.explorer import page
from flowvae.explorer.explored import open_runs
from flowvae.explorer.guard import host_name
from flowvae.models.registry import PRESETS, build_model
from flowvae.parts import choices, names

ODD = (
    *(
        "",
        " ",
        "-",
        "--",
        ".",
        "..",
        "/dev/null",
        "/dev/zero",
        "missing/\udcff",
        "plain\0",
        "\udcff",
        "é\n",
        LONG,
    ),
    *(
        "0",
        "-0",
        "-1",
        "1",
        "2",
        "3",
        "1.5",
        "0.5",
        "nan",
        "inf",
        "-inf",
        "1e308",
        "1e-320",
        "1e400",
        "0x7",
        "1_0",
        "٣",
    ),
    *(
        "1000000000",
        str(2**31),
        str(2**63),
        str(2**64),
        "1" + "0" * 400,
        "1" + "0" * 5000,
        "1,2",
        "3x3",
        "0x0",
        "9x9",
    ),
    *(
        "None",
        "none",
        "True",
        "alpha",
        "255,0,255",
        "test",
        "train",
        "static",
        "cpu",
        "cuda:99",
        "meta",
        "auto",
        "a:b",
    ),
)
PLACES = (
    "run",
    "images.npz",
    "some",
    "some/0.png",
    "codes.npz",
    "images.flowvae",
    "mine.yaml",
    "run/config.json",
)
OUTS = (
    "new",
    "new.npz",
    "new.png",
    "new.pdf",
    "new.csv",
    "new.json",
    "new.md",
    "new.parquet",
    "new/x.png",
    "run",
)
OTHERS = (
    "vae",
    "realnvp-2",
    "iaf-4",
    "density-small",
    "gan-mnist",
    "glo-mnist",
    "pixelcnn",
    "table1",
    "missing",
)
OF_TRAINING = ("--out", "--resume", "--config", "--device")


@functools.cache
def settings() -> list[str]:
    """List the options of ``flowvae train``, of any system."""
    systems = {type(config.model) for config in PRESETS.values() if config.model is not None}
    parts = {part for system in systems for known in choices(system).values() for part in known.values()}
    kinds = (DataConfig, TrainingConfig, *systems, *parts)
    return sorted({f"--{name.replace('_', '-')}" for kind in kinds for name in names(kind)})


def drawn(random: Random) -> list[str]:
    """Draw the words of a command."""
    command = random.choice([*cli.COMMANDS, *cli.COMMANDS, random.choice(ODD)])
    if command == "train":
        words, known = [random.choice((*PRESETS, *ODD))], [*settings(), *OF_TRAINING]
    else:
        parameters = inspect.signature(cli.COMMANDS[command]).parameters if command in cli.COMMANDS else ()
        words, known = [], [f"--{name.replace('_', '-')}" for name in parameters] or ["--x"]
        for place in ("run", "images", "file", "codes", "what", "runs"):
            if place in parameters and random.random() < 0.95:
                words.append(random.choice((*PLACES, *ODD) if random.random() < 0.3 else USUAL[place]))
    if command == "export" and random.random() < 0.98:
        words += ["--format", "hub"]  # graphs take seconds
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        option = random.choice(known)
        values = OUTS if option == "--out" and random.random() < 0.8 else (*ODD, *PLACES, *OTHERS)
        value = random.choice(values)
        form = random.random()
        words += [f"{option}={value}"] if form < 0.2 else [option] if form < 0.25 else [option, value]
    if random.random() < 0.1:
        random.shuffle(words)
    return [command, *words]


USUAL = {
    "run": ("run",),
    "runs": ("run",),
    "images": ("images.npz", "some", "some/0.png"),
    "file": ("images.flowvae",),
    "codes": ("codes.npz",),
    "what": ("table1", "missing", "systems", "few-labels", "wu-table1", "modes", "figure1", "bits-back"),
}


def _without_work() -> None:
    """Leave out what takes minutes or never ends: models are only built, and the page is not served."""

    def build(path: Path, config: Config, resume: bool, device: str) -> bool:
        assert config.model is not None
        build_model(config.model, SPEC)
        return True

    def serve(runs: Any, port: int, data: str | None, hosts: Any) -> None:
        for host in hosts:
            host_name(host)
        open_runs(runs, data)

    def nothing(*arguments: Any, **options: Any) -> Iterator[Path]:
        return iter(())

    training.train, page.serve = build, serve
    demonstrating.run_demo = reproduce.reproduce_table = figure1.reproduce_figure = nothing
    missing.reproduce_missing = systems.reproduce_systems = bits_back.reproduce_bits_back = nothing
    few_labels.reproduce_few_labels = wu_table1.reproduce_wu_table1 = modes.reproduce_modes = nothing


def _run(folder: Path, random: Random | None) -> None:
    """Run a command in a directory, which keeps its files unless the command succeeds."""
    os.chdir(folder)
    _without_work()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["table", "run"] if random is None else drawn(random)
    code, out, err = 0, io.StringIO(), io.StringIO()
    sys.argv = ["flowvae", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    said = err.getvalue()
    kept = ("config.json", "model.safetensors", "metrics.jsonl", "images.npz")
    for path, content in before.items():
        if code or path.name in kept:
            assert path.read_bytes() == content, f"{path.name} is lost: {words}"[:300]
    if code:
        assert code == 2, f"exit code {code}: {words} {said}"[:300]
        *notes, line = said.splitlines()
        assert all(each.startswith("flowvae: ") for each in (*notes, line)), f"lines: {words} {said}"[:300]
        assert not out.getvalue(), f"output: {words} {out.getvalue()}"[:300]
        raise UserError(line)


def readers() -> Iterator[Reader]:
    """The reader of words."""
    with continued() as (folder, files):
        (folder / "some").mkdir()
        for number in range(3):
            Image.fromarray(np.eye(8, k=number, dtype=np.uint8) * 255).save(folder / "some" / f"{number}.png")
        encode_images(Path("run"), ["images.npz"], 2, None, 0, Path("codes.npz"))
        compress_images(Path("run"), ["images.npz"], Path("images.flowvae"))
        (folder / "mine.yaml").write_text("preset: vae\nlatent: 2\n")
    yield Reader("arguments", [files], _run, share=1.5, damaged=(), writes=True, quiet=False)
