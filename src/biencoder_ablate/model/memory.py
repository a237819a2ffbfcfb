"""Hands freed memory back to the system: batches of ever other sizes leave gaps that glibc keeps and cannot fill."""

from __future__ import annotations

import ctypes


def hand_back_freed_memory() -> bool:
    """malloc_trim(3); returns whether anything was handed back. Does nothing where the C library has no such call."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False
