"""Completion of command lines by the shell."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, get_type_hints

from tyro.conf import Positional

from flowvae.config import DataConfig, TrainingConfig
from flowvae.models.registry import PRESETS, SYSTEMS
from flowvae.parts import choices, names

# File names complete what is not listed.
SCRIPT = """\
_flowvae() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" words="{commands} --help --version"
    if [ "$COMP_CWORD" -gt 1 ]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
            *) words="" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
if [ -n "${{ZSH_VERSION-}}" ]; then autoload -U +X bashcompinit && bashcompinit; fi
complete -o default -F _flowvae flowvae
"""


def script(commands: Mapping[str, Callable[..., Any]]) -> str:
    """Return the lines for bash or zsh that complete commands, presets and options, and otherwise file names.

    Args:
        commands: functions by their names on the command line; those of ``train`` are the options of all
            presets, and its words the presets.
    """
    words = {name: _options(command) for name, command in commands.items()}
    words["train"] = [*PRESETS, *_training_options()]
    cases = "\n".join(
        f'            {name}) words="{" ".join([*of_command, "--help"])}" ;;'
        for name, of_command in words.items()
    )
    return SCRIPT.format(commands=" ".join(commands), cases=cases)


def _options(command: Callable[..., Any]) -> list[str]:
    hints = get_type_hints(command, include_extras=True)
    return [
        _option(name)
        for name in signature(command).parameters
        if Positional not in getattr(hints[name], "__metadata__", ())
    ]


def _training_options() -> list[str]:
    parts = [part for kind in SYSTEMS.values() for known in choices(kind).values() for part in known.values()]
    kinds = [DataConfig, *SYSTEMS.values(), *parts, TrainingConfig]
    found = dict.fromkeys(name for kind in kinds for name in names(kind))
    return [_option(name) for name in [*found, "config", "out", "resume", "device"]]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
