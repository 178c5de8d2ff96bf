"""The C library's allocator, told to keep what a step frees, since the next one wants it again."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls the two options."""

KEPT = 2**30
"""Bytes at the end of the heap that may stay free before they go back to the system."""

LARGEST = 2**25
"""Bytes of a block that still comes from the heap: glibc takes no more."""


def keep_freed_memory() -> bool:
    """Have memory that is freed stay the process's own, where the C library is glibc; return whether it is.

    Given back and asked for again, each page costs a fault and is cleared: a quarter of a small convolutional network's
    step. The most that a process holds is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
