"""Makes glibc keep the memory it has been given, instead of handing large tensors back and faulting them in again."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""M_TRIM_THRESHOLD, M_MMAP_MAX and M_ARENA_MAX of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Ask for it, unless the environment says how to allocate; returns whether the C library took it.

    By default glibc maps every block of some megabytes anew and unmaps it when freed, so that each page of each
    activation costs a fault (mallopt(3), M_MMAP_THRESHOLD). The price: memory falls back less after a peak.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    # One arena: those of other threads than the first hand back what is larger than 64 MB.
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_ARENA_MAX, 1))
