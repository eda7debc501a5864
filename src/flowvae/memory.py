"""Memory: settings of the allocator, and errors for lack of it."""

import ctypes
import platform

# Parameters of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MEBIBYTE = 2**20


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones, instead of returning it.

    Every step frees and allocates hundreds of megabytes of activations. By default the pages are returned to
    the system and zeroed again, one page fault for each 4 KiB, which takes about 15% of a training step. This
    is a setting of the whole process, which the command line makes. It does nothing unless the C library is
    glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 32 * MEBIBYTE)  # the largest value that glibc accepts
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(TOP_PAD, 64 * MEBIBYTE)


def lacks_memory(error: MemoryError | RuntimeError) -> bool:
    """Return whether memory ran out; PyTorch raises a RuntimeError then, and for sizes beyond 64 bits."""
    signs = ("DefaultCPUAllocator", "out of memory", "Storage size calculation overflowed", "numel: integer")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
