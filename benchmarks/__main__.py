"""`python -m benchmarks [PART ...]`: measure, and renew results/benchmarks.json and docs/performance.md."""

import argparse
import importlib
import os
import time
import warnings

from benchmarks import report
from flowvae.memory import keep_freed_memory

# quality, which takes a hundred minutes where no row of it is stored yet, comes last.
PARTS = (
    "startup",
    "planar",
    "coupling",
    "training",
    "likelihood",
    "missing",
    "processes",
    "operators",
    "growth",
    "quality",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [all]")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each row of quality [10]")
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"no part {part!r}; known: {', '.join(PARTS)}")
    keep_freed_memory()  # as training does, and here for the peers as well
    warnings.simplefilter("ignore")  # of the peers, about their own use of PyTorch
    for part in arguments.parts or PARTS:
        began = time.monotonic()
        load = os.getloadavg()[0]
        print(f"{part} ..." + (f" while others use {load:.1f} cores" if load > 0.5 else ""), flush=True)
        measure = importlib.import_module(f"benchmarks.{part}").measure
        headlines, details = measure(minutes=arguments.minutes) if part == "quality" else measure()
        report.store(part, headlines, {"load_before": load, **details})
        report.update_page(report.read())
        for name, value in headlines.items():
            print(f"  {name} = {value:.3g}")
        print(f"  {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
