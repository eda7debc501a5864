"""`python -m campaigns [PART ...]`: try what is promised, and renew results/reliability.json and its pages.

A part is a module with ``run(tries)``, which returns what it found, or None if this machine has not got what
it needs, and ``table(found)``, its Markdown.
"""

import argparse
import importlib
import time

import torch

from campaigns import record

PARTS = ("coverage", "fuzz", "gpu", "kills", "long_runs", "mutants", "page", "processes", "round_trips")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m campaigns", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [all]")
    parser.add_argument(
        "--tries", type=int, metavar="N", help="of each part: repeats, cases [what is published]"
    )
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"no part {part!r}; known: {', '.join(PARTS)}")
    torch.set_num_threads(1)
    for part in arguments.parts or PARTS:
        began = time.monotonic()
        print(f"{part} ...", flush=True)
        module = importlib.import_module(f"campaigns.{part}")
        found = module.run(arguments.tries)
        if found is None:
            continue
        text = module.table(found)
        record.store(part, found, text)
        print(f"{text}\n{part}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
