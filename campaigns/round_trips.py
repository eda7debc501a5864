"""Compressed images are restored bit by bit: by a process of its own, with another number of threads."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from campaigns.record import REPOSITORY
from flowvae.compression import Coding

sys.path.insert(0, str(REPOSITORY / "tests"))  # which has small models of every system

from compressible import NAMES, moved
from system_table import TABLE

CASES = "cases.json"
TRIES = 1000
LARGEST_SIDE, MOST_IMAGES, MANY, MOST_SAMPLES = 9, 12, 300, 3
KINDS = ("black", "white", "noise", "samples", "one pixel")
THREADS = 3
"""of the process that restores; the one that compresses has 1"""


class Case(NamedTuple):
    """A data set, and the model that compresses it."""

    name: str
    shape: tuple[int, int, int]
    kind: str
    number: int
    samples: int
    seed: int


def run(tries: int | None = None) -> dict[str, Any]:
    """Compress and restore as many random data sets as tries [1000]; many minutes."""
    tried = cases(tries or TRIES)
    with tempfile.TemporaryDirectory() as folder:
        compress(tried, Path(folder))
        equal = _by_another_process(Path(folder))
    by_name = Counter(case.name for case in tried)
    equal_by_name = Counter(case.name for case, same in zip(tried, equal, strict=True) if same)
    return {
        "tried": len(tried),
        "equal": sum(equal),
        "images": sum(case.number for case in tried),
        "kinds": dict(Counter(case.kind for case in tried)),
        "models": {name: {"tried": by_name[name], "equal": equal_by_name[name]} for name in NAMES},
        "different": [case for case, same in zip(tried, equal, strict=True) if not same],
    }


def cases(number: int) -> list[Case]:
    """Draw cases of all models in turn, the same in every run."""
    each = -(-number // len(NAMES))
    found = [_cases_of(name, each) for name in NAMES]
    return [case for one_of_each in zip(*found, strict=True) for case in one_of_each][:number]


def _cases_of(name: str, number: int) -> list[Case]:
    found: list[Case] = []
    side = st.integers(1, LARGEST_SIDE)
    few = st.integers(1, MOST_IMAGES)

    @settings(
        max_examples=number,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        channels = 1 if TABLE[name].binary else data.draw(st.sampled_from([1, 3]))
        found.append(
            Case(
                name,
                (channels, data.draw(side), data.draw(side)),
                data.draw(st.sampled_from(KINDS)),
                data.draw(st.one_of(st.just(1), few, few, st.integers(MOST_IMAGES, MANY))),
                data.draw(st.integers(1, MOST_SAMPLES)) if _draws_several(name) else 1,
                data.draw(st.integers(0, 1000)),
            )
        )

    draw()
    return found[:number]


def _draws_several(name: str) -> bool:
    """Tell whether images can have several codes: whether there is a code, with a density."""
    row = TABLE[name]
    return row.system == "vae" and row.options.get("posterior") != "planar"


def compress(tried: Sequence[Case], folder: Path) -> None:
    """Write words and images of each case, and the cases."""
    (folder / CASES).write_text(json.dumps(tried))
    for place, case in enumerate(tried):
        coding = Coding(moved(case.name, case.shape), case.samples)
        images = drawn(case, coding)
        np.savez(folder / f"{place}.npz", words=coding.compress(images)[0], images=images.numpy())


def drawn(case: Case, coding: Coding) -> Tensor:
    """Make the images of a case, int64 [N, C, H, W] of levels."""
    most, shape = coding.levels - 1, (case.number, *case.shape)
    noise = torch.Generator().manual_seed(case.seed)
    images = torch.zeros(shape, dtype=torch.int64)
    match case.kind:
        case "white":
            images += most
        case "noise":
            images = torch.randint(0, most + 1, shape, generator=noise)
        case "samples":
            torch.manual_seed(case.seed)
            images = (coding.model.draw(case.number).clamp(0, 1) * most).round().long()
        case "one pixel":
            places = torch.randint(0, images[0].numel(), (case.number, 1), generator=noise)
            images.flatten(1).scatter_(1, places, most)
    return images


def restore(folder: Path) -> list[bool]:
    """Restore what `compress` wrote, and tell of each case whether the images are equal."""
    equal: list[bool] = []
    for place, (name, shape, _, number, samples, _) in enumerate(json.loads((folder / CASES).read_text())):
        coding = Coding(moved(name, tuple(shape)), samples)
        with np.load(folder / f"{place}.npz") as kept:
            equal.append(np.array_equal(coding.decompress(kept["words"], number), kept["images"]))
    return equal


def _by_another_process(folder: Path) -> list[bool]:
    """`restore`, with another number of threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    words = [sys.executable, "-m", "campaigns.round_trips", str(folder)]
    done = subprocess.run(words, env=environment, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def table(found: Mapping[str, Any]) -> str:
    """What was found, as Markdown."""
    rows = [f"| `{name}` | {row['tried']} | {row['equal']} |\n" for name, row in found["models"].items()]
    return (
        f"| model | data sets | restored bit by bit |\n|---|---:|---:|\n{''.join(rows)}"
        f"| all | {found['tried']:,} | {found['equal']:,} |\n"
    )


if __name__ == "__main__":
    print(json.dumps(restore(Path(sys.argv[1]))))
