"""Bounds the memory of training on a CPU, where batches of ever other lengths leave gaps that glibc cannot fill."""

from __future__ import annotations

import ctypes
import os

PRODUCTS_KEPT = "64"
"""oneDNN keeps code for so many shapes of products instead of 1024: a step seldom meets the last one's shapes, and
what is kept lies between activations, so that their memory cannot be joined (docs/performance.md)."""


def keep_few_products() -> None:
    """Say so to oneDNN, which asks the environment at its first product, unless the environment has its own say."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", PRODUCTS_KEPT)


def hand_back_freed_memory() -> bool:
    """malloc_trim(3); returns whether anything was handed back. Does nothing where the C library has no such call."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False
