"""What a measurement was made on, and how much memory a process has used."""

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parents[1]

LIBRARIES = ("flowvae", "nflows", "normflows", "numpy", "pyro-ppl", "pythae", "zuko")


def describe() -> dict[str, Any]:
    """The processor, the versions of what is compared, and the date."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "date": datetime.date.today().isoformat(),
    }


def shared_data() -> Path:
    """The folder of data sets that are not bundled: FLOWVAE_SHARED_DATA, or ../shared/data."""
    return Path(os.environ.get("FLOWVAE_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux `ru_maxrss` begins at what the parent used, since that is kept when a program starts
        # another; this line is of this program alone.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024


def in_new_process(code: str, *arguments: object) -> Any:
    """What ``code`` prints as JSON in its last line, in a Python of its own; it finds this package."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
