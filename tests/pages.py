"""The code of pages and notebooks, run as it stands there."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import succeeds

REPOSITORY = Path(__file__).parents[1]


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of every fence that has python or sh for a language."""
    return re.findall(
        r"^```(python|sh)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def cells(notebook: Path) -> list[tuple[str, str]]:
    """As `blocks`, for a notebook's cells of code."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [("python", "".join(cell["source"])) for cell in content["cells"] if cell["cell_type"] == "code"]


def run_blocks(name: str, code: list[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """What the blocks define, run in their order with ``folder`` as the working directory.

    Lines of sh are commands of flowvae.
    """
    torch.manual_seed(0)
    defined: dict[str, Any] = {"__name__": name}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MPLBACKEND", "agg")
        for number, (language, block) in enumerate(code):
            if language == "python":
                exec(compile(block, f"{name}, block {number}", "exec"), defined)
            else:
                for line in block.replace("\\\n", " ").splitlines():
                    program, *words = shlex.split(line, comments=True)
                    assert program == "flowvae"
                    succeeds(*words)
    return defined
