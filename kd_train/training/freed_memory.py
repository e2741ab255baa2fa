"""Memory that a training frees stays with its process."""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h: the free memory at the end of the heap that is returned, by how much more the heap
# grows than it must, and the size from which an allocation is a mapping of its own.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_NEVER, _GROWTH, _LARGEST = 2**31 - 1, 64 * 2**20, 32 * 2**20  # bytes; glibc allows no larger threshold


def keep_freed_memory() -> bool:
    """Let glibc keep memory that is freed, instead of returning it to the system each time.

    Every step of a training frees its tensors, and the next one allocates as many. The system
    clears each page that it hands out again, which takes a tenth of the CPU time. The setting is
    the whole process's, so commands call this, and the library does not.

    Returns:
        Whether it was set; False with another C library than glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    chosen = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWTH))
    return all(mallopt(name, value) for name, value in chosen)
