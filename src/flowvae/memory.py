"""How the process holds memory, and whether it lacks some."""

import ctypes
import platform

# Parameters of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MEBIBYTE = 2**20


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones, instead of returning it.

    Every step frees and takes hundreds of megabytes of activations. By default the pages go back to the
    system and come again zeroed, one page fault for each 4 KiB: about 15% of a training step. It is a setting
    of the whole process: the command line makes it, and a program of your own may. A no-op where the C
    library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 32 * MEBIBYTE)  # the largest that glibc accepts
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(TOP_PAD, 64 * MEBIBYTE)


def lacks_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory was missing: PyTorch raises a RuntimeError, also where a size has more than 64 bits."""
    signs = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed", "numel: integer")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
