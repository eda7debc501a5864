"""Two processes train what one does: every system, in batches of an odd number of images."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from campaigns.record import REPOSITORY
from flowvae.runs import read_metrics

sys.path.insert(0, str(REPOSITORY / "tests"))  # which has a small form of every system

from processes import ROWS, end_of
from processes import start as start_two
from system_table import TABLE
from tiny_runs import write_halves

OF_TIME = {"seconds", "images_per_second", "split"}
ROUNDING = 1e-9
"""what numbers of equal trainings in float64 differ by at most, relative to the larger of 1 and themselves"""


def run(tries: int | None = None) -> dict[str, Any]:
    """Train small forms of all systems, or the first few of the table."""
    rows = compared(list(TABLE)[:tries])
    return {"tried": len(rows), "equal": sum(row["equal"] for row in rows), "rows": rows}


def compared(names: Sequence[str]) -> list[dict[str, Any]]:
    """Train rows of the table in one process and in two, and compare all lines of their metrics."""
    with tempfile.TemporaryDirectory() as folder:
        data, program = Path(folder) / "images.npz", Path(folder) / "rows.py"
        write_halves(data)
        program.write_text(ROWS)
        one, two = Path(folder) / "one", Path(folder) / "two"
        ended = end_of(start_two(data, two, 0, *names, program=(str(program),)), limit=60 + 20 * len(names))
        alone = [sys.executable, str(program), str(data), str(one), "0", *names]
        paths = {"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
        subprocess.run(alone, check=True, capture_output=True, env=paths)
        assert ended.code == 0, ended.err
        return [{"system": name, **_difference(one / name, two / name)} for name in names]


def _difference(one: Path, two: Path) -> dict[str, Any]:
    """Largest difference of a number of the metrics of two runs, and whether it is but rounding."""
    found, numbers = 0.0, 0
    ours, theirs = read_metrics(one), read_metrics(two)
    same = [line.keys() for line in ours] == [line.keys() for line in theirs]
    for mine, other in zip(ours, theirs, strict=False):
        for name in (mine.keys() & other.keys()) - OF_TIME:
            found = max(found, abs(mine[name] - other[name]) / max(1.0, abs(mine[name])))
            numbers += 1
    return {"numbers": numbers, "largest_difference": found, "equal": same and found <= ROUNDING}


def table(found: Mapping[str, Any]) -> str:
    lines = ["| system | numbers | largest difference |", "|---|---:|---:|"]
    lines += [
        f"| `{row['system']}` | {row['numbers']} | {row['largest_difference']:.1e} |" for row in found["rows"]
    ]
    return "\n".join([*lines, "", f"{found['equal']} of {found['tried']} are equal but for rounding.", ""])
