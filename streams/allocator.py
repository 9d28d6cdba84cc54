"""How the C library gives memory back: a worker that frees and takes megabytes each round keeps them for a while."""

from __future__ import annotations

import ctypes

# Source: mallopt(3); glibc takes 32 MiB at most for the second.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES = 128 << 20, 32 << 20


def keep_freed_memory() -> bool:
    """Let up to 128 MiB of freed memory stay with the process; False where the C library cannot (musl, macOS).

    By default blocks above 128 KiB go back to the kernel once they are free, and come again as zeroed pages, a page
    fault each: fetched records, unpacked frames and flushed pages of every round. `tests/unit/test_allocator.py` counts
    the faults. The next round takes the same blocks; those that none takes any more `give_back` returns.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))


def give_back() -> bool:
    """Return free pages of all of the allocator's arenas to the kernel; False where the C library cannot.

    Blocks of megabytes among small ones that stay leave holes, and the holes of one busy second would be resident for
    ever: memory would creep up to the worst that ever was, and look like a leak.
    """
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    return bool(malloc_trim(0))
