"""The shell completes commands, presets and options; bash itself is asked."""

import re
import shlex
import shutil
import subprocess

import pytest
from command_line import succeeds

from flowvae import cli
from flowvae.models.registry import PRESETS

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")


@pytest.fixture(scope="module")
def script() -> str:
    return succeeds("completion")


def completed(script: str, line: str) -> list[str]:
    """What bash offers for the last word of ``line``."""
    words = line.split(" ")
    asked = f"{script}\nCOMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}\n"
    asked += '_flowvae; printf "%s\\n" "${COMPREPLY[@]}"'
    return subprocess.run([str(BASH), "-c", asked], capture_output=True, text=True, check=True).stdout.split()


def test_commands(script):
    assert completed(script, "flowvae ") == [*cli.COMMANDS, "--help", "--version"]
    assert completed(script, "flowvae ev") == ["evaluate"]
    assert completed(script, "flowvae nothing --") == []


def test_presets_and_options_of_all_of_them(script):
    assert completed(script, "flowvae train realnvp-d") == [n for n in PRESETS if n.startswith("realnvp-d")]
    assert completed(script, "flowvae train vae --causal-o") == ["--causal-orders"]
    assert completed(script, "flowvae train gan-mnist --res") == ["--resume"]
    help_text = succeeds("train", "vae", "--help")
    options = set(re.findall(r"--(?!no-)[a-z][a-z0-9-]+", help_text))
    assert "--config" in options
    assert options <= set(completed(script, "flowvae train --"))


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "train"])
def test_options_are_those_of_the_help(script, command):
    help_text = succeeds(command, "--help")
    offered = completed(script, f"flowvae {command} --")
    assert offered
    assert all(option in help_text for option in offered)
