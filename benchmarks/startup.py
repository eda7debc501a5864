"""What a user waits for: the help text, the import; and the memory of a training run."""

import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.machine import REPOSITORY, in_new_process

IMPORT = """
import json, time
began = time.perf_counter()
import torch
torch_alone = time.perf_counter() - began
began = time.perf_counter()
import flowvae
beyond = time.perf_counter() - began
for name in flowvae.__all__:
    getattr(flowvae, name)
print(json.dumps({"torch": torch_alone, "beyond_torch": beyond, "all_names": time.perf_counter() - began}))
"""
TRAIN = """
import json, sys, tempfile
from pathlib import Path
from benchmarks.machine import peak_memory
from flowvae.models.registry import preset
from flowvae.training import train

config = preset("vae").revised(steps=int(sys.argv[1]), validation_images=int(sys.argv[2]))
with tempfile.TemporaryDirectory() as folder:
    train(Path(folder) / "run", config)
print(json.dumps(peak_memory() / 1e6))
"""


def measure(
    repeats: int = 7, steps: int = 60, validation_images: int = 2000
) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians over new processes; the training run is that of ``vae``, with its validation at the end."""
    command = [sys.executable, "-m", "flowvae", "--help"]
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    imports = [in_new_process(IMPORT) for _ in range(repeats)]
    details = {
        "import_seconds": {
            name: statistics.median(values[name] for values in imports) for name in imports[0]
        },
        "training_peak_megabytes": in_new_process(TRAIN, steps, validation_images),
        "training_steps": steps,
    }
    return {"help_seconds": statistics.median(seconds)}, details
