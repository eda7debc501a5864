"""Commands that train, and that list what can be trained."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowvae.errors import UserError
from flowvae.options import given


def train(words: list[str]) -> None:
    """Train a preset into a new directory, or resume a run."""
    name = words[0] if words and not words[0].startswith("-") else None
    resumed = given("--resume", words)
    file = given("--config", words)
    if name is None and resumed is None and file is None and not {"--help", "-h"} & set(words):
        from flowvae.models.registry import PRESETS

        raise UserError(f"name a preset first: flowvae train PRESET; known: {', '.join(PRESETS)}")
    if file is not None and (name is not None or resumed is not None):
        raise UserError(f"--config describes the whole experiment; remove {name or '--resume'}")
    if file == "":
        raise UserError("--config has no value; give a YAML file, or the config.json of a run")
    if resumed == "":
        raise UserError("--resume has no value; give the directory of the run to resume")
    if resumed is not None and given("--out", words) is not None:
        raise UserError("--resume continues in the run's own directory; remove --out")

    from flowvae.forms import read_training
    from flowvae.user_presets import named_preset

    if file is not None:
        from flowvae.config_files import read_config

        config = read_config(Path(file))
    elif resumed is None:
        config = named_preset(name or "vae")
    elif name is None or ":" in name:
        config = _resumed(Path(resumed), name)
    else:
        raise UserError(f"--resume uses the run's own preset; remove {name!r}")
    if any(given(budget, words) is not None for budget in ("--epochs", "--steps", "--minutes")):
        config = replace(config, training=config.training.with_budget())
    chosen = read_training(config, words[name is not None :], f"flowvae train {name or 'PRESET'}")

    from accelerate import PartialState

    from flowvae.training import train as train_run

    own_name = Path(file).stem if file else str(name).rpartition(":")[2]
    run = chosen.resume or chosen.out or Path("runs") / own_name
    if not train_run(run, chosen.config, resume=chosen.resume is not None, device=chosen.device):
        raise KeyboardInterrupt
    if PartialState().is_main_process:  # once, however many processes there are
        print(f"{run} is trained; score it with: flowvae evaluate {shlex.quote(str(run))}")


def _resumed(path: Path, name: str | None) -> Any:
    """Read the configuration of a run whose system is one of flowvae's or that of the preset ``name``."""
    from flowvae.parts import from_dict
    from flowvae.runs import Run
    from flowvae.user_presets import named_preset

    described = Run(path).described
    if described.config.model is not None and name is None:
        return described.config
    if name is None:
        raise UserError(
            f"{path} has the system {described.system}, which is not one of flowvae's; name its preset: "
            f"flowvae train MODULE:NAME --resume {shlex.quote(str(path))}"
        )
    model = named_preset(name).model
    return replace(described.config, model=model and from_dict(type(model), described.options))


# Minutes on one CPU core, of density and density-small on two; test results as in README.md.
CHOICES = (
    ("vae", "a baseline", 40, 642_116, "83.80 nats"),
    ("realnvp-5", "codes of binary images", 43, 1_251_896, "81.92 nats"),
    ("density-small", "a low likelihood in an hour", 60, 1_463_264, "78.37 nats"),
    ("density", "longer trainings", 160, 2_619_008, "78.40 nats"),
    ("pixelcnn-cifar10", "8-bit grey or colour images", 50, 2_077_758, "3.50 bits/dim"),
)


def presets() -> None:
    """List the presets: named models with their data."""
    from flowvae.models.registry import PRESETS

    print(f"{'which to take':16} {'for':28} minutes  parameters  -log p(x)")
    for name, purpose, minutes, parameters, result in CHOICES:
        print(f"{name:16} {purpose:28} {minutes:7}  {parameters:10,}  {result}")
    print()
    for name, config in PRESETS.items():
        what = "" if config.model is None else config.model.describe()
        print(f"{name:24} {what}; {config.data.data}")
