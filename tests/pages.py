"""The code of pages and notebooks, run as it stands there."""

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from command_line import succeeds

REPOSITORY = Path(__file__).parents[1]


class Block(NamedTuple):
    language: str
    text: str
    file: str = ""
    """what it is to be kept as, where it is not to be run in its place"""


def blocks(page: Path) -> list[Block]:
    """Every fence that has python or sh for a language; its title is the name of a file."""
    fences = re.findall(
        r'^```(python|sh)(?: title="([\w.-]+)")?\n(.*?)^```$',
        page.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return [Block(language, text, title) for language, title, text in fences]


def cells(notebook: Path) -> list[Block]:
    """As `blocks`, for a notebook's cells of code."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [
        Block("python", "".join(cell["source"])) for cell in content["cells"] if cell["cell_type"] == "code"
    ]


def run_blocks(name: str, code: list[Block], folder: Path) -> dict[str, Any]:
    """What the blocks define, run in their order with ``folder`` as the working directory.

    Lines of sh are commands of flowvae.
    """
    torch.manual_seed(0)
    defined: dict[str, Any] = {"__name__": name}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MPLBACKEND", "agg")
        for number, block in enumerate(code):
            if block.file:
                (folder / block.file).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                exec(compile(block.text, f"{name}, block {number}", "exec"), defined)
            else:
                for line in block.text.replace("\\\n", " ").splitlines():
                    program, *words = shlex.split(line, comments=True)
                    assert program == "flowvae"
                    succeeds(*words)
    return defined
