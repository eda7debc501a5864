"""Where a campaign leaves what it found: in results/reliability.json and on a page of docs/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowvae.runs import write_json

REPOSITORY = Path(__file__).parents[1]


def store(part: str, found: Mapping[str, Any], text: str, repository: Path = REPOSITORY) -> None:
    """Put what a part found, and its Markdown, in the place of what its last run left.

    The page is that with a section between ``<!-- PART: begin -->`` and ``<!-- PART: end -->``.
    """
    results = repository / "results" / "reliability.json"
    kept = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    write_json(results, {**kept, part: found})
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    (page,) = (
        each for each in (repository / "docs").glob("*.md") if begin in each.read_text(encoding="utf-8")
    )
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
